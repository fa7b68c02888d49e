"""Reproduces the score models that ``shared/prism/classify/data`` ships. Torch lives here alone."""
