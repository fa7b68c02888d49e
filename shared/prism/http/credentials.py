"""What a request says to show whose it is: keys in headers, one of them the operator's."""

from __future__ import annotations

import hmac

from prism.http.asgi import Scope, headers
from prism.http.errors import NotModerated, Unauthorised

ADMIN_HEADER = b"x-prism-admin-key"
"""Where the operator's key may stand instead of in ``Authorization``."""

CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key", ADMIN_HEADER})
"""Headers that never go on to the engine where there are tenants."""


def credential(scope: Scope) -> str | None:
    """Return the API key of a request: a bearer token, ``x-api-key`` or ``api-key``.

    Raises :class:`Unauthorised` where there are several: which one counts must not be a guess.
    """
    given = {text.strip() for name in (b"x-api-key", b"api-key") for text in headers(scope, name)}
    for text in headers(scope, b"authorization"):
        scheme, _, token = text.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise unauthorised("send the API key as a bearer token", "invalid_api_key")
        given.add(token.strip())
    given.discard("")
    if len(given) > 1:
        raise unauthorised("the request carries several API keys", "several_api_keys")
    return given.pop() if given else None


def check_operator(scope: Scope, wanted: str | None) -> None:
    """Let a request pass that carries the operator's key.

    Raises :class:`~prism.http.errors.NotModerated` for any other, and where there is none.
    """
    given = {text.strip() for text in headers(scope, ADMIN_HEADER)}
    for text in headers(scope, b"authorization"):
        scheme, _, token = text.strip().partition(" ")
        if scheme.lower() == "bearer":
            given.add(token.strip())
    fine = [
        wanted is not None
        and hmac.compare_digest(text.encode("latin-1", "replace"), wanted.encode("latin-1"))
        for text in given
    ]
    if not any(fine):
        raise NotModerated(
            f"{scope['path'][:256]!r} changes or shows the server, so it needs the operator's "
            "key; see PRISM's docs/http.md",
            code="operator_only",
        )


def unauthorised(message: str, code: str) -> Unauthorised:
    """Return the 401 that says which scheme is spoken here."""
    return Unauthorised(message, code=code, headers={"www-authenticate": "Bearer"})
