"""How a real engine is made to speak: found out when it is asked for, and in few words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from running import in_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from prism.conform import Options, Report, run
from prism.conform.check import Outcome


@dataclass
class Engine:
    """Speaks as vLLM does: what it has no choice but to say, else words until the room is full.

    ``asked``: the path of every request, and how many words it had room for.
    """

    mute: tuple[str, ...] = ()  # paths on which it takes no structured output
    asked: list[tuple[str, int]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        paths = ("/v1/chat/completions", "/v1/completions")
        return Starlette(routes=[Route(path, self._answer, methods=["POST"]) for path in paths])

    async def _answer(self, request: Request) -> Response:
        body, path = json.loads(await request.body()), request.url.path
        self.asked.append((path, body["max_tokens"]))
        choice = None if path in self.mute else body.get("structured_outputs")
        text = choice["choice"][0] if choice else "word " * body["max_tokens"]
        if body.get("stream"):
            return StreamingResponse(_stream(path, text), media_type="text/event-stream")
        return JSONResponse({"choices": [_choice(path, text, "message")]})


def _choice(path: str, text: str, kind: str) -> dict[str, Any]:
    said = {kind: {"role": "assistant", "content": text}} if "chat" in path else {"text": text}
    return {"index": 0, "finish_reason": "stop", **said}


async def _stream(path: str, text: str) -> AsyncIterator[str]:
    for word in text.split(" "):
        row = _choice(path, f"{word} " if word != text.split(" ")[-1] else word, "delta")
        yield f"data: {json.dumps({'choices': [row]})}\n\n"
    yield "data: [DONE]\n\n"


async def asked(engine: Engine, *only: str) -> Report:
    with in_thread(engine.app) as url:
        return await run(Options(url), only=only)


async def test_only_apis_that_a_check_asks_are_tried() -> None:
    engine = Engine()
    report = await asked(engine, "chat.whole.harmless")
    assert [result.outcome for result in report.results] == [Outcome.PASSED]
    assert report.voices == {"chat": "choice", "chat, streamed": "choice"}
    assert {path for path, _ in engine.asked} == {"/v1/chat/completions"}
    # Script and grammar first, which it doesn't know; streamed, what it knew; then the check.
    assert [room for _, room in engine.asked] == [64, 64, 64, 64, 256]


async def test_what_a_server_knew_is_tried_first_elsewhere() -> None:
    engine = Engine()
    report = await asked(engine, "completions.stream.harmless")
    assert [result.outcome for result in report.results] == [Outcome.PASSED]
    there = [room for path, room in engine.asked if path == "/v1/completions"]
    assert there == [64, 64, 256]


async def test_where_it_only_babbles_it_is_not_asked_to_stream() -> None:
    engine = Engine(mute=("/v1/completions",))
    report = await asked(engine, "completions.stream.harmless", "chat.whole.harmless")
    outcomes = {result.check.name: result for result in report.results}
    assert outcomes["chat.whole.harmless"].outcome is Outcome.PASSED
    unasked = outcomes["completions.stream.harmless"]
    assert unasked.outcome is Outcome.NOT_APPLICABLE
    assert unasked.evidence == "the engine can't be made to say a given text here"
    there = [room for path, room in engine.asked if path == "/v1/completions"]
    assert there == [64, 64, 64]


async def test_another_api_is_found_where_chats_are_mute() -> None:
    engine = Engine(mute=("/v1/chat/completions",))
    report = await asked(engine, "completions.whole.harmless")
    assert [result.outcome for result in report.results] == [Outcome.PASSED]
