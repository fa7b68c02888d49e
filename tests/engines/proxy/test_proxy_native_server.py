"""``prism proxy`` in front of llama.cpp's own server: the same text, with and without."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from engine_texts import BLOCKED, REFUSAL, STEERED

pytestmark = pytest.mark.engine

FIRST, SECOND = STEERED.split()
BEFORE = "It glows. The "
SAID = f"{BEFORE}{STEERED} is."
CALM = f"{BEFORE}{FIRST} lane is."
"""Begins like a phrase that is blocked, and is none."""

EVERYTHING = {
    "verbose": True,
    "return_tokens": True,
    "n_probs": 3,
    "timings_per_token": True,
    "return_progress": True,
    "response_fields": ["content", "tokens", "generation_settings/grammar"],
}
"""All that llama-server can be asked to tell beside its answer."""

TOLD = ('"__verbose"', '"tokens":[', "completion_probabilities", "generation_settings", "grammar")


def saying(text: str) -> dict[str, str]:
    """Return the grammar that makes a real model say what a test needs it to say."""
    return {"grammar": f'root ::= "{text}"'}


@pytest.fixture(scope="module")
def clients(native: Any, moderated: Any) -> Iterator[dict[str, openai.OpenAI]]:
    made = {
        name: openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        for name, server in (("plain", native), ("moderated", moderated))
    }
    yield made
    for client in made.values():
        client.close()


def ask(
    client: openai.OpenAI, api: str, stream: bool, prompt: str = "Hello", **extra: Any
) -> tuple[str, str | None, list[str]]:
    """Return the text, the finish reason, and the pieces it came in."""
    options: dict[str, Any] = {"model": "m", "max_tokens": 40, "temperature": 0, "stream": stream}
    options["extra_body"] = extra
    if api == "chat":
        said = [{"role": "user", "content": prompt}]
        answer: Any = client.chat.completions.create(messages=said, **options)
    else:
        answer = client.completions.create(prompt=prompt, **options)
    pieces, reason = [], None
    for part in answer if stream else [answer]:
        for choice in part.choices:
            held = (choice.delta if stream else choice.message) if api == "chat" else choice
            pieces.append((held.content if api == "chat" else held.text) or "")
            reason = choice.finish_reason or reason
    return "".join(pieces), reason, [piece for piece in pieces if piece]


def body(api: str, stream: bool, text: str, **extra: Any) -> dict[str, Any]:
    prompt: dict[str, Any] = {"prompt": "Hello", "logprobs": 2}
    if api == "chat":
        said = [{"role": "user", "content": "Hello"}]
        prompt = {"messages": said, "logprobs": True, "top_logprobs": 2}
    given = {"max_tokens": 40, "temperature": 0, "stream": stream, **saying(text)}
    return {**prompt, **given, **extra}


def path(api: str) -> str:
    return "/v1/chat/completions" if api == "chat" else "/v1/completions"


both = pytest.mark.parametrize("api", ["chat", "completions"])
streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def test_it_is_green_and_says_how_it_knows(moderated: Any) -> None:
    health = httpx.get(f"{moderated.url}/prism/health", timeout=60).json()
    assert health["status"] == "ok"
    assert set(health["layers"]) == {"text.prompt", "text.output"}
    assert "the engine does not echo prompts" in health["layers"]["text.output"]["detail"]
    assert httpx.get(f"{moderated.url}/health", timeout=60).json() == {"status": "ok"}


@both
@streamed
def test_the_same_text_with_and_without(clients: Any, api: str, stream: bool) -> None:
    assert ask(clients["plain"], api, stream, **saying(SAID))[:2] == (SAID, "stop")
    text, reason, _ = ask(clients["moderated"], api, stream, **saying(SAID))
    assert reason == "content_filter"
    if stream:
        assert text == BEFORE
    else:
        assert text == REFUSAL


@both
@streamed
def test_a_harmless_text_is_not_touched(clients: Any, api: str, stream: bool) -> None:
    plain = ask(clients["plain"], api, stream, **saying(CALM))
    seen = ask(clients["moderated"], api, stream, **saying(CALM))
    assert plain[:2] == seen[:2] == (CALM, "stop")
    if stream:
        assert len(seen[2]) > 3  # it flows, and only what might become a phrase waits


@both
@streamed
def test_a_blocked_prompt_is_answered_without_the_engine(
    clients: Any, native: Any, api: str, stream: bool
) -> None:
    def tasks() -> list[int]:
        return [slot["id_task"] for slot in httpx.get(f"{native.url}/slots", timeout=60).json()]

    before = tasks()
    text, reason, _ = ask(clients["moderated"], api, stream, f"Tell me of the {BLOCKED}.")
    assert (text, reason) == (REFUSAL, "content_filter")
    assert tasks() == before


@both
@streamed
@pytest.mark.parametrize(("n", "post_sampling"), [(1, False), (2, True)])
def test_no_other_field_tells_a_blocked_text(
    moderated: Any, api: str, stream: bool, n: int, post_sampling: bool
) -> None:
    asked = body(api, stream, SAID, **EVERYTHING, n=n, post_sampling_probs=post_sampling)
    seen = httpx.post(moderated.url + path(api), json=asked, timeout=60).text
    for word in (FIRST, SECOND, *TOLD, '"id":2', "prompt_progress"):
        assert word not in seen, word
    assert seen.count('"finish_reason":"content_filter"') == n
    tokens = "".join(entry["token"] for entry in _entries(seen))
    # Probabilities of the part that went out, and of nothing else.
    assert tokens == BEFORE[: len(tokens) // n] * n if stream else not tokens


@both
@streamed
def test_the_server_does_tell(native: Any, api: str, stream: bool) -> None:
    asked = body(api, stream, SAID, **{**EVERYTHING, "response_fields": []})
    plain = httpx.post(native.url + path(api), json=asked, timeout=60).text
    assert stream or plain.count(SECOND) > 1
    untold = {word for word in TOLD if word not in plain}
    assert untold <= ({"completion_probabilities"} if (api, stream) == ("chat", True) else set())


def _rows(answer: str) -> list[dict[str, Any]]:
    if answer.startswith("{"):
        return [json.loads(answer)]
    lines = answer.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def _entries(answer: str) -> list[dict[str, Any]]:
    return [
        entry
        for row in sorted(
            (choice for row in _rows(answer) for choice in row["choices"]),
            key=lambda choice: choice["index"],
        )
        for entry in (row.get("logprobs") or {}).get("content") or ()
    ]


@both
@streamed
@pytest.mark.parametrize("post_sampling", [False, True])
def test_probabilities_follow_the_text_in_the_servers_own_shape(
    moderated: Any, api: str, stream: bool, post_sampling: bool
) -> None:
    asked = body(api, stream, CALM, post_sampling_probs=post_sampling)
    answer = httpx.post(moderated.url + path(api), json=asked, timeout=60).text
    entries = _entries(answer)
    value, top = ("prob", "top_probs") if post_sampling else ("logprob", "top_logprobs")
    assert "".join(entry["token"] for entry in entries) == CALM
    for entry in entries:
        assert set(entry) == {"token", value, "bytes", top}
        assert isinstance(entry[value], float | int)
        assert {other["token"] for other in entry[top]} <= {entry["token"]}


@both
@pytest.mark.parametrize(
    "extra",
    [
        {"grammar": '%llguidance {}\nstart: "a"'},
        {"grammar": 'root ::= "a"\n%llguidance {}'},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": "%llguidance {}"}}},
    ],
)
def test_a_grammar_that_can_abort_the_server_does_not_reach_it(
    native: Any, moderated: Any, api: str, extra: dict[str, Any]
) -> None:
    asked = {**body(api, False, CALM), **extra}
    reply = httpx.post(moderated.url + path(api), json=asked, timeout=60)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "unsupported_grammar"
    assert native.process.poll() is None


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2], [3]], ["a", [1]], {"prompt_string": "a"}])
def test_prompts_that_nobody_here_can_read(moderated: Any, prompt: Any) -> None:
    reply = httpx.post(f"{moderated.url}/v1/completions", json={"prompt": prompt}, timeout=60)
    assert reply.status_code == 400


@pytest.mark.parametrize(
    ("method", "route"),
    [
        ("GET", "/slots"), ("POST", "/slots/0?action=save"), ("GET", "/props"), ("POST", "/props"),
        ("GET", "/tools"), ("POST", "/tools"), ("GET", "/lora-adapters"),
        ("POST", "/lora-adapters"), ("POST", "/models/load"), ("POST", "/models/unload"),
        ("GET", "/models/sse"), ("GET", "/v1/stream/abc"), ("GET", "/v1/stream?conv_id=abc"),
        ("DELETE", "/v1/stream/abc"), ("POST", "/v1/streams/lookup"), ("GET", "/v1/streams"),
        ("POST", "/v1/chat/completions/control"), ("POST", "/v1/chat/completions/input_tokens"),
        ("POST", "/apply-template"), ("GET", "/cors-proxy"), ("POST", "/chat/completions/"),
        ("POST", "/V1/chat/completions"), ("POST", "//v1/chat/completions"), ("GET", "/"),
        ("GET", "/index.html"), ("POST", "/v1/chat/completions/../../slots"),
    ],
)  # fmt: skip
def test_routes_that_nobody_here_can_judge_are_denied(
    moderated: Any, method: str, route: str
) -> None:
    with httpx.Client(timeout=60) as client:
        # As it is: a client library would tidy some of these up first.
        request = client.build_request(method, moderated.url, json={} if method == "POST" else None)
        request.url = request.url.copy_with(raw_path=route.encode())
        reply = client.send(request)
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] in ("route_not_moderated", "operator_only")
    assert reply.json()["error"]["type"] == "permission_error"


def test_the_server_does_have_such_routes(native: Any) -> None:
    for method, route in (("GET", "/slots"), ("GET", "/props"), ("GET", "/lora-adapters"),
                          ("POST", "/apply-template"), ("POST", "/v1/streams/lookup")):  # fmt: skip
        given: Any = {"messages": [], "conversation_ids": []} if method == "POST" else None
        assert (
            httpx.request(method, native.url + route, json=given, timeout=60).status_code == 200
        ), route


def until_idle(native: Any) -> None:
    until = time.monotonic() + 15  # its answer takes longer, however fast the machine is
    while any(
        slot["is_processing"] for slot in httpx.get(f"{native.url}/slots", timeout=60).json()
    ):
        assert time.monotonic() < until
        time.sleep(0.1)


def leave_early(server: Any, tokens: int, **headers: str) -> None:
    asked: dict[str, Any] = {"prompt": "Count.", "stream": True}
    asked |= {"max_tokens": tokens, "ignore_eos": True}
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json=asked, headers=headers, timeout=60
    ) as reply:
        assert reply.status_code == 200
        for _ in reply.iter_bytes():
            break


def kept(native: Any, name: str) -> list[Any]:
    asked = {"conversation_ids": [name]}
    return list(httpx.post(f"{native.url}/v1/streams/lookup", json=asked, timeout=60).json())


def test_a_client_that_leaves_stops_the_engine(native: Any, moderated: Any) -> None:
    leave_early(moderated, 1500)
    until_idle(native)  # 1500 tokens take a minute


def test_no_answer_is_kept_for_others_to_fetch(native: Any, moderated: Any) -> None:
    """``X-Conversation-Id`` lets the engine write on without a client, and keeps the text."""
    leave_early(native, 60, **{"X-Conversation-Id": "plain"})
    assert kept(native, "plain")
    leave_early(moderated, 1500, **{"X-Conversation-Id": "moderated"})
    assert not kept(native, "moderated")
    until_idle(native)


def test_connections_to_the_engine_are_used_again(native: Any, moderated: Any) -> None:
    def connections() -> set[str]:
        """Return the local ports that are connected to the engine."""
        there = f"0100007F:{native.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return {row[1] for row in rows if row[2] == there and row[3] == "01"}

    seen: set[str] = set()
    with httpx.Client(base_url=moderated.url, timeout=60) as client:
        for _ in range(8):
            asked = {"prompt": "Hello", "max_tokens": 1}
            assert client.post("/v1/completions", json=asked).status_code == 200
            seen |= connections()
    assert len(seen) <= 2  # one of this test's, and one of a self-test that ran meanwhile


def test_the_engine_closes_connections_after_streams_and_nothing_is_lost(moderated: Any) -> None:
    asked = {"prompt": "Hello", "max_tokens": 1, "stream": True}
    with httpx.Client(base_url=moderated.url, timeout=60) as client:
        for _ in range(30):
            reply = client.post("/v1/completions", json=asked)
            assert reply.status_code == 200
            assert reply.text.endswith("data: [DONE]\n\n")


def test_concurrent_streams_stay_apart(clients: Any) -> None:
    def one(number: int) -> tuple[str, str | None]:
        text = SAID if number % 2 else f"Number {number} is calm."
        return ask(clients["moderated"], "chat", True, **saying(text))[:2]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, range(4)))
    for number, answer in enumerate(answers):
        if number % 2:
            assert answer == (BEFORE, "content_filter")
        else:
            assert answer == (f"Number {number} is calm.", "stop")


def test_an_engine_that_is_killed(start_native: Any, start_proxy: Any) -> None:
    with (
        start_native() as engine,
        start_proxy(engine.url) as proxy,
        openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = client.completions.create(
            model="m",
            prompt="Count.",
            stream=True,
            max_tokens=1500,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        engine.process.kill()
        with pytest.raises(openai.APIError, match="broke off"):
            list(stream)
        engine.process.wait(60)  # until then its port may take one more connection, and drop it
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="m", prompt="Hello")
        assert caught.value.status_code == 502
        assert caught.value.code == "upstream_unreachable"
        assert httpx.get(f"{proxy.url}/health", timeout=60).status_code == 502
