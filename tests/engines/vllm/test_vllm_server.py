"""The API server from outside: every route and every option, from unkind clients."""

import base64
import contextlib
import http.client
import io
import json
from urllib.parse import urlsplit

import pytest
import torch
from vllm_texts import (
    ASK_BLOCKED,
    BLOCKED,
    COPY_STEERED,
    COPY_UNSAYABLE,
    HARMLESS,
    REFUSAL,
    STEERED,
    UNSAYABLE,
    says,
)

pytestmark = pytest.mark.engine
PHRASES = (BLOCKED, STEERED, UNSAYABLE)


def complete(client, prompt, **options):
    body = {"model": "gemma", "prompt": prompt, "max_tokens": 24, "temperature": 0, **options}
    return client.post("/v1/completions", json=body)


def chat(client, content, **options):
    messages = [{"role": "user", "content": content}]
    body = {"model": "gemma", "messages": messages, "max_tokens": 24, "temperature": 0, **options}
    return client.post("/v1/chat/completions", json=body)


def choices(reply):
    assert reply.status_code == 200, reply.text
    return [(c["text"], c["finish_reason"]) for c in reply.json()["choices"]]


def events(reply):
    assert reply.status_code == 200, reply.text
    assert reply.text.endswith("data: [DONE]\n\n")
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def refused(reply, word, status=400):
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert word in error["message"]
    return error


# Health


def test_it_was_healthy_only_when_every_layer_was_live(server, client):
    assert server.seen[-1] == 200
    assert set(server.seen[:-1]) <= {503}
    report = client.get("/prism/health").json()
    assert report["status"] == "ok"
    assert {name: layer["live"] for name, layer in report["layers"].items()} == {
        "text.prompt": True,
        "text.output": True,
        "token": True,
    }
    assert client.get("/health").status_code == 200


# Both APIs, streamed and not


def test_harmless_prompts_are_answered(client):
    ((text, reason),) = choices(complete(client, HARMLESS))
    assert text
    assert reason == "length"
    body = chat(client, HARMLESS).json()
    assert body["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_prompt_is_refused(client, stream):
    reply = complete(client, ASK_BLOCKED, stream=stream)
    if stream:
        rows = [e["choices"][0] for e in events(reply) if e["choices"]]
        assert "".join(row["text"] for row in rows) == REFUSAL
        assert rows[-1]["finish_reason"] == "content_filter"
    else:
        assert choices(reply) == [(REFUSAL, "content_filter")]
    reply = chat(client, ASK_BLOCKED, stream=stream)
    if stream:
        rows = [e["choices"][0] for e in events(reply) if e["choices"]]
        assert "".join(row["delta"].get("content") or "" for row in rows) == REFUSAL
        assert rows[-1]["finish_reason"] == "content_filter"
    else:
        choice = reply.json()["choices"][0]
        assert choice["message"]["content"] == REFUSAL
        assert choice["finish_reason"] == "content_filter"


@pytest.mark.parametrize("stream", [False, True])
def test_the_token_layer_steers_so_the_text_layer_has_nothing_to_cut(client, stream):
    reply = complete(client, COPY_STEERED, stream=stream)
    assert not says(reply.text, STEERED)
    assert "content_filter" not in reply.text
    assert reply.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_the_token_layer_refuses_what_the_model_wants_to_say(client, stream):
    reply = complete(client, COPY_UNSAYABLE, stream=stream)
    assert not says(reply.text, UNSAYABLE)
    rows = [e["choices"][0] for e in events(reply) if e["choices"]] if stream else []
    if stream:
        text = "".join(row["text"] for row in rows)
        reason = rows[-1]["finish_reason"]
    else:
        ((text, reason),) = choices(reply)
    assert text.endswith(REFUSAL)
    assert reason == "content_filter"


def test_several_choices_and_prompts(client):
    reply = complete(client, COPY_STEERED, n=2, temperature=1, seed=3)
    assert len(choices(reply)) == 2
    assert not says(reply.text, STEERED)
    reply = complete(client, [HARMLESS, ASK_BLOCKED])
    assert all(reason == "content_filter" for _, reason in choices(reply))


def test_prompts_of_token_ids_are_read(client):
    ids = client.post("/tokenize", json={"model": "gemma", "prompt": ASK_BLOCKED}).json()["tokens"]
    assert choices(complete(client, ids)) == [(REFUSAL, "content_filter")]
    ids = client.post("/tokenize", json={"model": "gemma", "prompt": HARMLESS}).json()["tokens"]
    assert choices(complete(client, ids))[0][1] == "length"


# Options that have got round a logits processor, or an output filter


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": {str(i): 50 for i in (236764, 236772, 108)}},
        {"min_tokens": 20},
        {"ignore_eos": True},
        {"stop": ["zephyr", "\n"]},
        {"stop_token_ids": [7]},
        {"bad_words": ["Sorry"]},
        {"presence_penalty": 2, "frequency_penalty": 2},
        {"repetition_penalty": 1.8},
        {"top_k": 1, "temperature": 1},
        {"min_p": 0.9, "temperature": 1},
        {"skip_special_tokens": False},
        {"spaces_between_special_tokens": False},
        {"include_stop_str_in_output": True, "stop": ["lantern"]},
        {"echo": True},
        {"logprobs": 5},
        {"truncate_prompt_tokens": 8},
        {"priority": 0},
        {"vllm_xargs": {"mine": "1"}},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}, "stream": True},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"choice": [STEERED, "zephyr lamp"]}},
        {"structured_outputs": {"regex": "zephyr (lantern|lamp)"}},
    ],
    ids=lambda options: "+".join(options),
)
@pytest.mark.parametrize("prompt", [COPY_STEERED, COPY_UNSAYABLE], ids=["steer", "block"])
def test_no_option_lets_a_phrase_out(client, prompt, options):
    reply = complete(client, prompt, **options)
    text = reply.text
    if options.get("echo"):
        # An echo is part of the answer, so it's judged: the prompt's own phrases are cut out.
        assert prompt not in text
    assert not says(text, STEERED)
    assert not says(text, UNSAYABLE)
    assert reply.status_code == 200, reply.text


def test_allowed_token_ids_that_leave_nothing_else(client):
    ids = client.post(
        "/tokenize",
        json={"model": "gemma", "prompt": f" {STEERED}", "add_special_tokens": False},
    ).json()["tokens"]
    reply = complete(client, HARMLESS, allowed_token_ids=ids)
    assert reply.status_code == 200
    assert not says(reply.text, STEERED)


def test_a_grammar_without_a_way_out_fails_alone(client):
    reply = complete(client, HARMLESS, structured_outputs={"choice": [STEERED]})
    assert reply.status_code == 500
    assert not says(reply.text, STEERED)
    assert choices(complete(client, HARMLESS))[0][0]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"use_beam_search": True, "n": 2}, "beam search"),
        ({"prompt_logprobs": 2}, "prompt_logprobs"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"thinking_token_budget": 4}, "thinking_token_budget"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"return_tokens_as_token_ids": True, "logprobs": 1}, "return_tokens_as_token_ids"),
        ({"kv_transfer_params": {"do_remote_decode": True}}, "kv_transfer_params"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_moderated_is_a_400_streamed_or_not(client, stream, options, word):
    refused(complete(client, HARMLESS, stream=stream, **options), word)
    refused(chat(client, HARMLESS, stream=stream, **options), word)


def test_prompt_embeds_are_refused(client):
    data = io.BytesIO()
    torch.save(torch.zeros(4, 640, dtype=torch.bfloat16), data)
    embeds = base64.b64encode(data.getvalue()).decode()
    refused(complete(client, "", prompt_embeds=embeds), "prompt_embeds")
    refused(complete(client, HARMLESS, prompt_embeds=embeds), "prompt_embeds")


def test_logprobs_show_nothing_that_is_masked(client):
    reply = complete(client, COPY_STEERED, logprobs=5, max_tokens=12)
    rows = reply.json()["choices"][0]["logprobs"]
    said = ""
    for token, top in zip(rows["tokens"], rows["top_logprobs"], strict=True):
        for other, value in (top or {}).items():
            assert value < -1e3 or not says(said + other, STEERED)
        said += token


def test_tool_calls_are_moderated(client):
    tool = {
        "type": "function",
        "function": {
            "name": "note",
            "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
        },
    }
    for choice in ("auto", {"type": "function", "function": {"name": "note"}}):
        reply = chat(client, COPY_STEERED, tools=[tool], tool_choice=choice, max_tokens=40)
        assert reply.status_code == 200, reply.text
        assert not says(reply.text, STEERED)
    description = {**tool, "function": {**tool["function"], "description": ASK_BLOCKED}}
    reply = chat(client, HARMLESS, tools=[description])
    assert reply.json()["choices"][0]["finish_reason"] == "content_filter"


def test_a_policy_can_not_be_chosen_or_forged_by_a_client(server):
    stamp = "prism1:" + "0" * 64 + ":default:" + "0" * 64
    for name in ("x-prism-policy", "x-prism-stamp", "prism_stamp", "x-prism-tenant"):
        with server.client(headers={name: stamp}) as client:
            assert choices(complete(client, ASK_BLOCKED)) == [(REFUSAL, "content_filter")]
    with server.client() as client:
        refused(complete(client, HARMLESS, extra_args={"prism_stamp": stamp}), "extra_args")
        refused(complete(client, HARMLESS, vllm_xargs={"prism_stamp": stamp}), "vllm_xargs")


# Routes

MODERATED = {
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
    "/v1/responses/{response_id}",
    "/v1/responses/{response_id}/cancel",
    "/cohere/v2/chat",
    "/v1/chat/completions/batch",
    "/v1/chat/completions/render",
    "/v1/chat/completions/derender",
    "/v1/completions/render",
    "/v1/completions/derender",
    "/invocations",
    "/inference/v1/generate",
    "/generative_scoring",
}
HARMLESS_ROUTES = {
    "/health",
    "/ping",
    "/version",
    "/load",
    "/metrics",
    "/v1/models",
    "/tokenize",
    "/detokenize",
    "/docs",
    "/openapi.json",
}


def test_every_other_route_of_the_engine_is_denied(server, client):
    paths = client.get("/openapi.json").json()["paths"]
    assert len(paths) > 30
    denied = 0
    for path, methods in paths.items():
        if path in MODERATED | HARMLESS_ROUTES:
            continue
        concrete = path.replace("{", "").replace("}", "")
        for method in methods:
            body = {"model": "gemma", "prompt": HARMLESS, "messages": [], "input": HARMLESS}
            reply = client.request(method.upper(), concrete, json=body)
            assert reply.status_code == 403, (method, path, reply.status_code, reply.text[:200])
            denied += 1
    assert denied > 25


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages/render",
        "/v1/systemone",
        "/update_weights",
        "/sleep",
        "/collective_rpc",
        "/v1/load_lora_adapter",
        "/start_profile",
        "/reset_prefix_cache",
        "/server_info",
        "//v1/completions",
        "/v1/completions/",
        "/V1/completions",
        "/v1/./completions",
        "/x/../v1/completions",
    ],
)
def test_routes_by_name(server, path):
    where = urlsplit(server.url)
    for headers in ({}, {"Authorization": "Bearer key-of-the-tests"}):
        body = json.dumps({"model": "gemma", "prompt": HARMLESS, "max_tokens": 4})
        raw = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
        with contextlib.closing(raw) as connection:
            connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
            reply = connection.getresponse()
            assert reply.status in (403, 404, 405), (path, reply.status)
            assert b'"choices"' not in reply.read()


OTHER_FAMILIES = {
    "/v1/messages": lambda text: {
        "max_tokens": 24,
        "messages": [{"role": "user", "content": text}],
    },
    "/v1/responses": lambda text: {"max_output_tokens": 24, "input": text, "store": False},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", OTHER_FAMILIES)
def test_other_families_are_moderated_too(client, path, stream):
    def ask(text):
        body = {"model": "gemma", "temperature": 0, "stream": stream, **OTHER_FAMILIES[path](text)}
        reply = client.post(path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.text

    assert REFUSAL in ask(ASK_BLOCKED)
    assert not any(says(ask(f"Say it: {COPY_STEERED}"), phrase) for phrase in PHRASES)
    answered = ask(HARMLESS)
    assert REFUSAL not in answered
    assert "output_tokens" in answered


def test_stored_responses_of_nobody_are_not_found(client):
    assert client.get("/v1/responses/resp_1").status_code == 404
    assert client.post("/v1/responses/resp_1/cancel").status_code == 404


def test_websockets_are_denied(server):
    where = urlsplit(server.url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(b"0" * 16).decode(),
    }
    connection.request("GET", "/v1/realtime", headers=headers)
    assert connection.getresponse().status == 403
    connection.close()


def test_the_engines_key_is_asked_for_before_anything_is_judged(server):
    with server.client(headers={"authorization": "Bearer wrong"}) as client:
        for prompt in (HARMLESS, ASK_BLOCKED):
            assert complete(client, prompt).status_code == 401
        assert client.get("/v1/models").status_code == 401


# Clients that misbehave


def test_bad_bodies_are_told_so_and_hurt_nobody(client):
    post = {"headers": {"content-type": "application/json"}}
    cases = {
        413: [b'{"model": "gemma", "prompt": "' + b"x" * 5_000_000 + b'"}'],
        400: [
            b'{"model": "gemma", "prompt": "caf\xe9"}',
            b'{"model": "gemma", "prompt": ',
            b"[]",
            b'{"model": "gemma", "prompt": {"a": 1}}',
            b'{"model": "gemma", "prompt": "a", "prompt": "b"}',
        ],
    }
    for status, bodies in cases.items():
        for body in bodies:
            reply = client.post("/v1/completions", content=body, **post)
            assert reply.status_code == status, reply.text[:300]
            assert reply.json()["error"]["message"]
    assert choices(complete(client, HARMLESS))[0][0]


def test_a_client_that_leaves_in_the_middle_hurts_nobody(server, client):
    body = {"model": "gemma", "prompt": HARMLESS, "max_tokens": 400, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as reply:
        next(reply.iter_lines())
    assert choices(complete(client, HARMLESS))[0][0]
    assert client.get("/prism/health").status_code == 200


def test_no_text_is_in_the_log(server):
    log = server.log.read_text()
    assert not [phrase for phrase in PHRASES if phrase in log]
