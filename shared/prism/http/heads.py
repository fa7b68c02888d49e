"""What of a request's head reaches the engine, and what of the engine's goes out."""

from __future__ import annotations

from collections.abc import Container

from prism.http.asgi import RawHeaders, Scope
from prism.http.errors import UpstreamShape
from prism.http.judge import Judge

OURS = b"x-prism-"
"""What only this server's own headers begin with."""

_AFRESH = frozenset(
    {
        b"content-length", b"transfer-encoding", b"content-type", b"content-encoding",
        b"accept-encoding", b"expect", b"range", b"if-range",
    }
)  # fmt: skip
# Of a request: its body is written anew, and its answer has to be readable and whole.

_DROPPED = frozenset(
    {
        b"content-length", b"content-encoding", b"transfer-encoding", b"connection", b"trailer",
        # Of the engine's answer, which isn't what goes out; a sum over it tells what was withheld.
        b"content-md5", b"digest", b"content-digest", b"repr-digest", b"etag", b"last-modified",
        b"content-range", b"accept-ranges", b"content-location", b"location", b"refresh",
    }
)  # fmt: skip
_PLAIN = frozenset(
    {
        b"date", b"server", b"vary", b"cache-control", b"keep-alive", b"x-request-id",
        b"x-accel-buffering", b"access-control-allow-origin", b"access-control-allow-credentials",
        b"access-control-expose-headers",
    }
)  # fmt: skip
# What servers write of themselves. Others may quote an answer.
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii"})


def forwarded(scope: Scope, content_type: bytes, size: int) -> Scope:
    """Return the scope that the engine sees, for a body of ``size`` bytes.

    Extensions let an application answer past ``send`` (a file by name, say), and a query is no part
    of these APIs: neither is passed on.
    """
    head = [
        (bytes(key), bytes(value))
        for key, value in scope.get("headers", ())
        if key.lower() not in _AFRESH and not key.lower().startswith(OURS)
    ]
    head += [
        (b"content-type", content_type),
        (b"content-length", str(size).encode()),
        (b"accept-encoding", b"identity"),
    ]
    return {**scope, "headers": head, "query_string": b"", "extensions": {}}


def passed(head: RawHeaders, judge: Judge, without: Container[bytes]) -> RawHeaders:
    """Return the headers (names in lower case) that go out, those in ``without`` aside."""
    return [
        pair
        for pair in head
        if pair[0] not in without
        and pair[0] not in _DROPPED
        and not pair[0].startswith(OURS)
        and (pair[0] in _PLAIN or judge.allows(b": ".join(pair).decode("latin-1")))
    ]


def require_utf8(content_type: str) -> None:
    """Raise :class:`UpstreamShape` for a text that a client would read in another charset."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        charset = value.strip(' "').lower()
        if name.strip().lower() == "charset" and charset not in _UTF8:
            raise UpstreamShape(
                f"the engine answered in {charset[:32]!r}, not UTF-8", code="upstream_charset"
            )
