"""Embeddings, scores, rankings, classes: text goes in and numbers come out.

Inputs are judged as prompts. An answer has no place for a message, so a blocked input is an error,
400 with ``content_filter``. Answers are rebuilt from what is known to hold numbers.
"""

from __future__ import annotations

from typing import Any

from prism.http import prompts
from prism.http.dialect import COHERE, NDJSON, OPENAI, Dialect
from prism.http.errors import BadRequest, ContentFiltered, UpstreamShape
from prism.http.families.pooling_answers import answer
from prism.http.families.pooling_inputs import INPUTS, PICTURES, Inputs
from prism.http.family import Call, Json, Reading, StreamFilter
from prism.http.judge import Judge
from prism.http.sse import Event

_FORMATS = ("bytes", "bytes_only")
_CONTROLS = frozenset(
    {
        "encoding_format", "embed_dtype", "endianness", "embedding_types", "input_type", "truncate",
        "padding", "task", "keep_alive", "return_text", "label_token_ids",
    }
)  # fmt: skip


class Pooling:
    """One such API: its routes, and the fields that one of which has to be there."""

    def __init__(
        self, name: str, paths: tuple[str, ...], needs: tuple[str, ...], dialect: Dialect = OPENAI
    ) -> None:
        self.name = name
        self.paths = paths
        self.dialect = dialect
        self._needs = needs

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        prompts.refuse_unsafe(body, reading.engine)
        if body.get("encoding_format") in _FORMATS:
            raise BadRequest(
                "embeddings as raw bytes can't be checked here; ask for 'base64' or 'float'",
                param="encoding_format",
                code="not_moderated",
            )
        if prompts.flag(body, "stream"):
            raise BadRequest("there is nothing to stream", param="stream", code="out_of_range")
        if not any(body.get(key) for key in self._needs):
            wanted = " or ".join(repr(key) for key in self._needs)
            raise BadRequest(f"{wanted} must be given", param=self._needs[0], code="invalid_type")
        found = Inputs(reading)
        for key in body:
            if key in INPUTS:
                found.add(body[key], key)
        found.pictures(body.get(PICTURES), PICTURES)
        messages = found.flat + self._together(body, reading)
        messages += prompts.context(body, INPUTS | _CONTROLS | {PICTURES})
        prompts.check_length(messages, reading.max_prompt_chars)
        return Call(
            body=body,
            messages=messages,
            stream=False,
            choices=1,
            model=prompts.text(body, "model"),
            unread=found.unread,
        )

    def refusal(self, call: Call, decision_id: str, message: str) -> Any:
        """Raise: numbers can't say that something is blocked."""
        first = next((key for key in call.body if key in INPUTS), None)
        raise ContentFiltered(message, param=first)

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Raise, as above."""
        raise ContentFiltered(message, param=None)

    def whole(self, call: Call, body: Any, judge: Judge) -> Any:
        """Return the numbers of an answer."""
        documents = call.body.get("documents") or call.body.get("texts")
        if not isinstance(documents, list):
            documents = [] if documents is None else [documents]
        return answer(body, documents)

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Raise: these APIs answer in one piece."""
        raise UpstreamShape("the engine streams what has to come whole", code="upstream_shape")

    def _together(self, body: Json, reading: Reading) -> list[dict[str, str]]:
        """Return what the model reads as one text although it stands in several fields."""
        return []


class GenerativeScoring(Pooling):
    """vLLM's: how likely tokens are after a query with an item put behind it, or in front."""

    def _together(self, body: Json, reading: Reading) -> list[dict[str, str]]:
        items = body.get("items")
        if not isinstance(items, list):
            raise BadRequest("items must be a list", param="items", code="invalid_type")
        query = self._text(body.get("query"), reading)
        first = prompts.flag(body, "item_first")
        each = [self._text(item, reading) for item in items]
        return [
            {"role": "user", "content": item + query if first else query + item} for item in each
        ]

    @staticmethod
    def _text(value: Any, reading: Reading) -> str:
        found = Inputs(reading)
        found.add(value, "query")
        return "".join(message["content"] for message in found.flat)


EMBEDDINGS = Pooling(
    "embeddings",
    ("/v1/embeddings", "/embeddings", "/embedding", "/pooling", "/classify"),
    ("input", "messages", "content"),
)
SCORE = Pooling("score", ("/score", "/v1/score"), ("queries", "data_1", "text_1"))
RERANK = Pooling("rerank", ("/rerank", "/v1/rerank", "/reranking", "/v1/reranking"), ("query",))
COHERE_EMBED = Pooling("cohere_embed", ("/v2/embed",), ("texts", "inputs", PICTURES), COHERE)
COHERE_RERANK = Pooling("cohere_rerank", ("/v2/rerank",), ("query",), COHERE)
OLLAMA_EMBED = Pooling(
    "ollama_embed", ("/api/embed", "/api/embeddings"), ("input", "prompt"), NDJSON
)
GENERATIVE_SCORING = GenerativeScoring("generative_scoring", ("/generative_scoring",), ("query",))
POOLING = (
    EMBEDDINGS, SCORE, RERANK, COHERE_EMBED, COHERE_RERANK, OLLAMA_EMBED, GENERATIVE_SCORING,
)  # fmt: skip
