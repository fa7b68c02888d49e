"""vLLM's ``/invocations`` (SageMaker's one route): chat, completions or a pooling API, by the body.

vLLM takes the first of its APIs that a body is valid for, so one that could be two of them could be
judged as one and answered as the other. Such bodies are refused.
"""

from __future__ import annotations

from typing import Any

from prism.http.errors import BadRequest, UpstreamShape
from prism.http.families.openai_chat import CHAT
from prism.http.families.openai_completions import COMPLETIONS
from prism.http.families.pooling import EMBEDDINGS, RERANK, SCORE
from prism.http.family import Call, Family, Json, Reading, StreamFilter
from prism.http.judge import Judge
from prism.http.sse import Event

_SHAPES: tuple[tuple[str, Family], ...] = (
    ("messages", CHAT),
    ("prompt", COMPLETIONS),
    ("input", EMBEDDINGS),
    ("query", RERANK),
    ("queries", SCORE),
    ("data_1", SCORE),
    ("text_1", SCORE),
)


class Invocations:
    """``/invocations``."""

    name = "invocations"
    paths = ("/invocations",)

    def read(self, body: Json, reading: Reading) -> Call:
        """Find out which API the request speaks, and read it as that API does."""
        found = [(key, family) for key, family in _SHAPES if key in body]
        if len(found) != 1:
            keys = ", ".join(repr(key) for key, _ in found or _SHAPES)
            problem = "more than one of" if found else "none of"
            raise BadRequest(
                f"the body has {problem} {keys}, so it can't be told which API it speaks",
                param=found[1][0] if found else None,
                code="ambiguous_request",
            )
        family = found[0][1]
        call = family.read(body, reading)
        call.speaks = family
        return call

    def refusal(self, call: Call, decision_id: str, message: str) -> Any:
        """Return that API's refusal."""
        return _api(call).refusal(call, decision_id, message)

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Return that API's refusal as a stream."""
        return _api(call).refusal_stream(call, decision_id, message)

    def whole(self, call: Call, body: Any, judge: Judge) -> Any:
        """Judge an answer in one piece. Messages to an embedding model are answered by vectors."""
        family = _api(call)
        if family is CHAT and isinstance(body, dict) and "choices" not in body:
            family = EMBEDDINGS
        return family.whole(call, body, judge)

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Judge an answer in pieces."""
        return _api(call).stream(call, judge)


def _api(call: Call) -> Family:
    if call.speaks is None:
        raise UpstreamShape("the request was not read", code="upstream_shape")
    return call.speaks


INVOCATIONS = Invocations()
