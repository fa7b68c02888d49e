"""Which routes there are. Whatever isn't listed is denied, whoever adds it to the engine.

Paths are compared as the engine's own router sees them (decoded, without ``root_path``) and
exactly: ``//v1``, a trailing slash, another case or a dot segment is another route, and unknown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from prism.http.errors import MethodNotAllowed, NotModerated
from prism.http.family import Family

HEALTH = "/prism/health"
METRICS = "/prism/metrics"
MODERATIONS = "/v1/moderations"

ENGINE_HEALTH = frozenset({"/health", "/ping"})
"""The engine's own health routes; they answer 503 while a layer isn't live."""

_GET = ("GET", "HEAD")

OWN: dict[str, tuple[str, ...]] = {HEALTH: _GET, METRICS: _GET, MODERATIONS: ("POST",)}
"""What PRISM answers itself, whatever the engine has there."""

STORED = re.compile(r"/v1/responses/(?!render$)([A-Za-z0-9_-]{1,128})(?:/(cancel|input_items))?")
"""The routes of one stored response, which PRISM answers itself, too."""
_STORED = {None: ("GET", "DELETE"), "cancel": ("POST",), "input_items": ("GET",)}

SAFE: dict[str, tuple[str, ...]] = {
    # Figures and names that no model wrote.
    "/health": _GET,
    "/ping": (*_GET, "POST"),
    "/version": _GET,
    "/load": _GET,
    "/metrics": _GET,
    "/metrics/": _GET,
    "/v1/models": _GET,
    "/api/tags": _GET,
    "/api/version": _GET,
    "/docs": _GET,
    "/docs/oauth2-redirect": _GET,
    "/redoc": _GET,
    "/openapi.json": _GET,
    # A client's own text in another notation.
    "/tokenize": ("POST",),
    "/detokenize": ("POST",),
    "/extras/tokenize": ("POST",),
    "/extras/tokenize/count": ("POST",),
    "/extras/detokenize": ("POST",),
}


_POST = ("POST",)
ADMIN: dict[str, tuple[str, ...]] = {
    # vLLM's
    "/reset_prefix_cache": _POST,
    "/reset_mm_cache": _POST,
    "/reset_encoder_cache": _POST,
    "/sleep": _POST,
    "/wake_up": _POST,
    "/is_sleeping": _GET,
    "/release_kv_cache_memory": _POST,
    "/pause": _POST,
    "/resume": _POST,
    "/is_paused": _GET,
    "/abort_requests": _POST,
    "/inference/v1/abort_requests": _POST,
    "/start_profile": _POST,
    "/stop_profile": _POST,
    "/v1/load_lora_adapter": _POST,
    "/v1/unload_lora_adapter": _POST,
    "/scale_elastic_ep": _POST,
    "/is_scaling_elastic_ep": _POST,
    "/server_info": _GET,
    "/tokenizer_info": _GET,
    "/kv_event_sources": _GET,
    # llama-server's
    "/slots": _GET,
    "/props": (*_GET, "POST"),
    "/lora-adapters": (*_GET, "POST"),
    "/models": _GET,
    "/models/load": _POST,
    "/models/unload": _POST,
    # Ollama's
    "/api/show": _POST,
    "/api/ps": _GET,
    "/api/pull": _POST,
    "/api/push": _POST,
    "/api/create": _POST,
    "/api/copy": _POST,
    "/api/delete": ("DELETE",),
}
"""What changes or shows an engine: for the operator alone. Routes that can generate are not here:
``/collective_rpc`` calls any method of a worker, ``/slots`` with an id restores a conversation."""


@dataclass(frozen=True, slots=True)
class Route:
    """What to do with a request. ``family`` is set on routes whose text is moderated."""

    path: str
    family: Family | None = None
    own: bool = False
    preflight: bool = False
    stored: bool = False
    admin: bool = False


class Table:
    """All routes of one server."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._moderated = {path: family for family in families for path in family.paths}

    def family(self, path: str) -> Family | None:
        """Return the API family of a path, whatever is asked of it."""
        return self._moderated.get(path)

    def find(self, path: str, method: str, *, cors_preflight: bool = False) -> Route:
        """Return the route. Raises :class:`NotModerated` or :class:`MethodNotAllowed`."""
        family = self._moderated.get(path)
        stored = STORED.fullmatch(path)
        if family is not None:
            allowed: tuple[str, ...] = ("POST",)
        elif stored is not None:
            allowed = _STORED[stored[2]]
        elif path in OWN:
            allowed = OWN[path]
        elif path in SAFE:
            allowed = SAFE[path]
        elif path in ADMIN:
            allowed = ADMIN[path]
        else:
            raise NotModerated(
                f"{method[:16]} {path[:256]!r} is not covered by this server's moderation, so it "
                "is denied; see the list of routes in PRISM's docs/http.md",
                code="route_not_moderated",
            )
        if method == "OPTIONS" and cors_preflight:
            return Route(path, preflight=True)
        if method not in allowed:
            raise MethodNotAllowed(
                f"{path} does not take {method[:16]}",
                code="method_not_allowed",
                headers={"allow": ", ".join(allowed)},
            )
        return Route(path, family, own=path in OWN, stored=stored is not None, admin=path in ADMIN)
