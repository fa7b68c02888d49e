"""Every error a client of the text layer can cause, and how it looks on the wire.

``HttpError``
├── ``BadRequest``        400  the body is not what the API's contract says
│   └── ``ContentFiltered``    what was sent is blocked, on routes whose answers say no words
├── ``Unauthorised``      401  a key is wanted, the tenants' or the engine's, and this is not one
├── ``NotModerated``      403  no rule of the text layer covers this route
├── ``TenantDisabled``    403  the key is right, and the operator has switched its tenant off
├── ``NotFound``          404  no such stored response, or not this tenant's
├── ``MethodNotAllowed``  405
├── ``BodyTimeout``       408
├── ``TooLarge``          413
├── ``UnsupportedBody``   415  encodings and media types that can't be judged
├── ``TooManyRequests``   429  the tenant has used up what it may use for now
├── ``UpstreamShape``     502  the engine said something that can't be judged
├── ``UpstreamDown``      502  the proxy's upstream isn't there, or broke off
├── ``Unavailable``       503  a layer isn't live, or every worker is busy
└── ``UpstreamSlow``      504  the proxy's upstream took too long

All carry the OpenAI error shape, so that the official clients raise their own typed exceptions.
"""

from __future__ import annotations

import json
import math
from typing import Any

from prism.http.asgi import Headers, Send


class HttpError(Exception):
    """An answer other than the one asked for. ``str()`` is what the client reads."""

    status = 500
    type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Return the error in the OpenAI shape."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class BadRequest(HttpError):
    """The body breaks the API's contract, or asks for what moderation can't cover."""

    status = 400
    type = "invalid_request_error"


class ContentFiltered(BadRequest):
    """Blocked, in an API whose answers (vectors, scores, transcripts) have no place to say so.

    Status and code are those of the hosted API that filters in this family's form.
    """

    def __init__(self, message: str, *, param: str | None) -> None:
        super().__init__(message, param=param, code="content_filter")


class Unauthorised(HttpError):
    """There are tenants, or the engine has an API key, and the request carries no such key."""

    status = 401
    type = "authentication_error"


class NotModerated(HttpError):
    """Denied by default: nothing here knows how to judge what this route takes or gives."""

    status = 403
    type = "permission_error"


class TenantDisabled(HttpError):
    """The operator has switched the tenant off."""

    status = 403
    type = "permission_error"


class NotFound(HttpError):
    """There is no such stored response, or it is somebody else's: the two look alike."""

    status = 404
    type = "invalid_request_error"


class MethodNotAllowed(HttpError):
    """A moderated route, asked with a method it does not have."""

    status = 405
    type = "invalid_request_error"


class BodyTimeout(HttpError):
    """The client took too long to send its body."""

    status = 408
    type = "invalid_request_error"


class TooLarge(HttpError):
    """The body, or the text in it, is over the configured limit."""

    status = 413
    type = "invalid_request_error"


class UnsupportedBody(HttpError):
    """A media type, charset or content encoding that is not read here."""

    status = 415
    type = "invalid_request_error"


class TooManyRequests(HttpError):
    """The tenant is over one of its rates; it may come back after ``retry_after`` seconds."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, retry_after: float) -> None:
        seconds = max(1, math.ceil(retry_after))
        super().__init__(message, code="rate_limit_exceeded", headers={"retry-after": str(seconds)})


class UpstreamShape(HttpError):
    """The engine's answer has a form that can't be judged, so none of it goes out."""

    status = 502
    type = "upstream_error"


class UpstreamDown(HttpError):
    """The server behind the proxy can't be reached, or broke off its answer."""

    status = 502
    type = "upstream_error"


class UpstreamSlow(HttpError):
    """The server behind the proxy said nothing for too long."""

    status = 504
    type = "upstream_error"


class Unavailable(HttpError):
    """Not now: a layer that the policy needs isn't live, or the judges are all busy."""

    status = 503
    type = "service_unavailable_error"

    def __init__(self, message: str, *, code: str, retry_after: int) -> None:
        super().__init__(message, code=code, headers={"retry-after": str(retry_after)})


async def send_json(
    send: Send, status: int, body: Any, headers: Headers | dict[str, str] = ()
) -> None:
    """Send one whole JSON answer."""
    pairs = headers.items() if isinstance(headers, dict) else headers
    payload = dumps(body)
    raw = [(_raw(k), _raw(v)) for k, v in pairs]
    raw += [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(payload)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": payload})


async def send_error(send: Send, error: HttpError, headers: dict[str, str] | None = None) -> None:
    """Send ``error`` as the whole answer."""
    await send_json(send, error.status, error.body(), {**error.headers, **(headers or {})})


# ``json.dumps`` makes one of these at every call.
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_ESCAPED = json.JSONEncoder(separators=(",", ":"))


def dumps(value: Any) -> bytes:
    """Encode compact JSON; text that is no valid Unicode is escaped instead of failing."""
    try:
        return _COMPACT.encode(value).encode()
    except UnicodeEncodeError:
        return _ESCAPED.encode(value).encode()


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
