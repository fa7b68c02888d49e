"""Receipts and metrics: what was really run, in numbers, and never a word of anybody's text."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import openai
from house import FAST, POLICY
from serving import healthy, http, served
from starlette.middleware.cors import CORSMiddleware
from upstream import Upstream, chat_body, chat_stream

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.record.metrics import Metrics
from prism.record.receipt import Receipt
from prism.types import Action, Decision, TierState

CHAT: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}
BAD: dict[str, Any] = {
    "model": "small",
    "messages": [{"role": "user", "content": "zephyr lantern"}],
}


def receipt_of(reply: httpx.Response) -> dict[str, Any]:
    if "x-prism-receipt" in reply.headers:
        return dict(json.loads(reply.headers["x-prism-receipt"]))
    lines = [line for line in reply.text.split("\n") if line.startswith(": prism-receipt ")]
    assert len(lines) == 1
    assert reply.text.index(lines[0]) < reply.text.index("[DONE]")
    return dict(json.loads(lines[0].removeprefix(": prism-receipt ")))


def text_of(url: str) -> str:
    return http.get(f"{url}/prism/metrics").text


def post(url: str, body: dict[str, Any]) -> httpx.Response:
    return http.post(f"{url}/v1/chat/completions", json=body)


def test_the_receipt_of_an_answer_that_passed(
    url: str, upstream: Upstream, settings: Settings
) -> None:
    body = chat_body("Good day.", reasoning="mull")
    name = upstream.say("r1", body=body, stream=chat_stream(["Good", " day."]))
    whole = receipt_of(post(url, {**CHAT, "model": name}))
    streamed = receipt_of(post(url, {**CHAT, "model": name, "stream": True}))
    assert whole["policy"] == settings.policy.digest
    assert whole["tenant"] == "default"
    assert whole["action"] == "allow"
    assert whole["layers"] == ["text"]
    assert whole["channels"] == {"prompt": 5, "content": 9, "reasoning": 4}
    assert streamed["channels"] == {"prompt": 5, "content": 9}
    assert whole["tiers"] == {"prompt.patterns": "ran", "output.patterns": "ran"}
    assert whole["id"] != streamed["id"]
    assert "stage" not in whole


def test_the_receipt_of_a_block_says_where_and_not_what(url: str, upstream: Upstream) -> None:
    for stream in (False, True):
        reply = post(url, {**BAD, "stream": stream})
        receipt = receipt_of(reply)
        assert (receipt["action"], receipt["stage"]) == ("block", "prompt")
        assert receipt["categories"] == ["prv"]
        assert set(receipt["tiers"]) == {"prompt.patterns"}  # the output was not looked at
        assert set(receipt["channels"]) == {"prompt"}
        assert "zephyr" not in reply.text
    parts = ["the marzipan", " gasket"]
    name = upstream.say("r2", body=chat_body("".join(parts)), stream=chat_stream(parts))
    for stream in (False, True):
        receipt = receipt_of(post(url, {**CHAT, "model": name, "stream": stream}))
        assert (receipt["action"], receipt["stage"]) == ("block", "output")
        assert receipt["blocked_choices"] == 1


def test_the_id_of_a_stream_is_known_from_its_head(url: str) -> None:
    reply = post(url, {**CHAT, "stream": True})
    assert reply.headers["x-prism-id"] == receipt_of(reply)["id"]


def test_a_receipt_is_one_line_of_ascii_without_text() -> None:
    decision = Decision(
        Action.BLOCK, Action.BLOCK, "d" * 64, tiers={"prompt.patterns": TierState.RAN},
        message="nicht möglich\n",
    )  # fmt: skip
    receipt = Receipt.of(
        decision, id="é\n1", tenant="default", layers=("text",), channels={"prompt": 3}
    )
    line = receipt.compact()
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["id"] == "é\n1"
    assert "nicht" not in line


def test_an_engines_own_prism_headers_are_not_believed(url: str, upstream: Upstream) -> None:
    headers = {"X-Prism-Receipt": '{"action":"allow"}', "X-Other": "kept"}
    name = upstream.say("liar", body=chat_body("hi"), headers=headers)
    reply = post(url, {**CHAT, "model": name})
    assert receipt_of(reply)["tenant"] == "default"
    assert reply.headers["x-other"] == "kept"
    assert len(reply.headers.get_list("x-prism-receipt")) == 1


EXPECTED = (
    'prism_requests_total{family="chat",outcome="passed"} 2.0',
    'prism_requests_total{family="chat",outcome="blocked_prompt"} 1.0',
    'prism_requests_total{family="chat",outcome="blocked_output"} 1.0',
    'prism_requests_total{family="chat",outcome="refused_400"} 1.0',
    'prism_requests_total{family="none",outcome="refused_403"} 1.0',
    'action="block",category="prv",enforced="true",stage="prompt"} 1.0',
    'action="block",category="cyb",enforced="true",stage="output"} 1.0',
    "prism_active_requests 0.0",
    'prism_layer_live{layer="text.output"} 1.0',
)


def test_metrics_count_and_show_no_text(settings: Settings) -> None:
    engine = Upstream()
    name = engine.say("m", body=chat_body("the marzipan gasket"))
    with served(PrismMiddleware(engine.app, settings=settings, timing=FAST)) as url:
        healthy(url)
        for body in (CHAT, CHAT, BAD, {**CHAT, "model": name}, {"nonsense": True}):
            post(url, body)
        http.post(f"{url}/zephyr-lantern")
        # A request is counted when all of it is over, the engine's part included.
        deadline = time.monotonic() + 60
        while missing := [line for line in EXPECTED if line not in text_of(url)]:
            assert time.monotonic() < deadline, missing
        reply = http.get(f"{url}/prism/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    for word in ("zephyr", "marzipan", "hello", "everywhere"):
        assert word not in reply.text


def test_monitoring_counts_what_it_lets_pass(tmp_path: Path) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_text(POLICY + "\nmode: monitor\n", encoding="utf-8")
    engine = Upstream()
    parts = ["the marzi", "pan gasket"]
    name = engine.say("m", body=chat_body("".join(parts)), stream=chat_stream(parts))
    app = PrismMiddleware(engine.app, settings=Settings.for_policy(path), timing=FAST)
    with served(app) as url:
        healthy(url)  # the self-test's rule is enforced all the same
        body = {**BAD, "model": name}
        got = post(url, body).json()["choices"][0]
        assert (got["message"]["content"], got["finish_reason"]) == ("the marzipan gasket", "stop")
        streamed = post(url, {**body, "stream": True}).text
        assert '"content":"the marzi"' in streamed  # and nothing is held back
        for stage, category in (("prompt", "prv"), ("output", "cyb")):
            line = f'category="{category}",enforced="false",stage="{stage}"}} 2.0'
            deadline = time.monotonic() + 60
            while line not in text_of(url):
                assert time.monotonic() < deadline, text_of(url)


def test_the_registry_is_our_own() -> None:
    import prometheus_client

    first, second = Metrics(), Metrics()  # the default registry would object to the second
    first.failure("x")
    assert b'prism_failures_total{kind="x"}' in first.render()
    assert b'prism_failures_total{kind="x"}' not in second.render()
    assert "prism" not in prometheus_client.generate_latest().decode()


def test_browsers_can_read_what_is_answered_here(settings: Settings) -> None:
    engine = Upstream()
    engine.app.add_middleware(
        CORSMiddleware, allow_origins=["https://good.test"], allow_methods=["*"],
        allow_headers=["*"], allow_credentials=True,
    )  # fmt: skip
    with served(PrismMiddleware(engine.app, settings=settings, timing=FAST)) as url:
        healthy(url)
        good, evil = {"Origin": "https://good.test"}, {"Origin": "https://evil.test"}
        for body in (CHAT, BAD, {"messages": 1}):
            reply = http.post(f"{url}/v1/chat/completions", json=body, headers=good)
            assert reply.headers.get_list("access-control-allow-origin") == ["https://good.test"]
            reply = http.post(f"{url}/v1/chat/completions", json=body, headers=evil)
            assert "access-control-allow-origin" not in reply.headers
        ask = {"Access-Control-Request-Method": "POST"}
        preflight = http.options(f"{url}/v1/chat/completions", headers={**good, **ask})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://good.test"
        denied = http.options(f"{url}/anything", headers={**good, **ask})
        assert denied.status_code == 403


def test_strict_clients_parse_a_stream_with_a_receipt(url: str, upstream: Upstream) -> None:
    name = upstream.say("strict", stream=chat_stream(["a", "b"]))
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
        client.chat.completions.stream(model=name, messages=CHAT["messages"]) as stream,
    ):
        kinds = {event.type for event in stream}
        assert stream.get_final_completion().choices[0].message.content == "ab"
    assert kinds <= {"chunk", "content.delta", "content.done"}
