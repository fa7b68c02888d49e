"""Speech to text: ``/v1/audio/transcriptions`` and ``/v1/audio/translations``.

The audio itself no tier can read; the request's texts and the transcript are judged. A refusal in
place of a transcript would be taken for what was said, so a block is an error, 400 with
``content_filter``, and in a stream ``finish_reason: "content_filter"`` or an ``error`` event.
"""

from __future__ import annotations

import re
from typing import Any

from prism.http import prompts
from prism.http.body import parse_object
from prism.http.codec import FORM
from prism.http.dialect import TEXTS
from prism.http.errors import BadRequest, ContentFiltered, UpstreamShape
from prism.http.families.audio_answers import transcript
from prism.http.families.audio_stream import AudioStream
from prism.http.families.subtitles import Subtitles
from prism.http.family import Call, Json, Reading, StreamFilter
from prism.http.form import Upload
from prism.http.judge import Judge
from prism.http.sse import Event

_CONTROLS = frozenset(
    {
        "file", "model", "language", "to_language", "response_format", "temperature", "stream",
        "timestamp_granularities[]", "include[]", "chunking_strategy", "vllm_xargs",
    }
)  # fmt: skip
_FLAGS = (
    "stream", "use_beam_search", "stream_include_usage", "stream_continuous_usage_stats",
    "include_stop_str_in_output", "watermarking", "vad_filter",
)  # fmt: skip
_LANGUAGES = ("language", "to_language")
_LANGUAGE = re.compile(r"[A-Za-z_-]{0,12}")
_YES, _NO = frozenset({"true", "1"}), frozenset({"false", "0", ""})


class Audio:
    """Both routes."""

    name = "audio"
    paths = ("/v1/audio/transcriptions", "/v1/audio/translations")
    dialect = TEXTS
    codec = FORM

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the form and take its texts out."""
        told = {**body, **{name: _flag(body, name) for name in _FLAGS if name in body}}
        if isinstance(told.get("vllm_xargs"), str):
            told["vllm_xargs"] = parse_object(told["vllm_xargs"].encode())
        prompts.refuse_unsafe(told, reading.engine)
        if not isinstance(body.get("file"), Upload):
            raise BadRequest("file must be a file", param="file", code="invalid_type")
        for name, value in body.items():
            if name != "file" and not _is_text(value):
                raise BadRequest(f"{name[:64]} must be text", param=name, code="invalid_type")
        messages = [
            {"role": "user", "content": prompts.text(body, key)}
            for key in ("prompt", "hotwords")
            if body.get(key)
        ]
        controls = {
            key
            for key in _CONTROLS
            if key not in _LANGUAGES or _LANGUAGE.fullmatch(prompts.text(body, key))
        }
        messages += prompts.context(body, frozenset(controls | {"prompt", "hotwords"}))
        prompts.check_length(messages, reading.max_prompt_chars)
        return Call(
            body=told,
            messages=messages,
            stream=bool(told.get("stream", False)),
            choices=1,
            model=prompts.text(body, "model"),
            include_usage=bool(told.get("stream_include_usage", False)),
            unread=("audio",),
        )

    def refusal(self, call: Call, decision_id: str, message: str) -> Any:
        """Raise: a transcript can't say that its request was blocked."""
        raise ContentFiltered(message, param="prompt")

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Raise, as above: nothing has begun yet."""
        raise ContentFiltered(message, param="prompt")

    def whole(self, call: Call, body: Any, judge: Judge) -> Any:
        """Judge a transcript: JSON, or a text, perhaps of subtitles."""
        if isinstance(body, str):
            said: Any = Subtitles(body).judged(judge)
        elif isinstance(body, dict):
            said = transcript(body, judge)
        else:
            raise UpstreamShape("the engine's answer is no transcript", code="upstream_shape")
        if judge.ends_in_refusal(0):
            judge.refuse(0)
        if judge.blocked or judge.refused:
            raise ContentFiltered(judge.message, param=None)
        return said

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Judge a transcript in pieces."""
        return AudioStream(call, judge)


AUDIO = Audio()


def _flag(body: Json, name: str) -> bool:
    """Return a form's boolean. Engines differ in what they take for one, so few words are taken."""
    value = body[name]
    lower = value.lower() if isinstance(value, str) else None
    if lower not in _YES | _NO:
        raise BadRequest(f"{name} must be true or false", param=name, code="invalid_type")
    return lower in _YES


def _is_text(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return isinstance(value, str)
