"""OpenAI completions, with llama.cpp's route for editors that speak the same."""

from __future__ import annotations

from typing import Any

from prism.http import prompts
from prism.http.errors import BadRequest, UpstreamShape
from prism.http.families.choices import FILTERED, ChoiceBase
from prism.http.families.openai_common import (
    Choice,
    OpenAIApi,
    whole,
)
from prism.http.family import Call, Json, Reading
from prism.http.judge import Judge
from prism.http.logprobs import text_entries, text_logprobs
from prism.http.templates import raw_messages
from prism.http.written import apart

_CHANNEL = "text"
_MAX_TOKEN_IDS = 1_000_000


class Completions(OpenAIApi):
    """``/v1/completions``."""

    name = "completions"
    paths: tuple[str, ...] = ("/v1/completions", "/v1/engines/copilot-codex/completions")
    kind = chunk_object = "text_completion"
    id_prefix = "cmpl"

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        prompts.refuse_unsafe(body, reading.engine)
        given = _prompts(body.get("prompt"), reading)
        messages = [message for text in given for message in raw_messages(text)]
        messages += prompts.context(body, frozenset({"prompt"}), messages)
        if suffix := prompts.text(body, "suffix"):
            # The model reads both as one text, in one order or the other.
            messages += apart(t for text in given for t in (text + suffix, suffix + text))
        prompts.check_length(messages, reading.max_prompt_chars)
        prompts.flag(body, "echo")
        n = prompts.integer(body, "n", 1, 1, reading.max_choices)
        prompts.integer(body, "best_of", n, n, n)  # more would be generated than is counted
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

    def said(self, call: Call, index: int, message: str) -> Json:
        """Return a whole choice that says ``message``, filtered."""
        return _row(index, message, FILTERED)

    def pieces(self, call: Call, index: int, message: str) -> list[Json]:
        """Return the same as pieces of a stream."""
        return [_row(index, message, None), _row(index, "", FILTERED)]

    def whole(self, call: Call, body: Json, judge: Judge) -> Json:
        """Judge an answer in one piece."""
        frame, choices = whole(call, body, self.kind)
        for place, piece in enumerate(choices):
            index = piece.get("index", place)
            if not isinstance(index, int):
                raise UpstreamShape("the engine's choice has no index", code="upstream_shape")
            reason = piece.get("finish_reason") or "stop"
            rows = _Choice(call, judge, index).feed({**piece, "finish_reason": reason})
            if index in judge.blocked:
                rows = [self.said(call, index, judge.message)]
            frame["choices"].append(rows[0])
        return frame


COMPLETIONS = Completions()


class _Choice(ChoiceBase):
    paths = ((_CHANNEL,),)

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


def text_of(ids: list[int], reading: Reading, param: str = "prompt") -> str:
    """Return token ids of a prompt as text. Raises :class:`BadRequest` where that can't be done."""
    if reading.detokenise is None:
        raise BadRequest(
            "token ids as a prompt can't be judged on this server; send text",
            param=param,
            code="not_moderated",
        )
    if len(ids) > _MAX_TOKEN_IDS:
        raise BadRequest("the prompt has too many token ids", param=param, code="out_of_range")
    try:
        return reading.detokenise(ids)
    except Exception as error:
        raise BadRequest(
            "the prompt has token ids that this model does not know",
            param=param,
            code="invalid_token_ids",
        ) from error
