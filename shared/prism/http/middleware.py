"""The text layer: one pure ASGI middleware in front of any server that speaks OpenAI's APIs.

A request passes, in this order: the table of routes (deny by default), its tenant, the self-test's
gate, the body's reader, its API family, p(x), the engine, q(Y), its API family again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from prism.config import Settings
from prism.http import moderations
from prism.http.asgi import (
    ASGIApp,
    ClientGone,
    Message,
    Receive,
    Scope,
    Send,
    header,
    route_path,
)
from prism.http.body import check_media_type, parse_object, read_body
from prism.http.cors import readable
from prism.http.dialect import dialect_of
from prism.http.errors import (
    HttpError,
    NotModerated,
    Unavailable,
    send_error,
    send_json,
)
from prism.http.exchange import Exchange
from prism.http.families import FAMILIES
from prism.http.family import Call, Detokenise, Family, Reading
from prism.http.judge import Judge
from prism.http.locales import pick
from prism.http.pool import Pool
from prism.http.routes import ENGINE_HEALTH, HEALTH, MODERATIONS, Route, Table
from prism.http.selftest import SCOPE_KEY, Probe, SelfTest, Timing
from prism.http.stored import Stored
from prism.http.tenancy import Guest, Tenancy
from prism.moderator import Session
from prism.record import metrics as exposition
from prism.record.metrics import Metrics
from prism.record.receipt import HEADER, Receipt
from prism.steer import stamp
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

    Raises ``ConfigError`` when ``settings`` are left out and the environment's are wrong.
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
        self._settings = settings if settings is not None else Settings.from_env()
        self._layers = tuple(layers)
        self._processed_logprobs = processed_logprobs
        limits = self._settings.limits
        self._table = Table(FAMILIES)
        self._pool = Pool()
        self._stored = Stored()
        self._active = 0
        self._serial = engine == "llamacpp"
        self.metrics = Metrics()
        engine_key = api_keys[0] if api_keys else os.environ.get(API_KEY_ENV)
        self._tenancy = Tenancy(
            self._settings,
            reading=Reading(limits.max_prompt_chars, limits.max_choices, engine, detokenise),
            metrics=self.metrics,
            api_keys=api_keys,
            engine_key=engine_key,
            token_layer="token" in self._layers,
        )
        self.selftest = SelfTest(
            moderated=self._http,
            inner=app,
            policies=(self._settings.policy, self._settings.strictest),
            layers=self._layers,
            stamp=lambda: _stamped(self._tenancy.server()),
            busy=lambda: self._serial and self._active > 0,
            api_key=engine_key,
            metrics=self.metrics,
            timing=timing or Timing(),
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
            await _deny_websocket(scope, receive, send)
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
            return message

        await self._app(scope, watched_receive, watched_send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        family = "none"
        dialect = dialect_of(self._table.family(route_path(scope)))
        ours = readable(self._app, scope, send)
        try:
            route = self._table.find(
                route_path(scope), scope["method"], cors_preflight=_is_preflight(scope)
            )
            family = route.family.name if route.family else "other"
            if route.family is not None:
                await self._moderate(route.family, scope, receive, send, ours)
            elif route.stored:
                family = "responses"
                await self._retrieve(scope, ours)
            elif route.path == MODERATIONS:
                family = "moderations"
                await self._moderations(scope, receive, ours)
            elif route.own:
                await self._own(route, ours)
            else:
                await self._pass(route, scope, receive, send)
        except ClientGone:
            self.metrics.request(family, "client_gone")
        except HttpError as error:
            self.metrics.request(family, f"refused_{error.status}")
            await send_json(ours, error.status, dialect.error(error.body()), error.headers)

    async def _own(self, route: Route, send: Send) -> None:
        if route.path != HEALTH:
            headers_out = {"content-type": exposition.CONTENT_TYPE}
            await _send_bytes(send, 200, self.metrics.render(), headers_out)
            return
        await self.selftest.refresh(wait=0.5)
        policy = self._settings.policy
        report = {**self.selftest.report(), "policy": policy.digest, "policy_id": policy.id}
        await send_json(send, 200 if self.selftest.ok else 503, report)

    async def _retrieve(self, scope: Scope, send: Send) -> None:
        """Answer for a stored response: from what went out, never from the engine's store."""
        guest = await self._tenancy.admit(scope)
        if not self.selftest.ok:
            raise self._red()
        body = self._stored.answer(scope["method"], route_path(scope), guest)
        self.metrics.request("responses", "passed")
        await send_json(send, 200, body)

    async def _moderations(self, scope: Scope, receive: Receive, send: Send) -> None:
        guest = await self._tenancy.admit(scope)
        if not self.selftest.ok:
            raise self._red()
        raw = await read_body(scope, receive, guest.max_body_bytes)
        check_media_type(scope)
        call, inputs = await self._pool.run(
            len(raw), lambda: moderations.read(parse_object(raw), guest.reading)
        )
        sessions = [guest.session() for _ in inputs]
        guest.begin(call)
        try:
            work = moderations.weight(call, inputs)
            answer = await self._pool.run(work, lambda: moderations.answer(inputs, sessions))
        finally:
            guest.end(call, 0)
        self.metrics.request("moderations", "passed")
        self.metrics.text(Stage.PROMPT, call.chars)
        for session in sessions:
            self.metrics.decision(session.decision)
        await send_json(send, 200, answer, {"x-prism-id": sessions[0].id})

    async def _pass(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a route without generated text to the engine."""
        if route.path in ENGINE_HEALTH and not self.selftest.ok:
            raise self._red()
        guest = await self._tenancy.visit(route.path, scope)
        if scope["method"] == "POST":
            body = await read_body(scope, receive, guest.max_body_bytes)
            receive = _replay(body, receive)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(guest.forward(scope), receive, watched)
        except HttpError:
            # A proxy's upstream broke off. After the head no error can be told; the server in
            # front closes the connection, and the client sees that something is missing.
            if not started:
                raise

    async def _moderate(
        self, family: Family, scope: Scope, receive: Receive, send: Send, ours: Send
    ) -> None:
        probe = scope.get(SCOPE_KEY)
        if not isinstance(probe, Probe):
            probe = None
        guest = await self._tenancy.admit(scope) if probe is None else self._tenancy.server()
        if probe is None and not self.selftest.ok:
            raise self._red()
        raw = await read_body(scope, receive, guest.max_body_bytes)
        check_media_type(scope)
        call = await self._pool.run(len(raw), lambda: family.read(parse_object(raw), guest.reading))
        self._stored.join(call, guest)
        session = guest.session(pick(header(scope, b"accept-language"), guest.policy.messages))
        guest.begin(call)
        judge: Judge | None = None
        # The self-test's own requests don't make the server busy.
        weight = 1 if probe is None else 0
        self._count(weight)
        try:
            if probe is None and self._serial:
                await self.selftest.pause()
            if probe is None or not probe.skip_prompt:
                decision = await self._pool.run(
                    call.chars, lambda: session.check_prompt(call.messages)
                )
                if decision.blocked:
                    await self._refuse(family, call, session, ours)
                    self._note(family, session, call, "blocked_prompt", None, probe)
                    return
            judge = self._judge(session, guest)
            exchange = Exchange(
                probe.inner if probe is not None else self._app,
                guest.forward(scope),
                receive,
                send,
                ours,
                family=family,
                call=call,
                judge=judge,
                pool=self._pool,
                receipt=lambda: self._receipt(session, call, judge).compact(),
            )
            with _stamped(guest):
                await exchange.run()
            outcome = "blocked_output" if judge.blocked else exchange.outcome
            if judge.refused and not judge.blocked:
                outcome = "refused_by_token_layer"
            self._note(family, session, call, outcome, judge, probe)
        finally:
            self._count(-weight)
            guest.end(call, judge.scanned.total() if judge is not None else 0)

    async def _refuse(self, family: Family, call: Call, session: Session, send: Send) -> None:
        message = session.message
        receipt = self._receipt(session, call, None).compact()
        if not call.stream:
            body = family.refusal(call, session.id, message)
            await send_json(send, 200, body, {HEADER: receipt})
            return
        *events, final = family.refusal_stream(call, session.id, message)
        dialect = dialect_of(family)
        payload = b"".join(map(dialect.encode, events)) + dialect.last(final, receipt)
        fields = {"content-type": dialect.content_type, "x-prism-id": session.id}
        await _send_bytes(send, 200, payload, fields)

    def _judge(self, session: Session, guest: Guest) -> Judge:
        return Judge(
            session,
            check=guest.moderator.check_output,
            refusals=guest.refusals,
            keep_alternatives=self._processed_logprobs,
            metrics=self.metrics,
        )

    def _receipt(self, session: Session, call: Call, judge: Judge | None) -> Receipt:
        decision = session.decision
        prompt_ran = any(tier.startswith(Stage.PROMPT.value) for tier in decision.tiers)
        channels = {Stage.PROMPT.value: call.chars} if prompt_ran else {}
        blocked = call.choices
        stage: str | None = Stage.PROMPT.value
        if judge is not None:
            channels |= judge.scanned
            blocked = len(judge.blocked | judge.refused)
            stage = Stage.OUTPUT.value if judge.blocked else "token" if judge.refused else None
        return Receipt.of(
            decision,
            id=session.id,
            tenant=session.tenant,
            layers=self._layers,
            stage=stage,
            channels=channels,
            unread=call.unread,
            choices=call.choices,
            blocked_choices=blocked,
        )

    def _note(
        self,
        family: Family,
        session: Session,
        call: Call,
        outcome: str,
        judge: Judge | None,
        probe: Probe | None,
    ) -> None:
        if probe is not None:
            return
        self.metrics.request(family.name, outcome)
        self.metrics.decision(session.decision)
        self.metrics.text(Stage.PROMPT, call.chars)
        if judge is not None:
            self.metrics.text(Stage.OUTPUT, judge.scanned.total(), judge.held)

    def _red(self) -> Unavailable:
        names = ", ".join(self.selftest.missing)
        return Unavailable(
            f"not serving: layer not live: {names}; see {HEALTH}",
            code="layer_not_live",
            retry_after=5,
        )

    def _count(self, change: int) -> None:
        self._active += change
        self.metrics.active(change)


@contextlib.contextmanager
def _stamped(guest: Guest) -> Iterator[None]:
    """Let the token layer know whose request the calls made inside are, under which policy."""
    token = stamp.current.set(guest.stamp)
    try:
        yield
    finally:
        stamp.current.reset(token)


def _is_preflight(scope: Scope) -> bool:
    asked = header(scope, b"access-control-request-method")
    return asked is not None and header(scope, b"origin") is not None


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _send_bytes(send: Send, status: int, body: bytes, fields: dict[str, str]) -> None:
    raw = [(key.encode(), value.encode("latin-1")) for key, value in fields.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def _deny_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    if message["type"] != "websocket.connect":
        return
    error = NotModerated(
        f"WebSocket {route_path(scope)[:256]!r} is not covered by this server's moderation, so it "
        "is denied",
        code="route_not_moderated",
    )
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": "not moderated"})
        return

    async def as_websocket(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    await send_error(as_websocket, error)


__all__ = ["API_KEY_ENV", "PrismMiddleware"]
