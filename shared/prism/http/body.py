"""Reading a request's body: bounded, in time and size, and only as the JSON that RFC 8259 means.

The engine never parses what the client sent. It gets this module's own rendering of what was
judged, so that no difference between two JSON readers can hide text from one of them.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import Any

import anyio

from prism.http.asgi import ClientGone, Receive, Scope, header, headers
from prism.http.errors import BadRequest, BodyTimeout, TooLarge, UnsupportedBody

MAX_DEPTH = 64
"""Deepest nesting read. Tool schemas rarely pass 20; Python's own readers break near 1000."""

BODY_TIMEOUT = 60.0
"""Seconds a client may take to send its body."""

DRAIN_SECONDS = 10.0
DRAIN_BYTES = 256_000_000
# A refused upload is read on (and dropped) for a while: closing at once would reset the
# connection, and the client would see that instead of the reason.


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Return the whole body. Raises :class:`TooLarge` as soon as it is known to be over."""
    _check_encoding(scope)
    announced = _content_length(scope)
    if announced is not None and announced > limit:
        if header(scope, b"expect") is None:  # else the client waits for our word and sends nothing
            await _drain(receive)
        raise _too_large(scope, limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT) as timer:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                part: bytes = message.get("body", b"")
                size += len(part)
                if size > limit:
                    parts.clear()
                    if message.get("more_body", False):
                        await _drain(receive)
                    raise _too_large(scope, limit)
                parts.append(part)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        if not timer.expired():
            raise
        raise BodyTimeout(
            f"the request body did not arrive within {BODY_TIMEOUT:.0f} s", code="body_timeout"
        ) from None
    return b"".join(parts)


def check_media_type(scope: Scope) -> None:
    """Raise :class:`UnsupportedBody` unless the body is announced as JSON in UTF-8."""
    values = headers(scope, b"content-type")
    if len(values) > 1:
        raise UnsupportedBody("several content-type headers", code="unsupported_media_type")
    kind, _, rest = (values[0] if values else "").partition(";")
    kind = kind.strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise UnsupportedBody(
            f"content-type {kind or '(none)'!r} is not read here; send application/json",
            code="unsupported_media_type",
        )
    for parameter in rest.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip(' "').lower() not in _UTF8:
            raise UnsupportedBody(
                f"charset {value.strip()!r} is not read here; send UTF-8",
                code="unsupported_charset",
            )


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in ``raw``. Raises :class:`BadRequest` that says what is wrong."""
    if not raw.strip():
        raise BadRequest("the request body is empty; send a JSON object", code="empty_body")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"the request body is not valid UTF-8 (byte {error.start})", code="invalid_utf8"
        ) from None
    if text.startswith("\ufeff"):
        raise BadRequest(
            "the request body is not valid JSON: it begins with a byte order mark (BOM)",
            code="invalid_json",
        )
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRequest(
            f"the request body is not valid JSON: {error.msg} at line {error.lineno}, "
            f"column {error.colno}",
            code="invalid_json",
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # an integer of thousands of digits
        if isinstance(error, _Rejected):
            raise BadRequest(str(error), code="invalid_json") from None
        raise BadRequest("a number in the request body is too long", code="invalid_json") from None
    if not isinstance(value, dict):
        raise BadRequest("the request body must be a JSON object", code="invalid_json")
    _check_tree(value)
    return value


def _check_encoding(scope: Scope) -> None:
    for value in headers(scope, b"content-encoding"):
        if value.strip().lower() not in ("", "identity"):
            raise UnsupportedBody(
                f"content-encoding {value!r} is not read here; send the body as it is",
                code="unsupported_content_encoding",
            )


def _content_length(scope: Scope) -> int | None:
    values = headers(scope, b"content-length")
    if not values:
        return None
    if len(set(values)) > 1 or not (values[0].isascii() and values[0].isdigit()):
        raise BadRequest("the content-length header is not one number", code="invalid_header")
    return int(values[0][:20])


async def _drain(receive: Receive) -> None:
    until = time.monotonic() + DRAIN_SECONDS
    size = 0
    with anyio.move_on_after(DRAIN_SECONDS):
        while size < DRAIN_BYTES and time.monotonic() < until:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            size += len(message.get("body", b""))
            if not message.get("more_body", False):
                return


def _too_large(scope: Scope, limit: int) -> TooLarge:
    # What is left unread of an HTTP/1 body makes the connection useless for another request.
    close = {"connection": "close"} if scope.get("http_version", "1.1").startswith("1") else {}
    return TooLarge(
        f"the request body is over the limit of {limit} bytes",
        code="body_too_large",
        headers=close,
    )


def _too_deep() -> BadRequest:
    return BadRequest(
        f"the request body nests deeper than {MAX_DEPTH} levels", code="nesting_too_deep"
    )


def _check_tree(root: dict[str, Any]) -> None:
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                _check_text(*node)
                below.extend(node.values())
            elif isinstance(node, list):
                below.extend(node)
            elif isinstance(node, str):
                _check_text(node)
        if not below:
            return
        level = below
    raise _too_deep()


def _check_text(*texts: str) -> None:
    for text in texts:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise BadRequest(
                    "a string in the request body holds half a surrogate pair", code="invalid_utf8"
                ) from None


class _Rejected(ValueError):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Rejected(f"the key {key[:64]!r} appears twice in one JSON object")
            seen.add(key)
    return made


def _constant(name: str) -> float:
    raise _Rejected(f"{name} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Rejected(f"the number {text[:32]} is out of range")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float
)  # ``json.loads`` would make one at each call
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii"})
