"""Errors as the server's clients see them.

llama_cpp.server answers 500 to requests that are merely wrong, and simply stops a stream whose
generation failed. Here what a client can mend is a 400, and a stream says why it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from fastapi.exceptions import RequestValidationError
from llama_cpp.server import app as upstream
from llama_cpp.server.errors import ErrorResponse, RouteErrorHandler

from llamacpp_prism.errors import ModerationFailedError

_log = logging.getLogger("prism.llamacpp")
_upstream_explain = RouteErrorHandler.error_message_wrapper
_upstream_publish = upstream.get_event_publisher


def install() -> None:
    """Put these answers in the place of the server's own."""
    RouteErrorHandler.error_message_wrapper = explain
    upstream.get_event_publisher = _publish


def explain(self: Any, error: Exception, body: Any = None) -> tuple[int, ErrorResponse]:
    """Return status and body for an error that a request met."""
    known: Any = RouteErrorHandler.pattern_and_formatters
    if body is not None and any(pattern.search(str(error)) for pattern in known):
        answer: tuple[int, ErrorResponse] = _upstream_explain(self, error, body)
        return answer
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        param = str(first["loc"][1]) if len(first["loc"]) > 1 else None
        return _wrong(f"{param or 'the request'}: {first['msg']}", param)
    if isinstance(getattr(body, "prompt", None), list) and len(body.prompt) > 1:
        return _wrong("prompt: this server takes one prompt in a request", "prompt")
    if isinstance(error, ModerationFailedError):
        _log.error("the token layer failed, and its request was ended", exc_info=error)
        return 500, _error(str(error), "server_error", None)
    if isinstance(error, ValueError):
        return _wrong(str(error), None)
    answer = _upstream_explain(self, error, body)
    return answer


async def _publish(*, llama_call: Callable[..., Any], body: Any, **rest: Any) -> None:
    def explained(llama: Any, **request: Any) -> Iterator[Any]:
        try:
            yield from llama_call(llama, **request)
        except Exception as error:
            yield {"error": explain(RouteErrorHandler, error, body)[1]}

    await _upstream_publish(llama_call=explained, body=body, **rest)


def _wrong(message: str, param: str | None) -> tuple[int, ErrorResponse]:
    return 400, _error(message, "invalid_request_error", param)


def _error(message: str, kind: str, param: str | None) -> ErrorResponse:
    made: ErrorResponse = {"message": message, "type": kind, "param": param, "code": None}
    return made
