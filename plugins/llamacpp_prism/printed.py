"""What the engine makes of the tokens: the text that is printed is held to the phrases, too.

Tokens are judged by the text that they spell. The engine then cuts that text: at a stop string,
which may stand within a word ("lanterns", stopped at "s"), and where it drops bytes that are no
characters, or that it decodes apart at the end of a stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prism.steer.guard import TokenGuard
from prism.steer.state import State


class Printed:
    """The text of one answer as it is handed out."""

    def __init__(self, guard: TokenGuard, locale: str | None = None) -> None:
        """``locale``: what the refusal is written in."""
        self._state = State(guard.output)
        self._message = guard.policy.message(locale)
        # A refusal may name what it refuses; nothing is to be held against it then.
        self._watched = not State(guard.output).read(self._message)
        self._begun = False

    def let_out(self, response: Any, echoed: int, reason: str) -> Iterator[Any]:
        """Yield ``response``, or in its place the refusal, which ends the answer.

        ``echoed``: characters of the prompt that its text begins with.
        """
        choice = response["choices"][0]
        if not self._watched or not self._state.read(choice["text"][echoed:]):
            self._begun = self._begun or bool(choice["text"])
            yield response
            return
        refusal = f"\n\n{self._message}" if self._begun else self._message
        refused = {**choice, "text": choice["text"][:echoed] + refusal, "logprobs": None}
        if choice["finish_reason"]:
            yield {**response, "choices": [{**refused, "finish_reason": reason}]}
            return
        # The last chunk of a stream has no text: what makes a chat of it drops that.
        yield {**response, "choices": [refused]}
        yield {**response, "choices": [{**refused, "text": "", "finish_reason": reason}]}
