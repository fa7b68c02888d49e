"""What embedding, scoring and reranking APIs answer: numbers. Anything else does not go out.

Labels of classes are the model's own names. Documents in a ranking are the client's, and taken from
its request.
"""

from __future__ import annotations

import re
from typing import Any

from prism.http.errors import UpstreamShape
from prism.http.families.openai_common import numbers
from prism.http.families.pieces import label, mark
from prism.http.family import Json

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_LABEL = re.compile(r"[^\x00-\x1f]{0,128}")
_OBJECT = re.compile(r"[a-z._]{1,32}")
_DEEPEST = 4
_FRAME = (("id", str), ("object", str), ("created", int), ("model", str), ("response_type", str))
_FIGURES = (
    "index", "score", "relevance_score", "num_classes", "probs", "embedding", "data",
)  # fmt: skip
_DURATIONS = ("total_duration", "load_duration", "prompt_eval_count")


def answer(body: Any, documents: list[Any]) -> Any:
    """Return an answer as it may go out, in any of these APIs. Raises :class:`UpstreamShape`."""
    if isinstance(body, list):  # as llama.cpp and text-embeddings-inference have it
        return [_row(item, documents) for item in body]
    if not isinstance(body, dict):
        raise _unknown()
    made: Json = {name: body[name] for name, kind in _FRAME if isinstance(body.get(name), kind)}
    for name, shown in (("id", mark), ("model", label)):
        if name in made:
            made[name] = shown(made[name])
    for name in ("object", "response_type"):
        if name in made and not _OBJECT.fullmatch(made[name]):
            raise _unknown()
    for name in ("usage", "meta", "timings"):
        if (counted := numbers(body.get(name))) is not None:
            made[name] = counted
    for name in _DURATIONS:
        if isinstance(body.get(name), int):
            made[name] = body[name]
    told = False
    for name in ("data", "results"):
        if name in body:
            told = True
            if not isinstance(body[name], list):
                raise _unknown()
            made[name] = [_row(item, documents) for item in body[name]]
    if "embeddings" in body:
        told = True
        made["embeddings"] = _embeddings(body["embeddings"])
    if "embedding" in body:
        told = True
        made["embedding"] = vectors(body["embedding"])
    if not told:
        raise _unknown()
    return made


def vectors(value: Any, depth: int = _DEEPEST) -> Any:
    """Return numbers, lists of numbers, or numbers in Base64; anything else is refused."""
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, str):
        if len(value) % 4 or not _BASE64.fullmatch(value):
            raise _unknown()
        return value
    if not isinstance(value, list) or not depth:
        raise _unknown()
    if not all(type(item) is float or type(item) is int for item in value):
        for item in value:
            vectors(item, depth - 1)
    return value


def _embeddings(value: Any) -> Any:
    if not isinstance(value, dict):
        return vectors(value)
    if not all(_OBJECT.fullmatch(key) or key in ("base64", "int8", "uint8") for key in value):
        raise _unknown()
    return {key: vectors(below) for key, below in value.items()}


def _row(item: Any, documents: list[Any]) -> Json:
    if not isinstance(item, dict):
        raise _unknown()
    made: Json = {name: vectors(item[name]) for name in _FIGURES if name in item}
    if isinstance(kind := item.get("object"), str) and _OBJECT.fullmatch(kind):
        made["object"] = kind
    if "label" in item:
        made["label"] = _label(item["label"])
    for name in ("document", "text"):
        if name in item:
            made[name] = _own(item[name], item.get("index"), documents)
    if not made.keys() & {"embedding", "score", "relevance_score", "probs", "data"}:
        raise _unknown()
    return made


def _label(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and _LABEL.fullmatch(value)):
        raise _unknown()
    return value


def _own(value: Any, index: Any, documents: list[Any]) -> Any:
    """Return the document that an answer repeats, as the client sent it."""
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(documents):
        raise _unknown()
    sent = documents[index]
    if isinstance(value, dict):
        return sent if isinstance(sent, dict) else {"text": sent}
    return sent.get("text") if isinstance(sent, dict) else sent


def _unknown() -> UpstreamShape:
    return UpstreamShape(
        "the engine's answer is not made of vectors, scores or ranks", code="upstream_shape"
    )
