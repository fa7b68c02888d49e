"""Which policy's token guard a request gets, for every model of one server."""

from __future__ import annotations

from typing import Any

from llamacpp_prism.engine import install
from llamacpp_prism.vocabulary import vocabulary_of
from prism.config import Settings
from prism.steer.guard import TokenGuard
from prism.steer.stamp import current
from prism.steer.watermark import key_for


class TokenLayer:
    """Guards each model with the policy that the middleware stamped, or else the strictest."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = key_for(settings.policies.values())

    def attach(self, llama: Any) -> Any:
        """Guard ``llama`` in place and return it. Compiles the policy now, not in a request."""
        vocabulary = vocabulary_of(llama)
        settings = self._settings
        for policy in (settings.policy, settings.strictest):
            TokenGuard.compile(policy, vocabulary)

        def choose() -> TokenGuard:
            # Requests run in worker threads, which get a copy of the request's context.
            stamp = current.get()
            stamped = settings.policies.get(stamp.digest) if stamp else None
            return TokenGuard.compile(stamped or settings.strictest, vocabulary)

        # The server validates its answers and knows no other reason; the text layer, which
        # recognises the refusal, puts "content_filter".
        return install(llama, choose, reason="stop", watermark_key=self._key)
