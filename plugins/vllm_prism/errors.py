"""Why vLLM can't be run, or a request not taken, under moderation."""

from __future__ import annotations


class UnprotectedError(RuntimeError):
    """vLLM was asked to run in a way in which PRISM could not moderate what it generates."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(
            f"PRISM refuses to start: {reason}; {fix}. "
            "(To serve without moderation, use an environment without prism-serving.)"
        )
