"""Anthropic's messages in pieces, as vLLM and llama-server send them.

vLLM ends a block before it begins the next; llama-server ends all of them together at the end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from prism.http.errors import UpstreamShape, dumps
from prism.http.families.anthropic_words import (
    ANTHROPIC,
    NO_USAGE,
    REFUSAL,
    ending,
    message_frame,
    named,
    said,
)
from prism.http.families.choices import said_stop
from prism.http.families.filters import EventFilter
from prism.http.families.openai_common import numbers, safe_error
from prism.http.families.pieces import Channels, label, mark, word
from prism.http.family import Call, Json
from prism.http.judge import Judge
from prism.http.sse import Event

_MAX_BLOCKS = 4096


@dataclass(frozen=True, slots=True)
class _Form:
    """How a kind of block comes in pieces."""

    channel: str
    delta: str
    key: str


_FORMS = {
    "text": _Form("text", "text_delta", "text"),
    "thinking": _Form("reasoning", "thinking_delta", "thinking"),
    "tool_use": _Form("arguments", "input_json_delta", "partial_json"),
}


@dataclass(slots=True)
class Block:
    """One block: what it is, and what of it went out."""

    form: _Form
    head: Json
    channel: str
    index: int | None = None  # the client's, once the block's start is out
    text: list[str] = field(default_factory=list)
    signature: str = ""
    over: bool = False  # for the engine
    stopped: bool = False  # for the client

    def shown(self) -> Json:
        """Return the whole block as it may go out."""
        text = "".join(self.text)
        if self.form.channel != "arguments":
            signed = {"signature": self.signature} if self.form.channel == "reasoning" else {}
            return {**self.head, self.form.key: text, **signed}
        return {**self.head, "input": _object(text)}


class MessageStream(EventFilter):
    """A streamed message. Block numbers are given anew: a client counts what it sees."""

    def __init__(self, call: Call, judge: Judge) -> None:
        super().__init__(call, judge)
        self._channels = Channels(judge)
        self._blocks: dict[int, Block | None] = {}  # None: of a kind that is not known here
        self._numbers = 0
        self._started = False
        self._usage: Json | None = None

    def _event(self, body: Json) -> list[Event]:
        out: list[Event] = []
        kind = body.get("type")
        if kind == "ping":
            return [named({"type": "ping"})]
        if kind == "message_start":
            return self._start(body.get("message"))
        if kind in ("content_block_start", "content_block_delta", "content_block_stop"):
            if not self._started:
                raise UpstreamShape("the engine's message has no start", code="upstream_shape")
            self._block(str(kind), body, out)
        elif kind == "message_delta":
            self._delta(body, out)
        elif kind == "message_stop":
            self._finish_all(out)
            if not self._channels.blocked:
                self._ended = True
                out.append(named({"type": "message_stop"}, last=True))
        return self._cut(out) if self._channels.blocked else out

    def close(self) -> list[Event]:
        """Without an end mark the client sees that the engine broke off; held text still counts."""
        if self._ended:
            return []
        out: list[Event] = []
        for block in self._blocks.values():
            if block is not None and not block.over:
                self._release(block, self._channels.finish(block.channel), out)
        self._ended = True
        return self._cut(out) if self._channels.blocked else out

    # For answers in one piece

    def take(self, number: int, given: Json) -> Block | None:
        """Judge a whole block."""
        head: Json = {key: given[key] for key in ("type", "id", "name") if key in given}
        self._open(number, head, [])
        block = self._blocks[number]
        if block is None:
            return None
        if block.form.channel == "arguments":
            value = given.get("input", {})
            if not isinstance(value, dict):
                raise UpstreamShape("a tool's input is no object", code="upstream_shape")
            text = dumps(value).decode() if value else ""
        else:
            text = given.get(block.form.key, "")
        self._release(block, self._channels.feed(block.channel, text), [])
        self._sign(block, given.get("signature") or "", [])
        self._close(block, [])
        return block

    def reason(self, delta: Json) -> tuple[str | None, str | None]:
        """Return why the answer ended, in the API's words."""
        reason = word(delta.get("stop_reason"))
        if not self._channels.blocked and self._channels.refused():
            return REFUSAL, None
        return reason, said_stop(self._call, self._judge, delta.get("stop_sequence"))

    # Events

    def _start(self, message: Any) -> list[Event]:
        if self._started or not isinstance(message, dict):
            raise UpstreamShape("the engine's message has no one start", code="upstream_shape")
        self._started = True
        usage = numbers(message.get("usage")) or dict(NO_USAGE)
        frame = message_frame(mark(message.get("id")), label(message.get("model")))
        return [named({"type": "message_start", "message": {**frame, "usage": usage}})]

    def _block(self, kind: str, body: Json, out: list[Event]) -> None:
        number = body.get("index")
        if isinstance(number, bool) or not isinstance(number, int):
            raise UpstreamShape("the engine's block has no index", code="upstream_shape")
        if kind == "content_block_start":
            given = body.get("content_block")
            if not isinstance(given, dict):
                raise UpstreamShape("the engine's block is no object", code="upstream_shape")
            self._open(number, given, out)
            return
        if number not in self._blocks:
            raise UpstreamShape("the engine's block has no start", code="upstream_shape")
        block = self._blocks[number]
        if block is None or (block.over and kind == "content_block_stop"):
            return
        if kind == "content_block_stop":
            self._close(block, out)
            return
        delta = body.get("delta")
        if not isinstance(delta, dict):
            raise UpstreamShape("the engine's delta is no object", code="upstream_shape")
        if delta.get("type") == block.form.delta:
            text = self._channels.feed(block.channel, delta.get(block.form.key))
            self._release(block, text, out)
        elif delta.get("type") == "signature_delta" and block.form.channel == "reasoning":
            self._sign(block, delta.get("signature"), out)
        elif delta.get("type") in {form.delta for form in _FORMS.values()}:
            raise UpstreamShape("the engine mixed up its blocks", code="upstream_shape")

    def _open(self, number: int, given: Json, out: list[Event]) -> None:
        known = self._blocks.get(number)
        if known is not None and not known.over and known.head["type"] == given.get("type"):
            return  # llama-server says so again when its last piece has text
        if number in self._blocks or len(self._blocks) >= _MAX_BLOCKS:
            raise UpstreamShape("the engine's blocks can't be told apart", code="upstream_shape")
        kind = given.get("type")
        form = _FORMS.get(kind) if isinstance(kind, str) else None
        if form is None:
            self._blocks[number] = None
            return
        base = f"blocks.{number}"
        block = Block(form, {"type": kind}, f"{base}.{form.channel}")
        self._blocks[number] = block
        if form.channel == "text":
            for each in list(self._blocks.values()):  # one text, so one after the other
                if each is not None and each.form is form and each is not block:
                    self._release(each, self._channels.finish(each.channel), out)
            self._channels.begin(block.channel)
        if form.channel == "arguments":
            for key in ("id", "name"):
                block.head[key] = self._channels.scan(f"{base}.{key}", given.get(key) or "")
            if self._channels.blocked:
                return
            self._show(block, out)  # a tool's name is judged: it can go out at once
            first = dumps(given["input"]).decode() if given.get("input") else ""
        else:
            first = given.get(form.key) or ""
        if first:
            self._release(block, self._channels.feed(block.channel, first), out)

    def _close(self, block: Block, out: list[Event]) -> None:
        self._release(block, self._channels.finish(block.channel), out)
        block.over = True
        if not self._channels.blocked:
            self._show(block, out)
            block.stopped = True
            out.append(named({"type": "content_block_stop", "index": block.index}))

    def _sign(self, block: Block, signature: object, out: list[Event]) -> None:
        """Pass a signature on, behind all of the text it signs."""
        if not isinstance(signature, str):
            raise UpstreamShape("a signature is not a string", code="upstream_shape")
        if block.form.channel != "reasoning":
            return
        self._release(block, self._channels.finish(block.channel), out)
        base = block.channel.rpartition(".")[0]
        block.signature = self._channels.scan(f"{base}.signature", signature)
        if self._channels.blocked:
            return
        self._show(block, out)
        delta = {"type": "signature_delta", "signature": block.signature}
        out.append(named({"type": "content_block_delta", "index": block.index, "delta": delta}))

    def _delta(self, body: Json, out: list[Event]) -> None:
        delta = body.get("delta")
        if not isinstance(delta, dict):
            raise UpstreamShape("the engine's delta is no object", code="upstream_shape")
        self._usage = numbers(body.get("usage"))
        self._finish_all(out)
        reason, sequence = self.reason(delta)
        if not self._channels.blocked:
            out.append(ending(reason, sequence, self._usage or self._counted())[0])

    def _error(self, body: Json) -> list[Event]:
        self._ended = True
        shown = ANTHROPIC.error(safe_error(body, self._judge))
        return [named(shown, last=True)]

    # What goes out

    def _release(self, block: Block, text: str, out: list[Event]) -> None:
        if not text:
            return
        self._show(block, out)
        block.text.append(text)
        delta = {"type": block.form.delta, block.form.key: text}
        out.append(named({"type": "content_block_delta", "index": block.index, "delta": delta}))

    def _show(self, block: Block, out: list[Event]) -> None:
        """Send a block's start, behind those of the blocks that the engine began before it."""
        for each in self._blocks.values():
            if each is not None and each.index is None:
                each.index, self._numbers = self._numbers, self._numbers + 1
                empty: Json = (
                    {"input": {}} if each.form.channel == "arguments" else {each.form.key: ""}
                )
                head = {**each.head, **empty}
                start = {"type": "content_block_start", "index": each.index}
                out.append(named({**start, "content_block": head}))
            if each is block:
                return

    def _finish_all(self, out: list[Event]) -> None:
        for block in self._blocks.values():
            if block is not None and not block.over:
                self._close(block, out)

    def _cut(self, out: list[Event]) -> list[Event]:
        """End the message: what was cleared before the match, then the API's word for a block."""
        self._ended = True
        for block in self._blocks.values():
            if block is not None and block.index is not None and not block.stopped:
                out.append(named({"type": "content_block_stop", "index": block.index}))
        if not self._channels.spoke:
            out += said(self._numbers, self._judge.message)
        return out + ending(REFUSAL, None, self._usage or self._counted())

    def _counted(self) -> Json:
        # The engine was stopped before it could count; each piece was at least one token.
        return {"output_tokens": self._channels.pieces}


def _object(text: str) -> Json:
    """Return a tool's input from what was released of it."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:  # a redaction broke it
        return {}
    return value if isinstance(value, dict) else {}
