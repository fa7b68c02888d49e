"""Why vLLM can't be run, or a request not taken, under moderation."""

from __future__ import annotations


class UnprotectedError(RuntimeError):
    """vLLM was asked to run in a way in which PRISM could not moderate what it generates."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(
            f"PRISM refuses to start: {reason}; {fix}. "
            "(To serve without moderation, use an environment without prism-serving.)"
        )


class UnmoderatableError(ValueError):
    """A request asks for something that can't be honoured under moderation; vLLM answers 400."""

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(f"{parameter} is refused by PRISM: {reason}")
