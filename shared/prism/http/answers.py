"""Answers in one piece, judged: the bytes that go out for those that came."""

from __future__ import annotations

from prism.http.dialect import Dialect
from prism.http.errors import UpstreamShape, dumps
from prism.http.families.openai_common import WITHHELD, read_json, read_value, safe_error
from prism.http.family import Call, Family
from prism.http.judge import Judge


def json_answer(family: Family, call: Call, judge: Judge, raw: bytes) -> bytes:
    """Return what goes out for an answer in JSON. Raises :class:`UpstreamShape`."""
    return dumps(family.whole(call, read_value(raw), judge))


def text_answer(family: Family, call: Call, judge: Judge, raw: bytes) -> bytes:
    """Return what goes out for an answer in plain text. Raises :class:`UpstreamShape`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UpstreamShape("the engine sent invalid UTF-8", code="upstream_utf8") from None
    return str(family.whole(call, text, judge)).encode("utf-8", "replace")


def error_answer(dialect: Dialect, judge: Judge, raw: bytes, kind: str) -> bytes:
    """Return what goes out for an error of the engine's; ``kind`` is its content type."""
    try:
        shown = safe_error(read_json(raw), judge)
        if shown is WITHHELD:
            return dumps(dialect.error(shown))
        return dumps(dialect.engine_error(shown))
    except UpstreamShape:
        pass
    text = raw.decode("utf-8", "replace").strip()
    if not kind.startswith("text/plain") or not judge.passes(text):
        return dumps(dialect.error(WITHHELD))
    error = {"message": text, "type": "upstream_error", "param": None, "code": None}
    return dumps(dialect.error({"error": error}))
