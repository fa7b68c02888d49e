"""The self-test: a made-up phrase goes through the running engine before anybody else's text does.

Every policy carries a rule that blocks the phrase. A layer is live once that was seen to happen:

- ``text.prompt``: the phrase as a prompt is refused, and the engine was not asked;
- ``text.output``: the prompt check is skipped (which only a scope made in this process can ask
  for), the engine echoes the phrase, and what comes out, streamed and not, does not hold it;
- ``token``: the phrase goes straight to the engine, around the text layer, and the engine's own
  answer is the policy's refusal.

Until all are live, and again when one is found dead later, generating routes answer 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prism.http.asgi import ASGIApp, Message, Receive, Scope, Send
from prism.http.errors import dumps
from prism.http.inprocess import Reply, call
from prism.policy.compiled import SELFTEST_PHRASE, CompiledPolicy
from prism.record.metrics import Metrics

_log = logging.getLogger("prism.selftest")

SCOPE_KEY = "prism.selftest"
"""Where a scope holds a :class:`Probe`: an object of this process, so no message can bring one."""

_COMPLETIONS = "/v1/completions"
_MAX_UNANSWERED = 3
# A live layer does not die because the engine is too busy to answer one probe.


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient the self-test is, in seconds."""

    first_retry: float = 0.25
    last_retry: float = 15.0
    probe: float = 120.0
    recheck: float = 60.0  # how old a result may be when somebody asks for it


@dataclass(frozen=True, slots=True)
class Layer:
    """What is known of one layer. ``live`` is ``None`` until it was tried."""

    live: bool | None
    detail: str


class _NoAnswer(Exception):
    """The engine did not answer; that says nothing about a layer."""


class SelfTest:
    """Runs the probes, keeps what they found, and tries again with growing pauses."""

    def __init__(
        self,
        *,
        moderated: ASGIApp,
        inner: ASGIApp,
        policies: Sequence[CompiledPolicy],
        layers: Sequence[str],
        stamp: Callable[[], Any],
        busy: Callable[[], bool],
        api_key: str | None,
        metrics: Metrics,
        timing: Timing,
    ) -> None:
        self._moderated = moderated
        self._inner = inner
        self._messages = {text for policy in policies for text in policy.messages.values()}
        self._stamp = stamp
        self._busy = busy
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._metrics = metrics
        self._timing = timing
        names = ["text.prompt", "text.output", *(["token"] if "token" in layers else [])]
        self.layers = {name: Layer(None, "not tried yet") for name in names}
        self.checked: float | None = None
        self._ambience: dict[str, Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._quiet = asyncio.Event()  # no round is under way
        self._quiet.set()
        self._unanswered = 0

    @property
    def ok(self) -> bool:
        """Whether every layer is live."""
        return all(layer.live for layer in self.layers.values())

    @property
    def missing(self) -> list[str]:
        """Names of the layers that aren't live."""
        return [name for name, layer in self.layers.items() if not layer.live]

    def report(self) -> dict[str, Any]:
        """Return the state as plain data."""
        dead = any(layer.live is False for layer in self.layers.values())
        return {
            "status": "ok" if self.ok else "failed" if dead else "starting",
            "layers": {
                name: {"live": layer.live is True, "detail": layer.detail}
                for name, layer in self.layers.items()
            },
            "checked_s_ago": None
            if self.checked is None
            else round(time.monotonic() - self.checked, 3),
        }

    def start(self, scope: Scope) -> None:
        """Start testing in the background, once. ``scope`` is any scope of this server."""
        if self._task is not None and not self._task.done():
            return
        # What the server's frameworks put into every scope on its way to this middleware.
        self._ambience = {
            key: scope[key] for key in ("app", "router", "root_path", "state") if key in scope
        }
        self._task = asyncio.get_running_loop().create_task(self._loop(), name="prism-selftest")

    async def refresh(self, wait: float) -> None:
        """Have an old result checked again; wait a little for the news."""
        if self.checked is not None and time.monotonic() - self.checked < self._timing.recheck:
            return
        if self.ok and self._busy():
            return
        if self._quiet.is_set():
            self._settled.clear()
            self._wake.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), wait)

    async def pause(self) -> None:
        """Wait until no round is under way, for engines that serve one request at a time.

        The llama.cpp server breaks off the stream that it is writing when another request comes;
        that must not be the self-test's doing. To be called after the server counts as busy.
        """
        await self._quiet.wait()

    async def stop(self) -> None:
        """Stop testing: the server is going down."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _loop(self) -> None:
        pause = self._timing.first_retry
        while True:
            self._wake.clear()
            if not (self.ok and self._busy()):
                self._quiet.clear()
                try:
                    await self._round()
                finally:
                    self._quiet.set()
            self._settled.set()
            if self.ok:
                pause = self._timing.first_retry
                await self._wake.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), pause)
                pause = min(pause * 2, self._timing.last_retry)

    async def _round(self) -> None:
        was = dict(self.layers)
        probes = {
            "text.prompt": self._probe_prompt,
            "text.output": self._probe_output,
            "token": self._probe_token,
        }
        try:
            model = await self._model()
            for name in self.layers:
                self.layers[name] = await probes[name](model)
            self._unanswered = 0
        except Exception as error:
            # Includes what the engine raises; nothing a probe meets may end the loop.
            known = isinstance(error, _NoAnswer | TimeoutError)
            detail = str(error) or "the engine did not answer in time"
            if not known:
                _log.exception("the self-test failed")
                detail = f"the self-test failed: {type(error).__name__}"
            self._unanswered += 1
            spare = self.ok and self._unanswered < _MAX_UNANSWERED
            for name, layer in self.layers.items():
                live = True if spare and layer.live else None
                self.layers[name] = Layer(live, detail)
        self.checked = time.monotonic()
        self._tell(was)

    def _tell(self, was: dict[str, Layer]) -> None:
        for name, layer in self.layers.items():
            self._metrics.layer(name, layer.live is True)
            if layer.live is False:
                self._metrics.failure("selftest")
            if layer.live is not was[name].live:
                level = logging.INFO if layer.live else logging.WARNING
                _log.log(level, "layer %s: %s", name, layer.detail)

    async def _call(
        self, app: ASGIApp, method: str, path: str, body: object = None, **extra: object
    ) -> Reply:
        return await call(
            app,
            method,
            path,
            body,
            headers=self._headers,
            extra={**self._ambience, **extra},
            patience=self._timing.probe,
        )

    async def _model(self) -> str | None:
        reply = await self._call(self._inner, "GET", "/v1/models")
        if reply.status in (401, 403):
            raise _NoAnswer(
                "the engine wants an API key that PRISM was not told; set PRISM_ENGINE_API_KEY"
            )
        if reply.status != 200:
            raise _NoAnswer(f"the engine's /v1/models answers {reply.status}")
        listed = reply.json()
        rows = listed.get("data") if isinstance(listed, dict) else None
        first = rows[0] if isinstance(rows, list) and rows else None
        return first.get("id") if isinstance(first, dict) else None

    async def _probe_prompt(self, model: str | None) -> Layer:
        asked = False

        async def never(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal asked
            asked = True
            raise RuntimeError("the self-test's prompt reached the engine")

        # The engine is taken out of this one request: had the check failed to stop the phrase,
        # this would be seen, and the engine would still not generate from it.
        body = _body(model, echo=False)
        reply = await self._call(
            self._moderated, "POST", _COMPLETIONS, body, **{SCOPE_KEY: Probe(inner=never)}
        )
        text, reason = _said(reply)
        if asked or reason != "content_filter" or text not in self._messages:
            return Layer(False, "the prompt check let the self-test's phrase through")
        return Layer(True, "refuses the self-test's phrase")

    async def _probe_output(self, model: str | None) -> Layer:
        alone: list[bool] = []
        for stream in (False, True):
            body = _body(model, echo=True, stream=stream)
            for engine in (self._inner, _echo):
                seen = _Seen(engine)
                probe = Probe(inner=seen, skip_prompt=True)
                reply = await self._call(
                    self._moderated, "POST", _COMPLETIONS, body, **{SCOPE_KEY: probe}
                )
                if SELFTEST_PHRASE.encode() in reply.body:
                    return Layer(False, "the output filter let the self-test's phrase through")
                if reply.status >= 500:
                    raise _NoAnswer(f"the engine answers {reply.status} to a probe")
                if seen.found:
                    break
                # This engine does not echo prompts here, so it can't be made to say the phrase:
                # the filter is tried on an answer made in this process instead.
                alone.append(stream)
            if not self._filtered(reply, stream):
                return Layer(False, "the output filter does not say that it withheld something")
        how = ""
        if alone == [True]:
            how = " (streams tried on their own: the engine does not echo prompts in them)"
        elif alone:
            how = " (tried on its own: the engine does not echo prompts)"
        return Layer(True, f"withholds the self-test's phrase in answers{how}")

    def _filtered(self, reply: Reply, stream: bool) -> bool:
        if stream:
            return b'"finish_reason":"content_filter"' in reply.body
        text, reason = _said(reply)
        return reason == "content_filter" and text in self._messages

    async def _probe_token(self, model: str | None) -> Layer:
        with self._stamp():
            # Enough room for the whole refusal in any vocabulary, bytes included.
            room = max(64, *(len(text.encode()) for text in self._messages))
            body = {**_body(model, echo=False), "max_tokens": room}
            reply = await self._call(self._inner, "POST", _COMPLETIONS, body)
        if reply.status >= 500:
            raise _NoAnswer(f"the engine answers {reply.status} to a probe")
        text, _ = _said(reply)
        if text is not None and text.strip() in {message.strip() for message in self._messages}:
            return Layer(True, "the engine itself refuses the self-test's phrase")
        if reply.status != 200:
            return Layer(False, f"the engine answers {reply.status} to the self-test's phrase")
        return Layer(False, "the engine answers the self-test's phrase: no token layer is at work")


@dataclass(frozen=True, slots=True)
class Probe:
    """Marks a request of the self-test's. ``inner`` stands for the engine in it."""

    inner: ASGIApp
    skip_prompt: bool = False


class _Seen:
    """Notes whether the engine's answer held the phrase, on the inner side of the filter."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._body = bytearray()

    @property
    def found(self) -> bool:
        return SELFTEST_PHRASE.encode() in self._body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.body":
                self._body += message.get("body", b"")
            await send(message)

        await self._app(scope, receive, watched)


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as an engine that echoes would."""
    request = (await receive())["body"]
    row = {"index": 0, "text": SELFTEST_PHRASE, "logprobs": None, "finish_reason": "stop"}
    payload = dumps({"id": "cmpl-selftest", "object": "text_completion", "choices": [row]})
    kind = b"application/json"
    if b'"stream":true' in request:
        kind = b"text/event-stream"
        payload = b"data: " + payload + b"\n\ndata: [DONE]\n\n"
    head = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": payload})


def _body(model: str | None, *, echo: bool, stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": SELFTEST_PHRASE, "temperature": 0, "max_tokens": 64}
    if model is not None:
        body["model"] = model
    if echo:
        # The full stop keeps what the engine writes next from growing the last word.
        body |= {"prompt": f"{SELFTEST_PHRASE}.", "echo": True, "max_tokens": 1}
    if stream:
        body["stream"] = True
    return body


def _said(reply: Reply) -> tuple[str | None, str | None]:
    """Return the text and finish reason of a completion, as far as there are any."""
    body = reply.json()
    choices = body.get("choices") if isinstance(body, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return None, None
    text, reason = first.get("text"), first.get("finish_reason")
    return (
        text if isinstance(text, str) else None,
        reason if isinstance(reason, str) else None,
    )
