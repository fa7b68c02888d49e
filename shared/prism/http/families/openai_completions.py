"""OpenAI completions, with llama.cpp's route for editors that speak the same."""

from __future__ import annotations

from typing import Any

from prism.http import prompts
from prism.http.errors import BadRequest, UpstreamShape, dumps
from prism.http.families.openai_common import (
    FILTERED,
    NO_USAGE,
    Choice,
    ChoiceBase,
    OpenAIStream,
    done,
    refusal_frame,
    whole,
)
from prism.http.family import Call, Json, Reading, StreamFilter
from prism.http.judge import Judge
from prism.http.logprobs import text_entries, text_logprobs
from prism.http.sse import Event

_CHANNEL = "text"
_MAX_TOKEN_IDS = 1_000_000


class Completions:
    """``/v1/completions``."""

    name = "completions"
    paths = ("/v1/completions", "/v1/engines/copilot-codex/completions")
    chunk_object = "text_completion"

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        prompts.refuse_unsafe(body, reading.engine)
        given = _prompts(body.get("prompt"), reading)
        messages = [{"role": "user", "content": text} for text in given]
        messages += prompts.context(body, frozenset({"prompt"}))
        prompts.check_length(messages, reading.max_prompt_chars)
        prompts.flag(body, "echo")
        prompts.integer(body, "best_of", 1, 1, reading.max_choices)
        n = prompts.integer(body, "n", 1, 1, reading.max_choices)
        if n * max(1, len(given)) > reading.max_choices:
            raise BadRequest(
                f"n times the number of prompts is over the limit of {reading.max_choices}",
                param="n",
                code="out_of_range",
            )
        call = Call(
            body=body,
            messages=messages,
            stream=prompts.flag(body, "stream"),
            choices=n * max(1, len(given)),
            model=prompts.text(body, "model"),
            stop=prompts.stop_strings(body),
        )
        prompts.ask_for_usage(call, reading.engine)
        return call

    def choice(self, call: Call, judge: Judge, index: int) -> Choice:
        """Return the state of a new choice."""
        return _Choice(call, judge, index)

    def refusal(self, call: Call, decision_id: str, message: str) -> Json:
        """Return a normal answer that says ``message``."""
        rows = [_row(index, message, FILTERED) for index in range(call.choices)]
        frame = refusal_frame(call, "cmpl", decision_id, "text_completion")
        return {**frame, "choices": rows, "usage": NO_USAGE}

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Return the same as a stream."""
        frame = refusal_frame(call, "cmpl", decision_id, self.chunk_object)
        bodies: list[Json] = []
        for index in range(call.choices):
            bodies.append({**frame, "choices": [_row(index, message, None)]})
            bodies.append({**frame, "choices": [_row(index, "", FILTERED)]})
        if call.include_usage:
            bodies.append({**frame, "choices": [], "usage": NO_USAGE})
        return [Event(dumps(body).decode()) for body in bodies] + [done()]

    def whole(self, call: Call, body: Json, judge: Judge) -> Json:
        """Judge an answer in one piece."""
        frame, choices = whole(call, body, "text_completion")
        for place, piece in enumerate(choices):
            index = piece.get("index", place)
            if not isinstance(index, int):
                raise UpstreamShape("the engine's choice has no index", code="upstream_shape")
            reason = piece.get("finish_reason") or "stop"
            rows = _Choice(call, judge, index).feed({**piece, "finish_reason": reason})
            if index in judge.blocked:
                rows = [_row(index, judge.message, FILTERED)]
            frame["choices"].append(rows[0])
        return frame

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Judge an answer in pieces."""
        return OpenAIStream(self, call, judge)


COMPLETIONS = Completions()


class _Choice(ChoiceBase):
    def feed(self, piece: Json) -> list[Json]:
        given = piece.get("text")
        if self._queue is not None:
            self._queue.add(text_entries(piece.get("logprobs")))
        text = self._text(_CHANNEL, "" if given is None else given)
        reason = self._reason(piece)
        if reason is not None:
            text += self._end(_CHANNEL)
        if self.blocked:
            return self._cut(text)
        final = reason is not None
        entries = self._queue.take(final=final) if self._queue is not None else []
        if not (text or final or entries):
            return []
        self.over = final
        logprobs = text_logprobs(entries, self._judge.keep_alternatives) if entries else None
        row = _row(self._index, text, self._final_reason(reason), logprobs)
        return [{**row, **self._tail(piece)}]

    def close(self) -> list[Json]:
        self.over = True
        text = self._end(_CHANNEL)
        if self.blocked:
            return self._cut(text)
        return [_row(self._index, text, self._final_reason(None))] if text else []

    def _cut(self, text: str) -> list[Json]:
        self.over = True
        rows = [_row(self._index, text, None)] if text else []
        if not self._shown:
            rows.append(_row(self._index, self._judge.message, None))
        return [*rows, _row(self._index, "", FILTERED)]


def _row(index: int, text: str, reason: str | None, logprobs: Json | None = None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _prompts(value: Any, reading: Reading) -> list[str]:
    """Return the prompts as text, whichever of the API's four shapes they come in."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return list(value)
        if all(is_id(item) for item in value):
            return [text_of(value, reading)]
        if all(isinstance(item, list) and all(map(is_id, item)) for item in value):
            return [text_of(item, reading) for item in value]
    raise BadRequest(
        "prompt must be a string, a list of strings, a list of token ids or a list of such lists",
        param="prompt",
        code="invalid_type",
    )


def is_id(value: Any) -> bool:
    """Whether a JSON value can be a token id."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def text_of(ids: list[int], reading: Reading) -> str:
    """Return token ids of a prompt as text. Raises :class:`BadRequest` where that can't be done."""
    if reading.detokenise is None:
        raise BadRequest(
            "token ids as a prompt can't be judged on this server; send text",
            param="prompt",
            code="not_moderated",
        )
    if len(ids) > _MAX_TOKEN_IDS:
        raise BadRequest("the prompt has too many token ids", param="prompt", code="out_of_range")
    try:
        return reading.detokenise(ids)
    except Exception as error:
        raise BadRequest(
            "the prompt has token ids that this model does not know",
            param="prompt",
            code="invalid_token_ids",
        ) from error
