"""A server that answers completions as vLLM streams them: so many words as asked for, or fewer."""

from __future__ import annotations

import json
import sys
from typing import Any

import uvicorn

STOPPED = ""


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if scope["method"] == "GET":
        return await _answer(send, [b"{}"])
    asked = json.loads((await receive())["body"])
    ended = STOPPED in asked["prompt"]
    said = 1 if ended else asked["max_tokens"]
    events: list[dict[str, Any]] = [{"choices": [{"text": "word "}]} for _ in range(said)]
    events[-1]["choices"][0]["finish_reason"] = "content_filter" if ended else "length"
    events.append({"choices": [], "usage": {"completion_tokens": said}})
    await _answer(send, [f"data: {json.dumps(event)}\n\n".encode() for event in events])


async def _answer(send: Any, pieces: list[bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


if __name__ == "__main__":
    STOPPED = sys.argv[2]
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
