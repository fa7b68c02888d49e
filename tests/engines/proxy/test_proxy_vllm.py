"""``prism proxy`` in front of a real vLLM, which echoes and speaks four APIs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from engine_processes import Running
from engine_texts import BLOCKED, REFUSAL, STEERED
from proxy_conform import conform, passed

from prism.conform.texts import POLICY

pytestmark = pytest.mark.engine

BEFORE = "It glows. The "
SAID = f"{BEFORE}{STEERED} is."
CALM = f"{BEFORE}{STEERED.split()[0]} lane is."
MODEL = "gemma"
APIS = ("chat", "completions", "responses", "messages")
every_api = pytest.mark.parametrize("api", APIS)
streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(scope="module")
def vllm(bare_vllm: Running) -> Running:
    return bare_vllm


@pytest.fixture(scope="module")
def moderated(vllm: Any, start_proxy: Any) -> Iterator[Any]:
    with start_proxy(vllm.url) as running:
        yield running


def ask(
    server: Any, api: str, stream: bool, prompt: str = "Hello", says: str | None = None
) -> tuple[str, str | None]:
    """Ask with the API's own client; return the text and why it ended."""
    extra = {"structured_outputs": {"choice": [says]}} if says is not None else {}
    given: dict[str, Any] = {"model": MODEL, "stream": stream, "extra_body": extra}
    messages = [{"role": "user", "content": prompt}]
    if api == "messages":
        # Anthropic's client knows no temperature any more; vLLM does.
        extra = {**extra, "temperature": 0}
        given |= {"messages": messages, "max_tokens": 40, "extra_body": extra}
        with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as claude:
            return _messages(claude.messages.create(**given), stream)
    base = f"{server.url}/v1"
    with openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client:
        if api == "responses":
            given |= {"input": prompt, "max_output_tokens": 40, "temperature": 0}
            return _responses(client.responses.create(**given), stream)
        given |= {"max_tokens": 40, "temperature": 0}
        if api == "chat":
            return _choices(client.chat.completions.create(messages=messages, **given), stream)
        return _choices(client.completions.create(prompt=prompt, **given), stream)


def _choices(answer: Any, stream: bool) -> tuple[str, str | None]:
    text, reason = "", None
    for part in answer if stream else [answer]:
        for choice in part.choices:
            held = getattr(choice, "delta", None) or getattr(choice, "message", None)
            text += (choice.text if held is None else held.content) or ""
            reason = choice.finish_reason or reason
    return text, reason


def _messages(answer: Any, stream: bool) -> tuple[str, str | None]:
    if not stream:
        return "".join(block.text for block in answer.content), answer.stop_reason
    text, reason = "", None
    for event in answer:
        if event.type == "content_block_delta":
            text += event.delta.text
        elif event.type == "message_delta":
            reason = event.delta.stop_reason
    return text, reason


def _responses(answer: Any, stream: bool) -> tuple[str, str | None]:
    text = ""
    if stream:
        for event in answer:
            if event.type == "response.output_text.delta":
                text += event.delta
            elif event.type in ("response.completed", "response.incomplete"):
                answer = event.response
    else:
        text = answer.output_text
    details = answer.incomplete_details
    return text, details.reason if details is not None else answer.status


BLOCKS = {"messages": "refusal"}  # what each API calls a block


def test_the_self_test_went_through_the_engine(moderated: Any) -> None:
    health = httpx.get(f"{moderated.url}/prism/health", timeout=60).json()
    assert health["layers"]["text.output"]["detail"] == (
        "withholds the self-test's phrase in answers"
    )


@every_api
@streamed
def test_the_same_text_with_and_without(vllm: Any, moderated: Any, api: str, stream: bool) -> None:
    prompt = "1, 2, 3, 4,"
    bare = ask(vllm, api, stream, prompt)
    assert bare[0]
    assert ask(moderated, api, stream, prompt) == bare


@every_api
@streamed
def test_a_blocked_prompt_does_not_reach_it(
    vllm: Any, moderated: Any, api: str, stream: bool
) -> None:
    before = generated(vllm)
    text, reason = ask(moderated, api, stream, f"Tell me of the {BLOCKED}.")
    assert (text, reason) == (REFUSAL, BLOCKS.get(api, "content_filter"))
    assert generated(vllm) == before


@pytest.mark.parametrize("api", ["chat", "completions"])
@streamed
def test_what_it_may_not_say_stays_here(vllm: Any, moderated: Any, api: str, stream: bool) -> None:
    assert ask(vllm, api, stream, says=SAID)[0] == SAID
    text, reason = ask(moderated, api, stream, says=SAID)
    # A stream says the message where nothing had been cleared before the match.
    assert text in ((BEFORE, REFUSAL) if stream else (REFUSAL,))
    assert reason == "content_filter"
    assert ask(moderated, api, stream, says=CALM) == (CALM, "stop")


def metric(vllm: Any, name: str) -> float:
    text = httpx.get(f"{vllm.url}/metrics", timeout=60).text
    rows = [line for line in text.splitlines() if line.startswith(name)]
    assert rows, name
    return sum(float(line.rpartition(" ")[2]) for line in rows)


def generated(vllm: Any) -> float:
    return metric(vllm, "vllm:prompt_tokens_total")


def written(vllm: Any) -> float:
    """How many tokens vLLM wrote; requests that it gave up are in no other count of its."""
    until = time.monotonic() + 120
    while metric(vllm, "vllm:num_requests_running"):
        assert time.monotonic() < until
        time.sleep(0.1)
    return metric(vllm, "vllm:generation_tokens_total")


def test_a_client_that_leaves_stops_it(vllm: Any, moderated: Any) -> None:
    before = written(vllm)
    asked = {"model": MODEL, "prompt": "Count.", "stream": True, "max_tokens": 450}
    body = {**asked, "ignore_eos": True}
    with httpx.stream("POST", f"{moderated.url}/v1/completions", json=body, timeout=120) as reply:
        assert reply.status_code == 200
        next(reply.iter_bytes())
    assert written(vllm) - before < 225


def test_an_answer_that_is_blocked_stops_it(vllm: Any, moderated: Any) -> None:
    before = written(vllm)
    asked = {
        "model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": True,
        "max_tokens": 400, "temperature": 0,
        "structured_outputs": {"choice": [f"{SAID} " + "and so on, " * 100]},
    }  # fmt: skip
    reply = httpx.post(f"{moderated.url}/v1/chat/completions", json=asked, timeout=120)
    assert '"finish_reason":"content_filter"' in reply.text
    assert written(vllm) - before < 200


def test_connections_are_used_again(vllm: Any, moderated: Any) -> None:
    def connections() -> set[str]:
        """Return the local ports that are connected to the engine."""
        there = f"0100007F:{vllm.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return {row[1] for row in rows if row[2] == there and row[3] == "01"}

    seen: set[str] = set()
    with httpx.Client(base_url=moderated.url, timeout=60) as client:
        for number in range(8):
            asked = {"model": MODEL, "prompt": "Hello", "max_tokens": 1, "stream": number % 2 == 1}
            assert client.post("/v1/completions", json=asked).status_code == 200
            seen |= connections()
    assert len(seen) <= 2  # one of this test's, and one of a self-test that ran meanwhile


def test_the_conformance_suite(vllm: Any, start_proxy: Any, tmp_path: Path) -> None:
    """What this engine can be made to say; all 130 checks have the scripted engine."""
    asked = {
        f"{api}.{how}.{what}"
        for api in ("chat", "completions")
        for how in ("whole", "stream")
        for what in ("prompt", "output", "harmless")
    } | {
        "responses.whole.output", "responses.stream.output", "stream.held.chat", "chunks.unicode",
        "concurrent.streams", "bypass.parts-apart", "tenants.override.policy", "records.claims",
    }  # fmt: skip
    policy = tmp_path / "conformance.yaml"
    policy.write_text(POLICY)
    with start_proxy(vllm.url, "--policy", str(policy)) as proxy:
        only = [f"--only={name}" for name in sorted(asked | {"tools.chat.whole.arguments"})]
        rows = conform(proxy.url, *only)
    assert passed(rows) == asked
    # What only the scripted engine can say is never counted as passed.
    assert rows["tools.chat.whole.arguments"]["outcome"] == "not applicable"
