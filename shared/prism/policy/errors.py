"""What loading, checking or testing a policy can raise."""

from prism.documents import Problem, ProblemsError


class PolicyError(ProblemsError):
    """A policy or its tests are wrong; see ``problems``."""


__all__ = ["PolicyError", "Problem"]
