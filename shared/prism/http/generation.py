"""One moderated request: whose it is, what it says, p(x), the engine, q(Y), the books."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from prism.http.admission import Admission
from prism.http.asgi import Receive, Scope, Send, header, send_bytes
from prism.http.body import read_body
from prism.http.codec import codec_of
from prism.http.dialect import dialect_of
from prism.http.errors import ContentFiltered, HttpError, send_json
from prism.http.exchange import Exchange
from prism.http.family import Call, Family
from prism.http.judge import Judge
from prism.http.locales import pick
from prism.http.selftest import SCOPE_KEY, Probe
from prism.http.server import Server, stamped
from prism.http.tenancy import Guest
from prism.record.receipt import HEADER, Receipt
from prism.session import Session
from prism.types import Stage


async def moderate(
    server: Server, family: Family, scope: Scope, receive: Receive, send: Send, ours: Send
) -> None:
    """Serve a request to one of ``family``'s routes. Raises :class:`HttpError`.

    ``ours`` sends answers that the engine has no part in.
    """
    probe = scope.get(SCOPE_KEY)
    if not isinstance(probe, Probe):
        probe = None
    guest = await server.tenancy.admit(scope) if probe is None else server.tenancy.server()
    if probe is None:
        server.require_live()
    call = await _read(server, family, guest, scope, receive)
    session = guest.session(pick(header(scope, b"accept-language"), guest.policy.messages))
    judge = Judge(
        session,
        check=guest.moderator.check_output,
        refusals=guest.refusals,
        keep_alternatives=server.processed_logprobs,
        metrics=server.metrics,
        fingerprint=server.books.fingerprint if probe is None else None,
    )
    guest.begin(call)
    try:
        # The self-test's own requests don't make the server busy.
        with server.counted(1 if probe is None else 0):
            request = _Request(server, family, guest, call, session, judge, probe)
            await request.serve(scope, receive, send, ours)
    finally:
        guest.end(call, judge.scanned.total())


async def _read(
    server: Server, family: Family, guest: Guest, scope: Scope, receive: Receive
) -> Call:
    codec = codec_of(family)
    limit = guest.max_upload_bytes if codec.uploads else guest.max_body_bytes
    raw = await read_body(scope, receive, limit)
    codec.check(scope)
    call = await server.pool.run(
        len(raw), lambda: family.read(codec.parse(raw, scope), guest.reading)
    )
    server.stored.join(call, guest)
    return call


@dataclass(slots=True)
class _Request:
    """A request that was read and admitted to its tenant's limits."""

    server: Server
    family: Family
    guest: Guest
    call: Call
    session: Session
    judge: Judge
    probe: Probe | None
    _recorded: bool = field(default=False)
    _noted: bool = field(default=False)

    async def serve(self, scope: Scope, receive: Receive, send: Send, ours: Send) -> None:
        """Answer it, whichever way."""
        server, probe = self.server, self.probe
        if probe is None and server.serial:
            await server.selftest.pause()
        admission = None
        if probe is None or not probe.skip_prompt:
            admission = Admission(self.session, self.call, server.pool, server.metrics)
            if self._judged_first(admission):
                await admission.judge()
                if admission.error is not None:
                    raise admission.error
                if admission.refused:
                    await self._refuse(ours)
                    return
        exchange = Exchange(
            server.app if probe is None else probe.inner,
            self.guest.forward(scope),
            receive,
            send,
            ours,
            family=self.family,
            call=self.call,
            judge=self.judge,
            pool=server.pool,
            receipt=lambda: self._receipt().compact(),
            record=self._record,
            admission=admission,
            refuse=self._refuse,
        )
        try:
            with stamped(self.guest, self.session.locale):
                await exchange.run()
        finally:
            outcome = self._outcome(exchange.outcome)
            if self._on_record and not self._recorded:
                with anyio.CancelScope(shield=True):
                    await self._record_late(outcome)
        self._note(outcome)

    def _judged_first(self, admission: Admission) -> bool:
        """Whether p(x) is settled before the engine hears of the request.

        An engine that can't be stopped would work a refused request off to its end, with everybody
        else waiting for it.
        """
        unstoppable = self.server.serial and not self.call.stream
        return admission.quick or unstoppable or self.probe is not None

    async def _refuse(self, send: Send) -> None:
        """Send the policy's message as the API's normal answer, once the refusal is on record."""
        family, call, session = self.family, self.call, self.session
        await self._record("refused", "blocked_prompt")
        receipt = self._receipt(refused=True).compact()
        dialect = dialect_of(family)
        try:
            if not call.stream:
                body = family.refusal(call, session.id, session.message)
                await send_json(send, 200, body, {HEADER: receipt})
                return
            *events, final = family.refusal_stream(call, session.id, session.message)
        except ContentFiltered as error:
            body = dialect.error(error.body())
            await send_json(send, error.status, body, {HEADER: receipt})
            return
        payload = b"".join(map(dialect.encode, events)) + dialect.last(final, receipt)
        fields = {"content-type": dialect.content_type, "x-prism-id": session.id}
        await send_bytes(send, 200, payload, fields)

    def _outcome(self, outcome: str) -> str:
        if self.judge.blocked:
            return "blocked_output"
        if self.judge.refused:
            return "refused_by_token_layer"
        return outcome

    def _receipt(self, *, refused: bool = False) -> Receipt:
        """Return what was really checked so far; ``refused``: by p(x)."""
        session, call, judge = self.session, self.call, self.judge
        decision = session.decision
        prompt_ran = any(tier.startswith(Stage.PROMPT.value) for tier in decision.tiers)
        channels = {Stage.PROMPT.value: call.chars} if prompt_ran else {}
        blocked = call.choices
        stage: str | None = Stage.PROMPT.value
        if not refused:
            channels |= judge.scanned
            blocked = len(judge.blocked | judge.refused)
            stage = Stage.OUTPUT.value if judge.blocked else "token" if judge.refused else None
        return Receipt.of(
            decision,
            id=session.id,
            tenant=session.tenant,
            layers=self.server.layers,
            stage=stage,
            channels=channels,
            unread=call.unread,
            choices=call.choices,
            blocked_choices=blocked,
        )

    @property
    def _on_record(self) -> bool:
        """Whether its decisions are put on record."""
        return self.probe is None and self.server.books.log is not None

    async def _record(self, event: str, outcome: str) -> None:
        """Put a decision on record. Raises :class:`HttpError` where it can't be, and must be."""
        if self._on_record:
            self._recorded = event != "admitted"
            receipt = self._receipt(refused=event == "refused")
            books, judge = self.server.books, self.judge
            await books.write(
                event,
                self.family.name,
                self._outcome(outcome),
                self.session,
                receipt,
                prompt=self.call.messages,
                answers=judge.fingerprints(),
            )
        if event in ("refused", "answered"):
            # Before the client hears of it: whoever has its answer finds it in the figures, though
            # the engine may take a while to stop.
            self._note(self._outcome(outcome))

    async def _record_late(self, outcome: str) -> None:
        """Record an answer that broke off before its end was on record."""
        try:
            await self._record("broken_off", outcome)
        except HttpError:  # counted by the books; there is nobody left to tell
            return

    def _note(self, outcome: str) -> None:
        """Count the request, once."""
        if self.probe is not None or self._noted:
            return
        self._noted = True
        metrics = self.server.metrics
        metrics.request(self.family.name, outcome)
        metrics.decision(self.session.decision)
        metrics.text(Stage.PROMPT, self.call.chars)
        metrics.text(Stage.OUTPUT, self.judge.scanned.total(), self.judge.held)
