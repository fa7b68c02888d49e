"""A guard for Guardrails AI's own server, with a validator as its documentation shows them.

Its regex and word validators are in its hub, which needs an account, so this one is our own. The
server offers chat completions, at ``/guards/house/openai``.
"""

from __future__ import annotations

import re
from typing import Any

from guardrails import AsyncGuard  # type: ignore[import-not-found]  # in the peer's environment
from guardrails.validators import (  # type: ignore[import-not-found]
    FailResult,
    PassResult,
    Validator,
    register_validator,
)

_WORDS = re.compile(r"\b(gibbous\s+teapot|marzipan\s+gasket)\b", re.IGNORECASE)


@register_validator(name="house/words", data_type="string")
class Words(Validator):  # type: ignore[misc]
    """Fails on the two phrases."""

    def validate(self, value: Any, metadata: dict[str, Any]) -> Any:
        """Return the result for one piece of text."""
        if _WORDS.search(value):
            return FailResult(error_message="blocked")
        return PassResult()


house = AsyncGuard(id="house", name="house")
house = house.use(Words(on_fail="exception"), on="messages")
house = house.use(Words(on_fail="exception"), on="output")
