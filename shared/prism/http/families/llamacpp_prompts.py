"""The shapes that llama.cpp's own routes take a prompt in.

A prompt is a string, a list of token ids, a list that mixes ids and strings, or an object with
``prompt_string`` and ``multimodal_data``. A list of such things without a number in it is a list of
prompts. ``/infill`` has text before and after, and more files, beside the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prism.http.errors import BadRequest
from prism.http.families.openai_completions import is_id, text_of
from prism.http.family import Json, Reading
from prism.http.prompts import strings, text
from prism.http.templates import raw_messages
from prism.http.written import apart, seams, written

_PIECES = ("input_prefix", "input_suffix")
_EXTRA = "input_extra"
_KNOWN = frozenset({"prompt", _EXTRA, *_PIECES, "response_fields", "samplers"})


@dataclass(frozen=True, slots=True)
class Prompts:
    """What p(x) judges of a request's prompts, and how many there are."""

    messages: list[dict[str, str]]
    count: int
    unread: tuple[str, ...]
    known: frozenset[str] = _KNOWN


def read_prompts(body: Json, reading: Reading) -> Prompts:
    """Take the text out of a request. Raises :class:`BadRequest`."""
    value = body.get("prompt")
    unread: set[str] = set()
    several = isinstance(value, list) and not any(map(is_id, value))
    listed: list[Any] = value if several else [] if value is None else [value]  # type: ignore[assignment]
    texts = [_one(item, reading, unread) for item in listed]
    prefix, suffix = (text(body, key) for key in _PIECES)
    extra = "\n".join(strings(_extra(body.get(_EXTRA))))
    pieces = [piece for piece in (extra, prefix, suffix, *texts) if piece]
    messages = [message for piece in pieces for message in raw_messages(piece)]
    if prefix or suffix:
        # The model reads them as one text: a phrase may be cut where one ends and the next begins.
        around = texts or [""]
        joined = {prefix + suffix, *(prefix + each + suffix for each in around)}
        joined |= {prefix + suffix + each for each in around}
        messages += [{"role": "user", "content": each} for each in sorted(joined)]
        messages += apart(suffix + prefix + each for each in around)  # if the engine is told so
    files, ends = written({_EXTRA: body.get(_EXTRA)})
    messages += apart([*files, *seams(ends, (prefix, suffix, *texts))])
    return Prompts(messages, max(1, len(texts)), tuple(sorted(unread)))


def _one(value: Any, reading: Reading, unread: set[str]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _with_media(value, unread)
    if not isinstance(value, list):
        raise _wrong("prompt")
    parts: list[str] = []
    ids: list[int] = []
    for item in value:
        if is_id(item):
            ids.append(item)
            continue
        if not isinstance(item, str):
            raise _wrong("prompt")
        if ids:
            parts.append(text_of(ids, reading))
            ids = []
        parts.append(item)
    if ids:
        parts.append(text_of(ids, reading))
    return "".join(parts)


def _with_media(value: Json, unread: set[str]) -> str:
    for key in value:
        if key not in ("prompt_string", "multimodal_data"):
            raise BadRequest(
                f"prompt.{key[:64]} is not moderated, so not accepted",
                param="prompt",
                code="not_moderated",
            )
    said = value.get("prompt_string")
    media = value.get("multimodal_data")
    if not isinstance(said, str) or not isinstance(media, list | None):
        raise _wrong("prompt")
    if media:
        unread.add("media")  # images or sound: the bytes alone tell
    return said


def _extra(value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _wrong(_EXTRA)
    return value


def _wrong(key: str) -> BadRequest:
    what = "a list of objects" if key == _EXTRA else "a string, token ids, an object or a list"
    return BadRequest(f"{key} must be {what}", param=key, code="invalid_type")
