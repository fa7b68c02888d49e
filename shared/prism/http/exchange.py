"""One call of the engine's application, with its answer taken in, judged and let out.

The engine runs in a task of its own, in a copy of the request's context (so that context variables
reach it), inside a cancel scope: when the client hangs up, or when nothing more of the answer may
go out, the engine first sees a disconnect, as from any server, and is then cancelled. A task of its
own, because a coroutine that wakes is reached through every one that awaits it: the ten that lead
here would be walked, there and back, for every token.

Where the prompt is still being judged, the engine's first word has to wait; so nothing of its
answer is read, kept or shown before the verdict, and a refusal takes the answer's place.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import anyio

from prism.http.admission import Admission
from prism.http.answers import error_answer, json_answer, text_answer
from prism.http.asgi import ASGIApp, ClientGone, Message, RawHeaders, Receive, Scope, Send
from prism.http.codec import codec_of
from prism.http.dialect import dialect_of
from prism.http.errors import (
    ContentFiltered,
    HttpError,
    Unavailable,
    UpstreamShape,
    dumps,
    send_json,
)
from prism.http.family import Call, Family, StreamFilter
from prism.http.heads import forwarded, passed, require_utf8
from prism.http.judge import Judge, may_end
from prism.http.pool import INLINE, Pool
from prism.http.sse import Event, Reader
from prism.record.receipt import HEADER

_log = logging.getLogger("prism.http")

_OUTWAITED = Unavailable(
    "judging the prompt took longer than the server waits for a client",
    code="judge_slow",
    retry_after=1,
)

GRACE = 1.0
"""Seconds between telling the engine that the client is gone and cancelling it."""

MAX_ANSWER_BYTES = 128_000_000
_MAX_ERROR_BYTES = 1_000_000

T = TypeVar("T")
Quick = Callable[[list[Event], int], tuple[int, str, list[Event]]]
"""What a filter may have besides: see :meth:`OpenAIStream.quick`."""
Swift = Callable[[bytes], bytes | list[Event] | None]
"""Likewise: see :meth:`OpenAIStream.swift`."""
Record = Callable[[str, str], Awaitable[None]]
"""Puts an event and the outcome on record. Raises :class:`HttpError` where that has to close."""


class Exchange:
    """Runs one moderated call to its end. :attr:`outcome` says how it went.

    ``admission`` is settled beside the engine, if it isn't yet; ``refuse`` sends what a prompt that
    is blocked is answered with.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
        send_own: Send,
        *,
        family: Family,
        call: Call,
        judge: Judge,
        pool: Pool,
        receipt: Callable[[], str],
        record: Record,
        admission: Admission | None,
        refuse: Callable[[Send], Awaitable[None]],
    ) -> None:
        self._app = app
        self._outer_receive = receive
        self._outer_send = send
        self._send_own = send_own  # for answers that the engine has no part in
        self._family = family
        self._dialect = dialect_of(family)
        self._call = call
        self._judge = judge
        self._pool = pool
        self._receipt = receipt
        self._record = record
        self._admission = admission if admission is not None and not admission.settled else None
        self._refuse = refuse
        self._body: bytes | None
        self._body, content_type = codec_of(family).render(call.body)
        self._inner = forwarded(scope, content_type, len(self._body))
        self._gone = asyncio.Event()  # the engine is told so
        self._stopped = anyio.CancelScope()
        self._calling = anyio.CancelScope()  # the engine, in its own task
        self._reaper: asyncio.TimerHandle | None = None
        self._started = False  # our answer's head is out
        self._complete = False  # our answer is out
        self._status = 0
        self._head: RawHeaders = []
        self._whole = bytearray()
        self._mode = ""
        self._reader = self._dialect.reader()
        self._filter: StreamFilter | None = None
        self._quick: Quick | None = None
        self._swift: Swift | None = None  # where a stream has begun and the next event begins
        self.outcome = "passed"

    async def run(self) -> None:
        """Call the engine and answer the client."""
        # Not in a task group: to end one takes longer than to judge a short answer.
        watch = asyncio.create_task(self._watch())
        engine = asyncio.create_task(self._call_engine())
        admit: asyncio.Task[None] | None = None
        try:
            with self._stopped:
                if self._admission is not None:
                    admit = asyncio.create_task(self._admit(self._admission))
                await asyncio.wait((engine,))
                failure = engine.result()
                if self._admission is not None:  # nor is what went wrong told before the verdict
                    if isinstance(failure, ClientGone) and not self._admission.settled:
                        failure = _OUTWAITED
                    await self._admission.wait()
                await self._ended(failure)
        finally:
            watch.cancel()
            if self._reaper is not None:
                self._reaper.cancel()
            left: list[asyncio.Task[Any]] = []
            if not engine.done():
                self._calling.cancel()
                left.append(engine)
            if admit is not None:  # perhaps in a thread, which works on until it is done
                admit.cancel()
                left.append(admit)
            if left:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait(left)

    async def _call_engine(self) -> Exception | None:
        try:
            with self._calling:
                await self._app(self._inner, self._receive, self._send)
        except (ClientGone, HttpError) as error:  # the proxy's words
            return error
        except Exception as error:
            if not self._complete and not self._gone.is_set():
                _log.exception("the engine's application failed")
            return error
        return None

    async def _admit(self, admission: Admission) -> None:
        """Settle p(x) while the engine is at work; on a block, stop it and answer in its place."""
        await admission.judge(beside=True)
        try:
            if self._gone.is_set():
                return
            if admission.error is not None:
                await self._fail(admission.error)
            elif admission.refused:
                self._gone.set()  # first: every step of the engine's is one too many
                self._complete = True
                self.outcome = "blocked_prompt"
                with contextlib.suppress(OSError):
                    await self._refuse(self._send_own)
                self._abort()
        except Exception as error:
            if not isinstance(error, HttpError):
                _log.exception("refusing a prompt failed")
            self._complete = False
            await self._fail(error)
        finally:
            admission.tell()

    # The engine's side

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self._gone.is_set():
            await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _watch(self) -> None:
        """Wait for the client to hang up. A server that can't say so any more is taken to."""
        try:
            while (await self._outer_receive())["type"] != "http.disconnect":
                pass
        except Exception:
            _log.exception("the server failed to say whether the client is there")
        # After a whole answer this is no news, and background tasks may run on.
        if not self._complete:
            self.outcome = "client_gone"
            self._abort()
        self._gone.set()

    def _abort(self) -> None:
        """Give the engine, which is told that nobody listens, a while to stop by itself."""
        if self._reaper is None:
            loop = asyncio.get_running_loop()
            self._reaper = loop.call_later(GRACE, self._stopped.cancel)

    async def _send(self, message: Message) -> None:
        if self._admission is not None and not self._admission.told:
            self._admission.answering()
            await self._admission.wait()
        if self._complete or self._gone.is_set():
            return
        try:
            body = message.get("body")
            if self._swift is not None and type(body) is bytes and message.get("more_body", False):
                out = self._swift(body)
                if isinstance(out, bytes):
                    if out:
                        await self._outer_send(
                            {"type": "http.response.body", "body": out, "more_body": True}
                        )
                    return
                if out is not None:
                    await self._deliver(self._encode(out), more=True)
                    return
            await self._take(message)
        except HttpError as error:
            await self._fail(error)
        except Exception as error:  # a bug here must not let the rest of the answer out
            _log.exception("filtering an answer failed; the rest is withheld")
            await self._fail(error)

    async def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            await self._begin(message)
        elif kind == "http.response.body":
            body = bytes(message.get("body", b""))
            more = bool(message.get("more_body", False))
            if self._mode == "stream":
                await self._stream(body, more)
            elif self._mode:
                await self._collect(body, more)
        else:
            raise UpstreamShape(f"the engine answered by {kind}", code="upstream_shape")

    # The client's side

    async def _begin(self, message: Message) -> None:
        self._status = int(message["status"])
        self._head = [
            (bytes(key).lower(), bytes(value)) for key, value in message.get("headers", ())
        ]
        kind = self._header(b"content-type").partition(";")[0].strip().lower()
        if self._header(b"content-encoding").strip().lower() not in ("", "identity"):
            raise UpstreamShape("the engine compressed its answer", code="upstream_encoding")
        if self._status >= 400:
            self._mode = "error"
        elif not 200 <= self._status < 300:
            raise UpstreamShape(
                f"the engine answered with status {self._status}", code="upstream_status"
            )
        elif kind == self._dialect.media_type:
            self._mode = "stream"
            self._filter = self._family.stream(self._call, self._judge)
            self._quick = getattr(self._filter, "quick", None)
            await self._record("admitted", self.outcome)
            head = {b"x-prism-id": self._judge.session.id.encode()}
            # In the engine's words it could name a charset that these bytes are not written in.
            head[b"content-type"] = self._dialect.content_type.encode()
            await self._start(head)
        elif kind == "application/json":
            self._mode = "json"
        elif kind in self._dialect.texts:
            require_utf8(self._header(b"content-type"))
            self._mode = "text"
        else:
            raise UpstreamShape(
                f"the engine answered with {kind[:64] or 'no content type'}, which can't be judged",
                code="upstream_content_type",
            )

    async def _stream(self, body: bytes, more: bool) -> None:
        assert self._filter is not None
        stream = self._filter
        out = bytearray()
        events = self._reader.feed(body if more else body + self._dialect.tail)
        clean = isinstance(self._reader, Reader) and self._reader.clean
        self._swift = getattr(stream, "swift", None) if clean else None
        at = 0
        while at < len(events) and not stream.done:
            if self._quick is not None:
                count, ready, told = self._quick(events, at)
                if count:
                    at += count
                    out += ready.encode() + self._encode(told)
                    continue
            event = events[at]
            at += 1
            work = functools.partial(stream.feed, event)
            data = event.data or ""
            told = await self._judging(len(data), work, ends=may_end(data))
            out += self._encode(told)
        if not more and not stream.done:
            out += self._encode(await self._judging(0, stream.close))
            out += self._dialect.note(self._receipt())
        await self._deliver(bytes(out), more=more)

    async def _deliver(self, out: bytes, *, more: bool) -> None:
        """Send the next of a stream, and end it where nothing may follow."""
        assert self._filter is not None
        over = not more or self._filter.done
        if over:
            await self._record("answered", self.outcome)
        if out or over:
            await self._write(out, more=not over)
        if over:
            self._finish(early=more)

    async def _judging(self, size: int, work: Callable[[], T], *, ends: bool = True) -> T:
        waits = self._judge.waits(size, ends=ends)
        if not waits and size <= INLINE:
            return work()
        return await self._pool.run(size, work, patient=True, waits=waits)

    def _encode(self, events: list[Event]) -> bytes:
        dialect = self._dialect
        return b"".join(
            dialect.last(event, self._receipt()) if event.last else dialect.encode(event)
            for event in events
        )

    async def _collect(self, body: bytes, more: bool) -> None:
        self._whole += body
        limit = _MAX_ERROR_BYTES if self._mode == "error" else MAX_ANSWER_BYTES
        if len(self._whole) > limit:
            raise UpstreamShape("the engine's answer is too long", code="upstream_too_large")
        if more:
            return
        raw = bytes(self._whole)
        kind = self._header(b"content-type")
        if self._mode == "error":
            self.outcome = "upstream_error"
            work = functools.partial(error_answer, self._dialect, self._judge, raw, kind)
        else:
            judged = json_answer if self._mode == "json" else text_answer
            work = functools.partial(judged, self._family, self._call, self._judge, raw)
        shown = f"{kind.partition(';')[0].strip()}; charset=utf-8"
        try:
            payload = await self._judging(len(raw), work)
        except ContentFiltered as error:  # the API has no other way to say so
            self._status, self._mode = error.status, "json"
            payload = dumps(self._dialect.error(error.body()))
        await self._record("answered", self.outcome)
        extra = {b"content-length": str(len(payload)).encode()}
        if self._mode != "error":
            extra[HEADER.encode()] = self._receipt().encode("ascii")
        shown = shown if self._mode == "text" else "application/json"
        extra[b"content-type"] = shown.encode("latin-1")
        await self._start(extra)
        await self._write(payload, more=False)
        self._finish(early=False)

    async def _start(self, extra: dict[bytes, bytes]) -> None:
        head = passed(self._head, self._judge, without=extra)
        self._started = True
        await self._outer_send(
            {
                "type": "http.response.start",
                "status": self._status,
                "headers": head + list(extra.items()),
            }
        )

    async def _write(self, body: bytes, *, more: bool) -> None:
        if not more:
            self._complete = True
        await self._outer_send({"type": "http.response.body", "body": body, "more_body": more})

    def _finish(self, *, early: bool) -> None:
        self._complete = True
        if early:
            self._gone.set()
            self._abort()

    async def _ended(self, failure: Exception | None) -> None:
        """The engine's application returned; an answer it left open is closed here."""
        if self._complete or self._gone.is_set():
            return
        if isinstance(failure, ClientGone):  # the proxy's word for one that takes nothing any more
            self.outcome = "client_gone"
            self._finish(early=True)
            return
        if failure is None:
            failure = UpstreamShape("the engine ended without an answer", code="upstream_ended")
        await self._fail(failure)

    async def _fail(self, error: Exception) -> None:
        """Close the answer with an error; whatever text is still held stays here."""
        self.outcome = "failed"
        shown = error
        if not isinstance(shown, HttpError):
            shown = UpstreamShape("the engine failed to answer", code="upstream_failed")
        with contextlib.suppress(OSError):  # a server's word for a client that has gone
            if self._started:
                *events, final = self._dialect.broken(shown.body())
                end = self._encode([*events, replace(final, last=True)])
                await self._write(end, more=False)
            else:
                self._started = self._complete = True
                body = self._dialect.error(shown.body())
                headers = {**shown.headers, "x-prism-id": self._judge.session.id}
                await send_json(self._send_own, shown.status, body, headers)
        self._finish(early=True)

    def _header(self, name: bytes) -> str:
        return next((value.decode("latin-1") for key, value in self._head if key == name), "")
