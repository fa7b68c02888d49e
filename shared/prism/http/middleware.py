"""The text layer: one pure ASGI middleware in front of any server that speaks OpenAI's APIs.

A request passes, in this order: the table of routes (deny by default), its tenant, the self-test's
gate, the body's reader, its API family, p(x), the engine, q(Y), its API family again. Here it is
taken in and shown to its room: :mod:`~prism.http.generation` for what a model answers,
:mod:`~prism.http.own` for what PRISM answers, :mod:`~prism.http.passing` for the rest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from prism.config import ConfigError, Settings
from prism.documents import Problem
from prism.http import own, passing
from prism.http.asgi import ASGIApp, ClientGone, Message, Receive, Scope, Send, header, route_path
from prism.http.books import Books
from prism.http.cors import readable
from prism.http.dialect import dialect_of
from prism.http.errors import HttpError, NotModerated, send_json
from prism.http.families import FAMILIES
from prism.http.family import Detokenise, Reading
from prism.http.generation import moderate
from prism.http.routes import HEALTH, MODERATIONS, Route, Table
from prism.http.selftest import SCOPE_KEY, SelfTest, Timing
from prism.http.server import Server, stamped
from prism.http.tenancy import Tenancy
from prism.record.metrics import Metrics
from prism.types import Stage

API_KEY_ENV = "PRISM_ENGINE_API_KEY"
"""The engine's own API key, where its adapter can't tell it: the self-test needs one to get in."""


class PrismMiddleware:
    """Moderates the ASGI application it wraps.

    ``layers`` names what is installed: ``"text"`` always, and ``"token"`` where an adapter put a
    logits processor into the engine. ``engine`` is ``"vllm"``, ``"llamacpp"`` or ``"proxy"``.
    ``detokenise`` turns token ids into text, special tokens included; without it prompts of ids
    are refused. ``processed_logprobs`` states that the engine shows probabilities after the token
    layer's mask, so that alternatives to the sampled token may be shown. ``api_keys`` are the
    engine's: without tenants, requests that carry none of them are refused before they are judged;
    with tenants, the tenant's key is what counts and the first of these is sent to the engine.

    Raises ``ConfigError`` when ``settings`` are left out and the environment's are wrong, and
    ``AuditError`` when the audit log that they ask for can't be opened.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings | None = None,
        layers: Sequence[str] = ("text",),
        engine: str = "proxy",
        detokenise: Detokenise | None = None,
        processed_logprobs: bool = False,
        api_keys: Sequence[str] = (),
        timing: Timing | None = None,
    ) -> None:
        self._app = app
        settings = settings if settings is not None else Settings.from_env()
        if "token" not in layers:
            _require_no_watermark(settings)
        limits = settings.limits
        engine_key = api_keys[0] if api_keys else os.environ.get(API_KEY_ENV)
        self._table = Table(FAMILIES)
        self.metrics = Metrics()
        tenancy = Tenancy(
            settings,
            reading=Reading(limits.max_prompt_chars, limits.max_choices, engine, detokenise),
            metrics=self.metrics,
            api_keys=api_keys,
            engine_key=engine_key,
            token_layer="token" in layers,
        )
        # What is compiled for prompts and for the tokens of answers is compiled now: a client would
        # have to wait for it.
        moderator = tenancy.server().moderator
        moderator.found(Stage.PROMPT, "")
        moderator.scanner(Stage.OUTPUT).token(b" ")
        self.selftest = SelfTest(
            moderated=self._http,
            inner=app,
            policies=(settings.policy, settings.strictest),
            layers=layers,
            stamp=lambda: stamped(tenancy.server()),
            busy=lambda: self._server.serial and self._server.active > 0,
            api_key=engine_key,
            metrics=self.metrics,
            timing=timing or Timing(),
        )
        self._server = Server(
            app,
            settings,
            tuple(layers),
            tenancy,
            self.metrics,
            Books.open(settings.audit, self.metrics),
            self.selftest,
            serial=engine == "llamacpp",
            processed_logprobs=processed_logprobs,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif kind == "http":
            # A probe is told by an object of this process; nothing from a network can be one.
            scope.pop(SCOPE_KEY, None)
            self.selftest.start(scope)
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await passing.deny_websocket(scope, receive, send)
        else:
            raise NotModerated(f"connections of type {kind!r} are not moderated")

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched_send(message: Message) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self.selftest.start(scope)

        async def watched_receive() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.selftest.stop()
                await self._server.books.close()
            return message

        await self._app(scope, watched_receive, watched_send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = "none"
        path = route_path(scope)
        dialect = dialect_of(self._table.family(path))
        ours = readable(self._app, scope, send)
        try:
            route = self._table.find(path, scope["method"], cors_preflight=_is_preflight(scope))
            name = _metric_name(route)
            await self._route(route, scope, receive, send, ours)
        except ClientGone:
            self.metrics.request(name, "client_gone")
        except HttpError as error:
            self.metrics.request(name, f"refused_{error.status}")
            await send_json(ours, error.status, dialect.error(error.body()), error.headers)

    async def _route(
        self, route: Route, scope: Scope, receive: Receive, send: Send, ours: Send
    ) -> None:
        server = self._server
        if route.preflight:
            await passing.pass_on(server, route, scope, receive, send)
        elif route.family is not None:
            await moderate(server, route.family, scope, receive, send, ours)
        elif route.stored:
            await own.stored(server, scope, ours)
        elif route.path == MODERATIONS:
            await own.moderation(server, scope, receive, ours)
        elif route.path == HEALTH:
            await own.health(server, ours)
        elif route.own:
            await own.metrics(server, scope, ours)
        else:
            await passing.pass_on(server, route, scope, receive, send)


def _metric_name(route: Route) -> str:
    if route.family is not None:
        return route.family.name
    if route.stored:
        return "responses"
    return "moderations" if route.path == MODERATIONS else "other"


def _is_preflight(scope: Scope) -> bool:
    asked = header(scope, b"access-control-request-method")
    return asked is not None and header(scope, b"origin") is not None


__all__ = ["API_KEY_ENV", "PrismMiddleware"]


def _require_no_watermark(settings: Settings) -> None:
    """Raise ``ConfigError`` where a policy demands what only a sampler can do."""
    wanted = [p.id for p in settings.policies.values() if p.watermark == "required"]
    message = "the policy demands a watermark, and nothing in front of an engine can carry one"
    fix = "serve the model with a PRISM plugin in the engine, or write `watermark: off`"
    if wanted:
        raise ConfigError(Problem(name, 0, 0, "watermark", message, fix) for name in wanted)
