"""The text layer over HTTP: moderation in front of any OpenAI-compatible server."""

from __future__ import annotations

from prism.http.middleware import PrismMiddleware

__all__ = ["PrismMiddleware"]
