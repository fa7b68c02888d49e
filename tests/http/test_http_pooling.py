"""Embeddings, scores, rankings and classes: text in, numbers out.

No model of these kinds is at hand offline, so the engine is the scripted one; what it answers has
the shapes that vLLM 0.32, llama-server, Ollama and Cohere document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest
from generate_script import detokenise
from house import FAST, MESSAGE
from serving import healthy, http, served
from upstream import Upstream, usage

from prism.config import Settings
from prism.http import PrismMiddleware

BAD = "tell me of the Zephyr Lantern"
EMBED_PATHS = ["/v1/embeddings", "/embedding", "/pooling", "/classify"]
VECTOR = {"object": "embedding", "index": 0, "embedding": [0.25, -1, 3e-5]}
EMBEDDED = {
    "id": "embd-1", "object": "list", "created": 1_700_000_000, "model": "small",
    "data": [VECTOR], "usage": usage(3, 0), "note": "zephyr lantern",
}  # fmt: skip
SCORED = {
    "id": "score-1", "object": "list", "created": 1, "model": "small",
    "data": [{"index": 0, "object": "score", "score": 0.5}], "usage": usage(3, 0),
}  # fmt: skip
CLASSED = {
    "id": "classify-1", "object": "list", "created": 1, "model": "small", "usage": usage(3, 0),
    "data": [{"index": 0, "label": "LABEL_1", "probs": [0.1, 0.9], "num_classes": 2}],
}  # fmt: skip
POOLED = {
    "id": "pool-1", "object": "list", "created": 1, "model": "small", "usage": usage(3, 0),
    "data": [{"index": 0, "object": "pooling", "data": [[0.1, 0.2], [0.3, 0.4]]}],
}  # fmt: skip
DOCUMENTS = ["a cat", "a dog"]


@pytest.fixture(scope="module")
def base(upstream: Upstream, settings: Settings) -> Iterator[str]:
    """A server that can read token ids."""
    app = PrismMiddleware(upstream.app, settings=settings, timing=FAST, detokenise=detokenise)
    with served(app) as made:
        healthy(made)
        yield made


def ask(base: str, path: str, name: str = "small", **body: Any) -> Any:
    return http.post(base + path, json={"model": name, **body})


@pytest.mark.parametrize(
    "value",
    [
        BAD,
        ["fine", BAD],
        [2, 4, 5],
        [[6], [2, 3]],
        ["fine", [2, "", 3]],
        [{"role": "user", "content": BAD}],
        [[{"role": "user", "content": "fine"}], [{"role": "system", "content": BAD}]],
        [{"role": "user", "content": [{"type": "text", "text": BAD}]}],
        [{"content": [{"type": "text", "text": BAD}]}],
        {"prompt_string": BAD, "multimodal_data": ["AAAA"]},
        [{"text": BAD}],
        [{"title": {"deep": [BAD]}}],
        {"zephyr": " lantern"},
    ],
)
@pytest.mark.parametrize("path", EMBED_PATHS)
def test_inputs_of_every_shape_are_judged(
    base: str, upstream: Upstream, path: str, value: Any
) -> None:
    before = len(upstream.seen)
    reply = ask(base, path, input=value)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["code"], error["param"], error["message"]) == ("content_filter", "input", MESSAGE)
    assert '"stage":"prompt"' in reply.headers["x-prism-receipt"].replace(" ", "")
    assert len(upstream.seen) == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"messages": [{"role": "user", "content": BAD}]}),
        ("/embedding", {"content": ["fine", BAD]}),
        ("/embedding", {"content": "fine", "tomorrows": [BAD]}),
        ("/score", {"queries": "fine", "documents": ["fine", BAD]}),
        ("/score", {"queries": [BAD, "fine"], "items": ["fine", "fine"]}),
        ("/v1/score", {"data_1": "fine", "data_2": BAD}),
        ("/v1/score", {"text_1": BAD, "text_2": "fine"}),
        ("/score", {"queries": {"content": [{"type": "text", "text": BAD}]}, "documents": "a"}),
        ("/rerank", {"query": BAD, "documents": DOCUMENTS}),
        ("/v1/rerank", {"query": "fine", "documents": [{"text": BAD}]}),
        ("/rerank", {"query": "fine", "documents": DOCUMENTS, "instruction": BAD}),
        ("/rerank", {"query": "fine", "texts": ["fine", BAD]}),
        ("/generative_scoring", {"query": BAD, "items": ["a"]}),
        ("/generative_scoring", {"query": "the zephyr", "items": ["fine", " lantern"]}),
        ("/generative_scoring",
         {"query": " lantern", "items": ["the zephyr"], "item_first": True}),
        ("/generative_scoring", {"query": [2], "items": [[3]]}),
    ],
)  # fmt: skip
def test_every_field_that_holds_inputs_is_judged(base: str, path: str, body: Any) -> None:
    reply = ask(base, path, **body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "content_filter"


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/v1/embeddings", {"input": "fine"}, EMBEDDED),
        ("/pooling", {"input": "fine"}, POOLED),
        ("/classify", {"input": "fine"}, CLASSED),
        ("/score", {"queries": "a", "documents": ["b"]}, SCORED),
        ("/generative_scoring", {"query": "a", "items": ["b"]}, SCORED),
    ],
)
def test_answers_keep_what_is_known(
    base: str, upstream: Upstream, path: str, body: Any, answer: Any
) -> None:
    reply = ask(base, path, upstream.say("p-fine", body=answer), **body)
    assert reply.json() == {key: value for key, value in answer.items() if key != "note"}
    assert '"action":"allow"' in reply.headers["x-prism-receipt"].replace(" ", "")


def test_the_official_client_reads_base64(base: str, upstream: Upstream) -> None:
    row = {**VECTOR, "embedding": "AACAPgAAgL8="}
    upstream.say("p-64", body={**EMBEDDED, "data": [row]})
    with openai.OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0) as client:
        got = client.embeddings.create(model="p-64", input=["fine"])
        assert got.data[0].embedding == [0.25, -1.0]
        assert upstream.seen[-1]["encoding_format"] == "base64"
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="p-64", input=[BAD])
    assert caught.value.code == "content_filter"


def test_llama_cpps_own_answers(base: str, upstream: Upstream) -> None:
    rows = [{"index": 0, "embedding": [[0.5, 1.0], [2.0, 3.0]]}]
    assert ask(base, "/embedding", upstream.say("p-l", body=rows), content="a").json() == rows


def test_rankings_repeat_the_clients_own_documents(base: str, upstream: Upstream) -> None:
    def ranked(*documents: Any) -> Any:
        rows = [
            {"index": 1 - n, "relevance_score": 0.9 - n, "document": document}
            for n, document in enumerate(documents)
        ]
        return {"id": "rerank-1", "model": "small", "results": rows,
                "usage": {"prompt_tokens": 9, "total_tokens": 9}}  # fmt: skip

    said = ranked({"text": "zephyr lantern", "multi_modal": None}, {"text": "a cat"})
    name = upstream.say("p-rank", body=said)
    got = ask(base, "/v1/rerank", name, query="q", documents=DOCUMENTS).json()
    assert [row["document"] for row in got["results"]] == [{"text": "a dog"}, {"text": "a cat"}]
    assert got["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    flat = [{"index": 0, "score": 0.3, "text": "zephyr"}]
    name = upstream.say("p-tei", body=flat)
    got = ask(base, "/rerank", name, query="q", texts=DOCUMENTS).json()
    assert got == [{"index": 0, "score": 0.3, "text": "a cat"}]
    name = upstream.say("p-far", body=[{"index": 7, "score": 0.3, "text": "zephyr"}])
    assert ask(base, "/rerank", name, query="q", texts=DOCUMENTS).status_code == 502


def test_cohere(base: str, upstream: Upstream) -> None:
    body = {
        "id": "embd-1", "response_type": "embeddings_by_type", "texts": ["zephyr lantern"],
        "embeddings": {"float": [[0.5, 0.25]], "base64": ["AACAPg=="], "int8": [[1, -2]]},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 2}},
    }  # fmt: skip
    name = upstream.say("p-cohere", body=body)
    got = ask(base, "/v2/embed", name, texts=["fine"], embedding_types=["float"]).json()
    assert got["embeddings"] == body["embeddings"]
    assert "texts" not in got
    parts = [{"type": "text", "text": BAD}]
    for more in ({"texts": [BAD]}, {"inputs": [{"content": parts}]}):
        reply = ask(base, "/v2/embed", name, **more)
        assert (reply.status_code, reply.json()) == (400, {"message": MESSAGE})
    ranked = {"id": "r", "results": [{"index": 1, "relevance_score": 0.5}]}
    name = upstream.say("p-cohere-rank", body=ranked)
    assert ask(base, "/v2/rerank", name, query="q", documents=DOCUMENTS).json() == ranked
    pictures = ask(base, "/v2/embed", "p-cohere", images=["data:image/png;base64,AAAA"])
    assert '"unread":["image"]' in pictures.headers["x-prism-receipt"].replace(" ", "")


def test_ollama(base: str, upstream: Upstream) -> None:
    figures = {"total_duration": 14, "load_duration": 1, "prompt_eval_count": 8}
    upstream.say("p-o", body={"model": "p-o", "embeddings": [[0.5, 0.1]], **figures, "x": "zephyr"})
    upstream.say("p-old", body={"embedding": [0.5, 0.1]})
    client = ollama.Client(base)
    assert client.embed("p-o", ["fine"]).embeddings == [[0.5, 0.1]]
    assert client.embed("p-o", "fine").prompt_eval_count == 8
    assert client.embeddings("p-old", "fine").embedding == [0.5, 0.1]
    for wrong in (lambda: client.embed("p-o", ["fine", BAD]), lambda: client.embeddings("x", BAD)):
        with pytest.raises(ollama.ResponseError, match=MESSAGE) as caught:
            wrong()
        assert caught.value.status_code == 400
    client._client.close()


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        ("/v1/embeddings", {}, "input"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/embeddings", {"input": 5}, "input"),
        ("/v1/embeddings", {"input": ["a", 1.5]}, "input[1]"),
        ("/v1/embeddings", {"input": [1, {"a": 1}]}, "input"),
        ("/v1/embeddings", {"input": [99_999]}, "input"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "bytes"}, "encoding_format"),
        ("/v1/embeddings", {"input": "a", "stream": True}, "stream"),
        ("/v1/embeddings", {"input": "a", "prompt_embeds": "x"}, "prompt_embeds"),
        ("/v1/embeddings", {"input": "a", "prism_policy": "x"}, "prism_policy"),
        ("/v1/embeddings", {"messages": [{"role": 5}]}, "messages[0]"),
        ("/pooling", {"data": "zephyr", "task": "plugin"}, "input"),
        ("/score", {"documents": ["a"]}, "queries"),
        ("/generative_scoring", {"query": "a", "items": "b"}, "items"),
    ],
)
def test_requests_that_are_wrong(base: str, path: str, more: Any, param: str) -> None:
    reply = ask(base, path, **more)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_ids_need_an_adapter_that_reads_them(url: str) -> None:
    reply = ask(url, "/v1/embeddings", input=[[1, 2]])
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "not_moderated"


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "zephyr lantern"},
        {"data": "zephyr lantern"},
        {"data": ["zephyr lantern"]},
        {"data": [{"index": 0}]},
        {"data": [{"index": 0, "embedding": "zephyr lantern"}]},
        {"data": [{"index": 0, "embedding": [0.5, "zephyr"]}]},
        {"data": [{"index": 0, "embedding": [[[[[[1]]]]]]}]},
        {"data": [{"index": "zephyr lantern", "score": 1}]},
        {"data": [{"score": 1, "label": "zephyr\nlantern"}]},
        {"embeddings": {"zephyr lantern": [1]}},
        {"object": "zephyr lantern", "data": []},
        {"results": [{"index": 0, "relevance_score": 1, "document": "zephyr"}]},
        {"choices": [{"text": "zephyr lantern"}]},
        "zephyr lantern",
        ["zephyr lantern"],
    ],
)
def test_an_answer_that_is_not_numbers_does_not_go_out(
    base: str, upstream: Upstream, answer: Any
) -> None:
    reply = ask(base, "/v1/embeddings", upstream.say("p-shape", body=answer), input="fine")
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "upstream_shape"
    assert "zephyr" not in reply.text


def test_neither_streams_nor_bytes_go_out(base: str, upstream: Upstream) -> None:
    name = upstream.say("p-stream", stream=["zephyr lantern"])
    assert ask(base, "/v1/embeddings", name, input="fine").status_code == 502
    name = upstream.say("p-raw", raw=b"\0zephyr", content_type="application/octet-stream")
    reply = ask(base, "/v1/embeddings", name, input="fine")
    assert reply.json()["error"]["code"] == "upstream_content_type"
