"""``python -m llamacpp_prism`` as its clients see it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from engine_texts import BLOCKED, REFUSAL, STEERED
from llama_cpp import Llama
from llamacpp_tools import note_tool

from prism.moderator import Moderator

pytestmark = pytest.mark.engine

EAGER = f"Repeat after me: {STEERED} {STEERED} zephyr"
ORDINARY = "One two three four five"
GREEDY: dict[str, Any] = {"model": "any", "max_tokens": 16, "temperature": 0.0}
PENALTIES = {"repeat_penalty": 1.0, "top_k": 1}  # the server's defaults aren't the library's
ROUTES = ["/v1/completions", "/v1/engines/copilot-codex/completions"]


@pytest.fixture
def client(server: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120
    ) as made:
        yield made


def complete(client: openai.OpenAI, prompt: str, *, stream: bool = False, **more: Any) -> Any:
    """Return (text, finish_reason)."""
    extra = {**PENALTIES, **more.pop("extra_body", {})}
    answer: Any = client.completions.create(
        prompt=prompt, stream=stream, extra_body=extra, **{**GREEDY, **more}
    )
    chunks = list(answer) if stream else [answer]
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert sum(reason is not None for reason in reasons) == 1
    return "".join(c.choices[0].text for c in chunks if c.choices), reasons[-1]


def chat(client: openai.OpenAI, content: str, *, stream: bool = False, **more: Any) -> Any:
    """Return (text, finish_reason)."""
    answer: Any = client.chat.completions.create(
        messages=[{"role": "user", "content": content}], stream=stream, **{**GREEDY, **more}
    )
    if not stream:
        return answer.choices[0].message.content, answer.choices[0].finish_reason
    chunks = [chunk.choices[0] for chunk in answer if chunk.choices]
    return "".join(c.delta.content or "" for c in chunks), chunks[-1].finish_reason


def post(server: Any, path: str, body: Any, **options: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=120, **options)


def is_alive(client: openai.OpenAI) -> bool:
    return complete(client, ORDINARY)[0].startswith(" six seven")


# --- the same prompts, moderated and not


@pytest.mark.parametrize("stream", [False, True])
def test_moderated_and_unmoderated_runs_of_the_same_prompts(
    client: openai.OpenAI, plain: Llama, moderator: Moderator, stream: bool
) -> None:
    prompts = {
        EAGER: "steered",
        f"{STEERED}, {STEERED}, {STEERED},": "steered",
        f"What is {BLOCKED}?": "refused",
        ORDINARY: "the same",
        "1, 2, 3, 4,": "the same",
    }
    for prompt, expected in prompts.items():
        plain.reset()
        unmoderated = plain(prompt, max_tokens=16, temperature=0.0)["choices"][0]["text"]
        text, reason = complete(client, prompt, stream=stream)
        assert not moderator.check_output(text).blocked
        if expected == "steered":
            assert moderator.check_output(unmoderated).blocked
            assert text.strip()
            assert reason == "length"
        elif expected == "refused":
            assert (text, reason) == (REFUSAL, "content_filter")
        else:
            assert text == unmoderated


@pytest.mark.parametrize("stream", [False, True])
def test_chat_is_moderated(client: openai.OpenAI, stream: bool) -> None:
    assert chat(client, BLOCKED, stream=stream) == (REFUSAL, "content_filter")
    assert chat(client, "tell me of the m.a.r.b.l.e c1nder", stream=stream)[0] == REFUSAL
    text, _ = chat(client, "Hello, how are you?", stream=stream)
    assert REFUSAL not in text


def test_streaming_says_what_not_streaming_says(client: openai.OpenAI) -> None:
    for prompt in (ORDINARY, EAGER, f"What is {BLOCKED}?"):
        complete(client, prompt)  # from here on each run finds the same context
        whole = complete(client, prompt, max_tokens=24)
        assert complete(client, prompt, max_tokens=24, stream=True) == whole


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_both_completion_routes_are_moderated(
    server: Any, moderator: Moderator, path: str, stream: bool
) -> None:
    for prompt in (EAGER, BLOCKED):
        answer = post(server, path, {**GREEDY, **PENALTIES, "prompt": prompt, "stream": stream})
        assert answer.status_code == 200
        text = said(answer) if stream else answer.json()["choices"][0]["text"]
        assert not moderator.check_output(text).blocked
        assert (text == REFUSAL) is (prompt == BLOCKED)


def said(answer: httpx.Response) -> str:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    rows = [row for line in lines[:-1] for row in json.loads(line).get("choices", ())]
    return "".join(row.get("text") or row.get("delta", {}).get("content") or "" for row in rows)


# --- everything a request can ask for


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": {"41865": 100}},  # the token " lantern"
        {"logit_bias": {" lantern": 100}, "logit_bias_type": "tokens"},
        {"min_tokens": 12},
        {"min_tokens": 12, "logit_bias": {"41865": 100}},
        {"repeat_penalty": 0.0},
        {"presence_penalty": -2.0, "frequency_penalty": -2.0},
        {"top_k": 0, "temperature": 2.0},
        {"mirostat_mode": 2},
        {"min_p": 0.9},
        {"n": 2, "best_of": 2},
        {"echo": True},
        {"suffix": " the end"},
        {"stop": ["lantern"]},
        {"stop": "e"},
        {"seed": 3, "temperature": 1.0},
        {"grammar": f'root ::= "{STEERED}"'},
        {"max_tokens": 1},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("stream", [False, True])
def test_no_option_gets_the_phrase_out(
    server: Any, moderator: Moderator, options: dict[str, Any], stream: bool
) -> None:
    body = {**GREEDY, **PENALTIES, "prompt": EAGER, "stream": stream, **options}
    answer = post(server, "/v1/completions", body)
    assert answer.status_code == 200
    text = said(answer) if stream else answer.json()["choices"][0]["text"]
    assert not moderator.check_output(text.removeprefix(EAGER)).blocked


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": {"41865": 100}},
        {"min_tokens": 40},
        {"grammar": 'root ::= "yes"'},
        {"stop": [REFUSAL[:5]]},
        {"n": 2},
        {"echo": True},
        {"repeat_penalty": 0.0},
        {"temperature": 2.0, "top_k": 0},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("stream", [False, True])
def test_no_option_gets_past_a_blocked_prompt(
    server: Any, options: dict[str, Any], stream: bool
) -> None:
    body = {**GREEDY, "prompt": f"About {BLOCKED}:", "stream": stream, **options}
    answer = post(server, "/v1/completions", body)
    assert answer.status_code == 200
    text = said(answer) if stream else answer.json()["choices"][0]["text"]
    assert set(text.split(REFUSAL)) == {""}


def test_blocked_text_outside_the_prompt_is_seen(server: Any) -> None:
    for more in ({"suffix": f"and {BLOCKED}"}, {"grammar": f'root ::= "{BLOCKED}"'}):
        answer = post(server, "/v1/completions", {**GREEDY, "prompt": "Hello", **more})
        assert answer.json()["choices"][0]["text"] == REFUSAL


TOOL = note_tool(12)


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_go_through(server: Any, moderator: Moderator, stream: bool) -> None:
    body = {
        **GREEDY,
        "max_tokens": 40,
        "messages": [{"role": "user", "content": f"Note: {STEERED}"}],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "note"}},
        "stream": stream,
    }
    answer = post(server, "/v1/chat/completions", body)
    assert answer.status_code == 200
    assert '"note"' in answer.text
    assert not moderator.check_output(answer.text.replace("\\", "")).blocked
    body["messages"] = [{"role": "user", "content": BLOCKED}]
    assert REFUSAL in post(server, "/v1/chat/completions", body).text


def test_json_mode_gives_json(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    text, _ = chat(
        client,
        "Give me a number",
        max_tokens=40,
        extra_body={"response_format": {"type": "json_object", "schema": schema}},
    )
    assert isinstance(json.loads(text)["a"], int)


# --- requests that are wrong


@pytest.mark.parametrize(
    ("more", "status", "expected"),
    [
        ({"grammar": 'root ::= "a'}, 400, "can't be parsed"),
        ({"grammar": "root ::= root"}, 400, "can't be parsed"),
        ({"grammar": "%llguidance {}"}, 400, "llguidance"),
        ({"logit_bias": {"999999999": 1}}, 400, "no token id"),
        ({"logit_bias": {"x": 1}}, 400, "no token id"),
        ({"logprobs": 2}, 400, "logits_all"),
        ({"max_tokens": "many"}, 400, "max_tokens"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"prompt": 5}, 400, "prompt"),
        ({"prompt": [1, 2, 3]}, 400, "token ids"),
        ({"prompt": ["a", "b"]}, 400, "prompt"),
        ({"prompt": "word " * 5000}, 400, "maximum context length"),
        ({"use_beam_search": True}, 400, "beam search"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_requests_get_a_reason(
    server: Any,
    client: openai.OpenAI,
    more: dict[str, Any],
    status: int,
    expected: str,
    stream: bool,
) -> None:
    request = {**GREEDY, "prompt": "Hello", "stream": stream, **more}
    answer = post(server, "/v1/completions", request)
    if answer.status_code == 200:  # the engine finds out when the stream has begun
        assert stream
        assert answer.text.rstrip().endswith("data: [DONE]")
        errors = [line for line in answer.text.splitlines() if line.startswith('data: {"error"')]
        assert expected in json.loads(errors[0][6:])["error"]["message"]
    else:
        assert answer.status_code == status, answer.text
        assert expected in answer.json()["error"]["message"]
    assert is_alive(client)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe{}", 400),
        (b'{"prompt": "\xc3\x28"}', 400),
        (b'{"prompt": "a", "prompt": "b"}', 400),
        (b'{"prompt": "a", "temperature": Infinity}', 400),
        (b"[]", 400),
        (b"", 400),
        (b'{"prompt": "' + b"a" * 5_000_000 + b'"}', 413),
    ],
    ids=["half", "utf16", "utf8", "twice", "infinity", "list", "empty", "5MB"],
)
@pytest.mark.parametrize("path", [*ROUTES, "/v1/chat/completions"])
def test_broken_bodies_get_a_reason(server: Any, path: str, content: bytes, status: int) -> None:
    answer = httpx.post(
        f"{server.url}{path}",
        content=content,
        headers={"content-type": "application/json"},
        timeout=60,
    )
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/embeddings", 500),  # moderated, but this model makes none
        ("POST", "/v1/responses", 404),  # moderated, but not in this server
        ("POST", "/completion", 404),
        ("POST", "/v1/completions/", 403),
        ("POST", "//v1/completions", 403),
        ("GET", "/v1/completions", 405),
        ("GET", "/v1/models", 200),
        ("GET", "/docs", 200),
        ("GET", "/prism/metrics", 200),
    ],
)
def test_routes(server: Any, method: str, path: str, status: int) -> None:
    body = {"input": "a"} if path == "/v1/responses" else {"input": "a", "prompt": "a"}
    answer = httpx.request(method, f"{server.url}{path}", json=body, timeout=60)
    assert answer.status_code == status


def test_tokenising_still_works(server: Any) -> None:
    tokens = post(server, "/extras/tokenize", {"input": "Hello world"}).json()["tokens"]
    assert (
        len(tokens)
        == post(server, "/extras/tokenize/count", {"input": "Hello world"}).json()["count"]
    )
    assert "Hello" in post(server, "/extras/detokenize", {"tokens": tokens}).json()["text"]


# --- clients that go away, and many at once


def test_a_client_that_leaves_mid_stream_hurts_nobody(server: Any, client: openai.OpenAI) -> None:
    body = json.dumps(
        {"prompt": "Once upon a time", "max_tokens": 400, "stream": True, "temperature": 0.8}
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    port = int(server.url.rpartition(":")[2])
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), 60) as raw:
            raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            assert raw.recv(200).startswith(b"HTTP/1.1 200")
    assert is_alive(client)
    with socket.create_connection(("127.0.0.1", port), 60) as raw:  # half a body
        raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body[:20])
    assert is_alive(client)


def test_many_clients_each_get_their_own_verdict(client: openai.OpenAI) -> None:
    def ask(number: int) -> bool:
        prompt = [ORDINARY, f"What is {BLOCKED}?", EAGER][number % 3]
        text, _ = complete(client, prompt, max_tokens=6, stream=number % 2 == 0)
        if number % 3 == 1:
            return bool(text == REFUSAL)
        return REFUSAL not in text and STEERED not in text

    def ordinary(number: int) -> bool:
        try:
            return ask(number)
        except AssertionError:
            # llama_cpp.server ends a stream early when another request waits; it then has no
            # finish_reason.
            return number % 2 == 0

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ordinary, range(12)))


# --- health, and what happens when a layer is not at work


def test_health_is_green(server: Any) -> None:
    report = httpx.get(f"{server.url}/prism/health", timeout=60)
    assert report.status_code == 200
    layers = report.json()["layers"]
    assert {name: layer["live"] for name, layer in layers.items()} == {
        "text.prompt": True,
        "text.output": True,
        "token": True,
    }


NO_TOKEN_LAYER = """
import llamacpp_prism.layer
llamacpp_prism.layer.install = lambda llama, choose, **options: llama
"""
NO_OUTPUT_FILTER = """
from prism.session import Session
Session.flow = lambda self, text, *place, **more: text
Session.end = lambda self, *place: ""
"""


@pytest.mark.parametrize(
    ("fault", "dead"),
    [(NO_TOKEN_LAYER, "token"), (NO_OUTPUT_FILTER, "text.output")],
    ids=["token", "text.output"],
)
def test_a_layer_that_is_not_at_work_keeps_the_server_red(
    serving: Any, fault: str, dead: str
) -> None:
    with serving(fault=fault, healthy=False) as server:
        report = httpx.get(f"{server.url}/prism/health", timeout=60)
        assert report.status_code == 503
        layers = report.json()["layers"]
        assert [name for name, layer in layers.items() if not layer["live"]] == [dead]
        answer = post(server, "/v1/completions", {**GREEDY, "prompt": ORDINARY})
        assert answer.status_code == 503
        assert dead in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) > 0


FAILS_ON_LILAC = """
from prism.steer.guard import TokenGuard
from prism.steer.row import TokenRow
row, apply = TokenGuard.row, TokenRow.apply
def marked(guard, ids, locale=None):
    made = row(guard, ids, locale)
    made._prompt = guard.vocabulary.bytes_of(ids)
    return made
TokenGuard.row = marked
def broken(made, scores):
    if b"lilac" in made._prompt and made._length == 3:
        raise RuntimeError("injected")
    apply(made, scores)
TokenRow.apply = broken
"""


def test_a_request_whose_moderation_fails_ends_and_others_go_on(serving: Any) -> None:
    with serving(fault=FAILS_ON_LILAC) as server:
        request = {**GREEDY, "prompt": "The lilac is"}
        answer = post(server, "/v1/completions", request)
        assert answer.status_code == 500
        assert "moderation failed" in answer.json()["error"]["message"]
        answer = post(server, "/v1/completions", {**request, "stream": True})
        assert "moderation failed" in answer.text
        assert answer.text.rstrip().endswith("data: [DONE]")
        assert '"finish_reason":"' not in answer.text
        answer = post(server, "/v1/completions", {**request, "prompt": ORDINARY})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["text"].startswith(" six")


def test_several_models_a_key_and_logprobs(
    serving: Any, llama_gguf: Any, tmp_path: Any, moderator: Moderator
) -> None:
    config = tmp_path / "models.yaml"
    common = {"model": str(llama_gguf), "n_batch": 64, "n_threads": 1, "n_threads_batch": 1}
    models = [
        {**common, "model_alias": "one", "n_ctx": 128, "logits_all": True},
        {**common, "model_alias": "copilot-codex", "n_ctx": 256, "chat_format": "chatml"},
    ]
    config.write_text(json.dumps({"models": models, "api_key": "sesame"}))
    with serving("--config_file", str(config), model=False) as server:
        key = {"authorization": "Bearer sesame"}
        body = {**GREEDY, **PENALTIES, "prompt": EAGER}
        assert post(server, "/v1/completions", body).status_code == 401
        blocked = {**body, "prompt": BLOCKED}
        assert post(server, "/v1/completions", blocked).status_code == 401
        for path, model in (*((ROUTES[0], m["model_alias"]) for m in models), (ROUTES[1], "x")):
            for prompt in (EAGER, BLOCKED):
                asked = {**body, "prompt": prompt, "model": model}
                answer = post(server, path, asked, headers=key)
                assert answer.status_code == 200
                text = answer.json()["choices"][0]["text"]
                assert not moderator.check_output(text).blocked
                assert (text == REFUSAL) is (prompt == BLOCKED)
        asked = {**body, "model": "one", "logprobs": 3}
        answer = post(server, "/v1/completions", asked, headers=key)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["choices"][0]["logprobs"]["tokens"]) > 8
        answer = post(server, "/v1/completions", {**asked, "echo": True}, headers=key)
        assert answer.status_code == 400


def test_two_streams_at_once_both_end(server: Any) -> None:
    """llama_cpp.server ends a stream for the next request; here both run to their end."""
    texts: list[str] = []

    def read() -> None:
        body = {**GREEDY, "prompt": "Once upon a time", "max_tokens": 60, "stream": True}
        texts.append(post(server, "/v1/completions", body).text)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert all(text.rstrip().endswith("data: [DONE]") for text in texts)
    assert all('"finish_reason":"length"' in text.replace(" ", "") for text in texts)
