"""An engine that says what a test tells it to: determinism and injected faults, nothing else.

A test names a script as the request's ``model``. Without one the engine answers like a small real
one: it knows its models, echoes when asked to, and otherwise says "fine".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

SSE = "text/event-stream"
DONE = "[DONE]"
OTHER_APIS = (
    "/completion", "/completions", "/infill", "/v1/messages", "/v1/messages/count_tokens",
    "/v1/responses", "/api/chat", "/api/generate", "/v2/chat", "/cohere/v2/chat",
    "/v1/chat/completions/batch", "/invocations", "/inference/v1/generate", "/v1/embeddings",
    "/embedding", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank",
    "/v2/embed", "/v2/rerank", "/api/embed", "/api/embeddings", "/generative_scoring",
    "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/chat/completions/render",
    "/v1/completions/render", "/v1/chat/completions/derender", "/v1/completions/derender",
    "/sleep", "/slots", "/props", "/v1/load_lora_adapter",
)  # fmt: skip


@dataclass
class Script:
    """One answer. A stream is a list of events (objects, strings) or raw bytes."""

    stream: list[Any] | None = None
    body: Any = None
    raw: bytes | None = None
    status: int = 200
    content_type: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0
    fail_after: int | None = None
    hang: bool = False


class Upstream:
    """The scripted engine. ``seen`` holds what reached it; ``cancelled`` whose client it lost."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled: list[str] = []
        self.stamps: list[Any] = []
        self.sent: dict[str, int] = {}
        self.models_status = 200
        self.token_layer: str | None = None  # the refusal it forces on the self-test's phrase
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/health", self._fine),
                Route("/version", self._version),
                Route("/api/version", self._version),
                Route("/anything", self._leak, methods=["GET", "POST", "PUT", "DELETE"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/v1/chat/completions", self._answer, methods=["POST"]),
                Route("/v1/completions", self._answer, methods=["POST"]),
                Route("/v1/engines/copilot-codex/completions", self._answer, methods=["POST"]),
                *(Route(path, self._answer, methods=["GET", "POST"]) for path in OTHER_APIS),
                WebSocketRoute("/v1/realtime", self._realtime),
            ]
        )

    def say(self, name: str, **script: Any) -> str:
        """Register a script and return its name."""
        self.scripts[name] = Script(**script)
        return name

    async def _models(self, request: Request) -> Response:
        rows = [{"id": "small", "object": "model", "created": 1, "owned_by": "test"}]
        return JSONResponse({"object": "list", "data": rows}, status_code=self.models_status)

    async def _fine(self, request: Request) -> Response:
        return Response(status_code=200)

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": "1"})

    async def _leak(self, request: Request) -> Response:
        return PlainTextResponse("zephyr lantern")

    async def _tokenize(self, request: Request) -> Response:
        return JSONResponse({"tokens": [len(await request.body())]})

    async def _realtime(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("zephyr lantern")
        await websocket.close()

    async def _answer(self, request: Request) -> Response:
        from prism.steer import stamp

        body = await _read(request)
        self.seen.append(body)
        self.headers.append(dict(request.headers))
        self.stamps.append(stamp.current.get())
        script = self.scripts.get(body.get("model", ""))
        if script is None:
            script = self._default(body, chat="messages" in body)
        if script.hang:
            await self._until_gone(request, body)
        if script.stream is not None and (body.get("stream") or script.body is None):
            return StreamingResponse(
                self._events(script, body.get("model", "")),
                status_code=script.status,
                media_type=script.content_type or SSE,
                headers=script.headers,
            )
        content = script.raw if script.raw is not None else json.dumps(script.body).encode()
        return Response(
            content,
            status_code=script.status,
            media_type=script.content_type or "application/json",
            headers=script.headers,
        )

    async def _until_gone(self, request: Request, body: dict[str, Any]) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.cancelled.append(body.get("model", ""))

    async def _events(self, script: Script, name: str) -> AsyncIterator[bytes]:
        assert script.stream is not None
        self.sent[name] = 0
        try:
            for number, event in enumerate(script.stream):
                if script.fail_after == number:
                    raise RuntimeError("the engine broke")
                yield encode(event)
                self.sent[name] += 1
                await asyncio.sleep(script.pause)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    def _default(self, body: dict[str, Any], *, chat: bool) -> Script:
        if chat:
            return Script(body=chat_body("fine"), stream=chat_stream(["fi", "ne"]))
        prompt = body.get("prompt") or ""
        text = "fine"
        if self.token_layer is not None and "vorquelle" in prompt:
            text = self.token_layer
        if body.get("echo"):
            text = prompt + text
        return Script(body=text_body(text), stream=text_stream([text]))


async def _read(request: Request) -> dict[str, Any]:
    """Return a request's fields; a file's name and bytes stand for the file."""
    kind = request.headers.get("content-type", "")
    if kind.startswith("multipart/form-data"):
        async with request.form() as form:
            return {
                key: value if isinstance(value, str) else (value.filename, await value.read())
                for key, value in form.multi_items()
            }
    return json.loads(await request.body() or b"{}")  # type: ignore[no-any-return]


def encode(event: Any) -> bytes:
    """Return an event as engines frame it."""
    if isinstance(event, bytes):
        return event
    data = event if isinstance(event, str) else json.dumps(event)
    return f"data: {data}\n\n".encode()


def chat_chunk(
    delta: dict[str, Any] | None = None, reason: str | None = None, index: int = 0, **more: Any
) -> dict[str, Any]:
    """One event of a chat stream."""
    row = {"index": index, "delta": delta or {}, "finish_reason": reason, **more}
    return {**_frame("chat.completion.chunk"), "choices": [row]}


def chat_stream(pieces: list[str], reason: str = "stop", channel: str = "content") -> list[Any]:
    """A chat stream that says ``pieces``."""
    first = chat_chunk({"role": "assistant", "content": ""})
    return [first, *(chat_chunk({channel: p}) for p in pieces), chat_chunk({}, reason), DONE]


def chat_body(content: str | None, reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A whole chat answer."""
    said = {"role": "assistant", "content": content, **message}
    row = {"index": 0, "message": said, "logprobs": None, "finish_reason": reason}
    return {**_frame("chat.completion"), "choices": [row], "usage": usage(7, 5)}


def text_chunk(text: str, reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """One event of a completions stream."""
    row = {"index": index, "text": text, "logprobs": None, "finish_reason": reason, **more}
    return {**_frame("text_completion"), "choices": [row]}


def text_stream(pieces: list[str], reason: str = "stop") -> list[Any]:
    """A completions stream that says ``pieces``."""
    return [*(text_chunk(piece) for piece in pieces), text_chunk("", reason), DONE]


def text_body(*texts: str, reason: str = "stop") -> dict[str, Any]:
    """A whole completion; each text is a choice."""
    rows = [
        {"index": n, "text": text, "logprobs": None, "finish_reason": reason}
        for n, text in enumerate(texts)
    ]
    return {**_frame("text_completion"), "choices": rows, "usage": usage(7, 5)}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """An engine's count."""
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def _frame(kind: str) -> dict[str, Any]:
    return {"id": "id-1", "object": kind, "created": 1_700_000_000, "model": "small"}
