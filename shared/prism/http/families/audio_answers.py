"""Transcripts in JSON, plain or verbose: what was said, and again in segments and words."""

from __future__ import annotations

from typing import Any

from prism.http.errors import UpstreamShape
from prism.http.families.openai_common import numbers
from prism.http.families.pieces import label, word
from prism.http.families.values import judged_lines
from prism.http.family import Json
from prism.http.judge import Judge

_TEXTS = (("segments", "text"), ("words", "word"))
_SHORT = ("language", "task")
_FIGURES = (
    "id", "seek", "start", "end", "temperature", "avg_logprob", "compression_ratio",
    "no_speech_prob", "probability",
)  # fmt: skip


def transcript(body: Json, judge: Judge) -> Json:
    """Return a transcript as it may go out. Raises :class:`UpstreamShape`.

    Token ids of segments don't: they would say once more, unjudged, what the text says.
    """
    text = body.get("text")
    if not isinstance(text, str):
        raise UpstreamShape("the engine's answer has no text", code="upstream_shape")
    made: Json = {"text": judge.scan(0, "text", text)}
    for name in _SHORT:
        if isinstance(body.get(name), str):
            made[name] = judge.scan(0, f"{name}.text", label(body[name]))
    if isinstance(body.get("duration"), int | float | str):
        made["duration"] = _seconds(body["duration"])
    for name, key in _TEXTS:
        if body.get(name) is not None and (parts := _parts(body[name], name, key, judge)):
            made[name] = parts
    if (usage := usage_of(body.get("usage"))) is not None:
        made["usage"] = usage
    return made


def usage_of(value: Any) -> Json | None:
    """Return what was used, in tokens or in seconds."""
    counted = numbers(value)
    if counted is None:
        return None
    return {"type": word(value["type"]), **counted} if "type" in value else counted


def _parts(value: Any, name: str, key: str, judge: Judge) -> list[Json]:
    if not isinstance(value, list) or not all(
        isinstance(item, dict) and isinstance(item.get(key), str) for item in value
    ):
        raise UpstreamShape(f"the engine's {name} is no list of texts", code="upstream_shape")
    texts = judged_lines(judge, 0, f"{name}.text", [item[key] for item in value])
    if texts is None:  # blocked, or redacted over several: the text itself says what is left
        return []
    made = []
    for item, text in zip(value, texts, strict=True):
        row = {
            figure: item[figure] for figure in _FIGURES if isinstance(item.get(figure), int | float)
        }
        made.append({**row, key: text, **({"tokens": []} if "tokens" in item else {})})
    return made


def _seconds(value: float | str) -> float | str:
    try:  # OpenAI's own answers have it as a string
        float(value)
    except ValueError:
        raise UpstreamShape("the engine's duration is no number", code="upstream_shape") from None
    return value
