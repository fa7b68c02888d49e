"""``python -m prism.cli``: the same as ``prism``."""

from prism.cli import main

main()
