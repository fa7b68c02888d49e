"""vLLM's ``/inference/v1/generate``: token ids in, token ids out, every sampling parameter.

The ids of an answer are read as text, judged and held back like text: they go out once their text
has. Without an adapter that can read ids there is nothing to judge, and the route is refused.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from prism.http import prompts
from prism.http.errors import BadRequest, UpstreamShape
from prism.http.families.choices import FILTERED, ChoiceBase
from prism.http.families.openai_common import (
    Choice,
    OpenAIApi,
    whole,
)
from prism.http.families.openai_completions import is_id, text_of
from prism.http.families.pieces import mark
from prism.http.families.token_text import Piece, TokenText
from prism.http.family import Call, Json, Reading
from prism.http.judge import Judge
from prism.http.logprobs import Entry, chat_logprobs
from prism.http.templates import raw_messages

_IDS, _TEXT, _PARAMS = "token_ids", "text", "sampling_params"
_PARTS = "content_parts"
_KNOWN_PARAMS = frozenset(
    {
        "n", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature",
        "watermarking", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "ignore_eos",
        "max_tokens", "min_tokens", "logprobs", "logprob_token_ids", "detokenize",
        "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output",
        "structured_outputs", "logit_bias", "allowed_token_ids", "bad_words", "stream_interval",
        "skip_reading_prefix_cache", "repetition_detection",
    }
)  # fmt: skip
_SPARE_PARAMS = frozenset({"output_kind", "skip_clone", "output_text_buffer_length"})
# The engine's own state, which /render shows and the engine works out anew.


class Generate(OpenAIApi):
    """``/inference/v1/generate``."""

    name = "generate"
    paths = ("/inference/v1/generate",)
    kind = chunk_object = id_prefix = "generate"

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        prompts.refuse_unsafe(body, reading.engine)
        if body.get("features") is not None:
            raise BadRequest(
                "'features' is not available on a moderated server: inputs encoded elsewhere "
                "can't be judged; send content_parts",
                param="features",
                code="not_moderated",
            )
        ids = body.get(_IDS)
        if not isinstance(ids, list) or not ids or not all(map(is_id, ids)):
            raise BadRequest("token_ids must be a list of ids", param=_IDS, code="invalid_type")
        params = _params(body.get(_PARAMS), reading)
        found = prompts.Messages()
        if body.get(_PARTS) is not None:
            found.add({"role": "user", "content": body[_PARTS]}, _PARTS)
        told = {**body, _PARAMS: params.get("structured_outputs")}
        messages = [
            *raw_messages(text_of(ids, reading, _IDS)),
            *found.flat,
            *prompts.context(told, frozenset({_IDS, _PARTS})),
        ]
        choices = prompts.integer(params, "n", 1, 1, reading.max_choices)
        asked = {**body, _PARAMS: params}
        call = prompts.as_call(asked, messages, reading, found.unread, choices=choices)
        call.stop = prompts.stop_strings(params)
        call.read_ids = reading.detokenise
        prompts.ask_for_usage(call, reading.engine)
        return call

    def frame(self, body: Json) -> Json:
        """Return what of an answer may go out beside its choices and its usage."""
        named = (("request_id", str), ("model", str), ("created", int))
        frame: Json = {name: body[name] for name, kind in named if isinstance(body.get(name), kind)}
        frame = {key: item for key, item in frame.items() if key != "request_id" or mark(item)}
        return {**frame, "output_mode": _TEXT if body.get("output_mode") == _TEXT else "tokens"}

    def own_frame(self, call: Call, decision_id: str, kind: str) -> Json:
        """Return the envelope of an answer that no engine was asked for."""
        mode = call.body.get("output_mode")
        return self.frame({"request_id": decision_id, "model": call.model, "output_mode": mode})

    def choice(self, call: Call, judge: Judge, index: int) -> Choice:
        """Return the state of a new choice."""
        return _Choice(call, judge, index)

    def said(self, call: Call, index: int, message: str) -> Json:
        """Return a filtered choice. Ids can't say the message: there is no tokeniser here."""
        return _row(call, index, text=message, reason=FILTERED)

    def pieces(self, call: Call, index: int, message: str) -> list[Json]:
        """Return the same for a stream."""
        return [self.said(call, index, message)]

    def whole(self, call: Call, body: Json, judge: Judge) -> Json:
        """Judge an answer in one piece."""
        frame, choices = whole(call, body, self.kind)
        rows = []
        for place, piece in enumerate(choices):
            index = piece.get("index", place)
            if isinstance(index, bool) or not isinstance(index, int):
                raise UpstreamShape("the engine's choice has no index", code="upstream_shape")
            reason = piece.get("finish_reason") or "stop"
            made = _Choice(call, judge, index).feed({**piece, "finish_reason": reason})
            cut = index in judge.blocked
            rows.append(self.said(call, index, judge.message) if cut else made[0])
        counted: Json = {name: frame[name] for name in ("usage", "metrics") if name in frame}
        return {**self.frame(body), "choices": rows, **counted}


GENERATE = Generate()


class _Choice(ChoiceBase):
    def __init__(self, call: Call, judge: Judge, index: int) -> None:
        super().__init__(call, judge, index)
        if call.read_ids is None:
            raise UpstreamShape("token ids can't be read here", code="upstream_shape")
        self._reader = TokenText(call.read_ids, call.body[_IDS])
        self._waiting: deque[Piece] = deque()
        self._unsaid = ""  # text of ids that was judged and has not come out yet
        self._room = 0  # characters that have come out and belong to no id yet
        self._ids_over = False
        self._in_text = call.body.get("output_mode") == _TEXT

    def feed(self, piece: Json) -> list[Json]:
        ids = _ids(piece.get(_IDS))
        reason = self._reason(piece)
        final = reason is not None
        read = self._reader.feed(ids, _entries(piece.get("logprobs"), ids))
        if final:
            read += self._reader.finish()
        taken = self._released(read, final=final)
        text = self._text(_TEXT, piece.get(_TEXT, "")) if self._in_text else ""
        if final and self._in_text:
            text += self._end(_TEXT)
        if self.blocked:
            return self._cut(taken, text)
        if not (taken or text or final):
            return []
        self.over = final
        row = self._made(taken, text, self._final_reason(reason))
        return [{**row, **self._tail(piece)}]

    def close(self) -> list[Json]:
        self.over = True
        taken = self._released(self._reader.finish(), final=True)
        text = self._end(_TEXT) if self._in_text else ""
        if self.blocked:
            return self._cut(taken, text)
        return [self._made(taken, text, self._final_reason(None))] if taken or text else []

    def _released(self, read: list[Piece], *, final: bool) -> list[Piece]:
        """Judge more ids; return those whose text is out."""
        if self._ids_over:
            return []
        said = "".join(piece.text for piece in read)
        self._waiting.extend(read)
        self._unsaid += said
        out = self._text(_IDS, said)
        if final:
            out += self._end(_IDS)
        if not self._unsaid.startswith(out):
            # Something is redacted, and no id says so. Beside text the ids end here; where there
            # is nothing but ids, the choice does.
            self._ids_over = True
            if not self._in_text:
                self._judge.block(self._index)
            return []
        self._unsaid = self._unsaid[len(out) :]
        self._room += len(out)
        taken = []
        while self._waiting and len(self._waiting[0].text) <= self._room:
            taken.append(self._waiting.popleft())
            self._room -= len(taken[-1].text)
        return taken

    def _cut(self, taken: list[Piece], text: str) -> list[Json]:
        self.over = True
        rows = [self._made(taken, text, None)] if taken or text else []
        message = "" if _TEXT in self._shown else self._judge.message
        return [*rows, _row(self._call, self._index, text=message, reason=FILTERED)]

    def _made(self, taken: list[Piece], text: str, reason: str | None) -> Json:
        ids = [number for piece in taken for number in piece.ids]
        entries = [entry for piece in taken for entry in piece.entries]
        keep = self._judge.keep_alternatives
        logprobs = _logprobs(entries, self._in_text, keep) if entries else None
        return _row(self._call, self._index, ids, text, reason, logprobs)


def _row(
    call: Call,
    index: int,
    ids: list[int] | None = None,
    text: str = "",
    reason: str | None = None,
    logprobs: Json | None = None,
) -> Json:
    row: Json = {
        "index": index,
        "logprobs": logprobs,
        "finish_reason": reason,
        "stop_reason": None,
        _IDS: ids or [],
    }
    return {**row, _TEXT: text} if call.body.get("output_mode") == _TEXT else row


def _params(value: Any, reading: Reading) -> Json:
    """Return the sampling parameters that are known; refuse others that say anything."""
    if not isinstance(value, dict):
        raise BadRequest("sampling_params must be an object", param=_PARAMS, code="invalid_type")
    prompts.refuse_unsafe(value, reading.engine)
    kept = {key: below for key, below in value.items() if key in _KNOWN_PARAMS}
    for key, below in value.items():
        spare = key in kept or key in _SPARE_PARAMS or key.startswith("_")
        if not spare and below not in (None, False, 0):
            raise BadRequest(
                f"sampling_params.{key[:64]} is not available on a moderated server",
                param=f"{_PARAMS}.{key[:64]}",
                code="not_moderated",
            )
    return kept


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(map(is_id, value)):
        raise UpstreamShape("the engine's token_ids is no list of ids", code="upstream_shape")
    return value


def _entries(value: Any, ids: list[int]) -> list[Any]:
    """Return one entry for each id, or none at all."""
    items = value.get("content") if isinstance(value, dict) else None
    if not isinstance(items, list) or len(items) != len(ids):
        return []
    return items if all(isinstance(item, dict) for item in items) else []


def _logprobs(entries: list[Any], in_text: bool, keep_alternatives: bool) -> Json:
    if in_text:
        return chat_logprobs([(Entry("", entry), 0) for entry in entries], keep_alternatives)
    return {"content": [_entry(entry, keep_alternatives) for entry in entries]}


def _entry(entry: Json, keep_alternatives: bool) -> Json:
    made = _figures(entry)
    others = entry.get("top_logprobs")
    made["top_logprobs"] = [
        _figures(other)
        for other in (others if isinstance(others, list) else [])
        if isinstance(other, dict)
        and (keep_alternatives or other.get("token_id") == entry.get("token_id"))
    ]
    return made


def _figures(entry: Json) -> Json:
    return {
        name: entry[name] if isinstance(entry.get(name), int | float) else None
        for name in ("token_id", "logprob", "rank")
    }
