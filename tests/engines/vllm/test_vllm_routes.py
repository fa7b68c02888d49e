"""vLLM's own routes beside OpenAI's, on the real server: batches, ``/invocations``, token ids.

Both layers have to be at work on each: what the model must not say is refused by the token layer,
so the text layer finds nothing to cut.
"""

import json

import httpx
import pytest
from vllm_runs import ADMIN_KEY
from vllm_texts import (
    ASK_BLOCKED,
    COPY_STEERED,
    COPY_UNSAYABLE,
    HARMLESS,
    REFUSAL,
    STEERED,
    UNSAYABLE,
    says,
)

pytestmark = pytest.mark.engine
OPTIONS = {"model": "gemma", "max_tokens": 24, "temperature": 0}


def post(client, path, body, **headers):
    reply = client.post(path, json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply


def ids_of(client, text):
    return post(client, "/tokenize", {"model": "gemma", "prompt": text}).json()["tokens"]


def text_of(client, ids):
    return post(client, "/detokenize", {"model": "gemma", "tokens": ids}).json()["prompt"]


def user(text):
    return [{"role": "user", "content": text}]


# Batches


def batch(client, *texts, **more):
    body = {**OPTIONS, "messages": [user(text) for text in texts], **more}
    return post(client, "/v1/chat/completions/batch", body).json()


def test_a_batch_is_answered_choice_by_choice(client):
    got = batch(client, HARMLESS, f"Say it: {COPY_STEERED}", "Hello there", logprobs=True)
    assert [choice["index"] for choice in got["choices"]] == [0, 1, 2]
    assert all(choice["message"]["content"] for choice in got["choices"])
    assert not says(json.dumps(got), STEERED)
    assert got["usage"]["completion_tokens"] > 3
    assert got["choices"][0]["logprobs"]["content"]


def test_a_batch_with_a_blocked_prompt_is_refused(client):
    got = batch(client, HARMLESS, ASK_BLOCKED)
    assert [c["message"]["content"] for c in got["choices"]] == [REFUSAL] * 2
    assert {c["finish_reason"] for c in got["choices"]} == {"content_filter"}


# /invocations


@pytest.mark.parametrize("stream", [False, True])
def test_invocations_are_moderated_by_both_layers(client, stream):
    text = post(client, "/invocations", {**OPTIONS, "prompt": COPY_UNSAYABLE, "stream": stream})
    assert not says(text.text, UNSAYABLE)
    assert "content_filter" in text.text
    steered = post(client, "/invocations", {**OPTIONS, "prompt": COPY_STEERED, "stream": stream})
    assert not says(steered.text, STEERED)
    assert "content_filter" not in steered.text
    for body in ({"prompt": ASK_BLOCKED}, {"messages": user(ASK_BLOCKED)}):
        reply = post(client, "/invocations", {**OPTIONS, **body, "stream": stream})
        assert REFUSAL in reply.text
    fine = post(client, "/invocations", {**OPTIONS, "messages": user(HARMLESS), "stream": stream})
    assert REFUSAL not in fine.text


# Token ids


def test_invocations_without_a_key_are_moderated(server):
    """vLLM's ``--api-key`` leaves this route open to everybody."""
    body = {**OPTIONS, "prompt": ASK_BLOCKED}
    with httpx.Client(base_url=server.url, timeout=180) as stranger:
        assert stranger.post("/v1/completions", json=body).status_code == 401
        reply = stranger.post("/invocations", json=body)
    assert reply.status_code == 401 or REFUSAL in reply.text


def generate(client, ids, stream=False, mode="tokens", **params):
    sampling = {"max_tokens": 24, "temperature": 0, **params}
    body = {"model": "gemma", "token_ids": ids, "sampling_params": sampling, "output_mode": mode}
    reply = post(client, "/inference/v1/generate", {**body, "stream": stream})
    if not stream:
        return [[choice] for choice in reply.json()["choices"]]
    assert reply.text.endswith("data: [DONE]\n\n")
    events = [json.loads(x[6:]) for x in reply.text.splitlines() if x.startswith("data: {")]
    rows = [row for event in events for row in event["choices"]]
    count = params.get("n", 1)
    return [[row for row in rows if row["index"] == n] for n in range(count)]


def joined(rows):
    ids = [number for row in rows for number in row["token_ids"]]
    return ids, "".join(row.get("text", "") for row in rows), rows[-1]["finish_reason"]


@pytest.mark.parametrize("stream", [False, True])
def test_ids_in_and_out(client, stream):
    prompt = ids_of(client, HARMLESS)
    (rows,) = generate(client, prompt, stream, logprobs=2)
    ids, _, reason = joined(rows)
    assert len(ids) == 24
    assert reason == "length"
    plain = post(client, "/v1/completions", {**OPTIONS, "prompt": prompt}).json()
    assert text_of(client, ids) == plain["choices"][0]["text"]
    for row in rows:
        entries = row["logprobs"]["content"] if row["logprobs"] else []
        assert [entry["token_id"] for entry in entries] == row["token_ids"]
    (rows,) = generate(client, prompt, stream, mode="text", logprobs=1)
    assert joined(rows)[:2] == (ids, plain["choices"][0]["text"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", ["tokens", "text"])
def test_ids_are_moderated_by_both_layers(client, stream, mode):
    # As good as greedy, with which vLLM gives one choice only.
    twice = {"n": 2, "temperature": 1, "top_k": 1}
    for rows in generate(client, ids_of(client, COPY_UNSAYABLE), stream, mode, **twice):
        ids, text, reason = joined(rows)
        said = text_of(client, ids)
        assert not says(said, UNSAYABLE)
        assert said.endswith(REFUSAL) or f"{REFUSAL}<" in said  # an end mark may follow
        assert reason == "content_filter"
        assert text.endswith(REFUSAL) if mode == "text" else not text
    (rows,) = generate(client, ids_of(client, COPY_STEERED), stream, mode)
    ids, text, reason = joined(rows)
    assert not says(text_of(client, ids), STEERED)
    assert not says(text, STEERED)
    assert reason != "content_filter"
    (rows,) = generate(client, ids_of(client, ASK_BLOCKED), stream, mode)
    assert joined(rows) == ([], REFUSAL if mode == "text" else "", "content_filter")


@pytest.mark.parametrize(
    "params",
    [
        {"prompt_logprobs": 1},
        {"extra_args": {"prism_stamp": "x"}},
        {"trace_decode_token_ids": [1, 2]},
        {"thinking_token_budget": 3},
        {"made_up": 1},
    ],
)
def test_sampling_parameters_that_get_round_are_refused(client, params):
    body = {"model": "gemma", "token_ids": [2, 651], "sampling_params": params}
    reply = client.post("/inference/v1/generate", json=body)
    assert reply.status_code == 400
    assert next(iter(params)) in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "params",
    [
        {"ignore_eos": True},
        {"min_tokens": 20},
        {"detokenize": False},
        {"skip_special_tokens": False},
        {"stop": ["lantern"], "include_stop_str_in_output": True},
        {"bad_words": ["Sorry"]},
        {"logprobs": 2, "logprob_token_ids": [5, 6]},
    ],
    ids=lambda params: next(iter(params)),
)
def test_no_parameter_lets_a_phrase_out(client, params):
    (rows,) = generate(client, ids_of(client, COPY_UNSAYABLE), **params)
    assert not says(text_of(client, joined(rows)[0]), UNSAYABLE)


def test_a_rendered_request_goes_there_and_back(client):
    body = {**OPTIONS, "messages": user(HARMLESS)}
    rendered = post(client, "/v1/chat/completions/render", body).json()
    assert "The capital of France" in text_of(client, rendered["token_ids"])
    assert "cache_salt" not in rendered
    answer = post(client, "/inference/v1/generate", rendered).json()
    assert len(answer["choices"][0]["token_ids"]) > 0
    # With a parser of tool calls vLLM wants to see the request, too.
    again = {"generate_response": answer, "chat_request": body}
    told = post(client, "/v1/chat/completions/derender", again).json()
    direct = post(client, "/v1/chat/completions", body).json()
    assert told["choices"][0]["message"] == direct["choices"][0]["message"]
    (one,) = post(client, "/v1/completions/render", {**OPTIONS, "prompt": HARMLESS}).json()
    assert one["token_ids"] == ids_of(client, HARMLESS)


def test_rendering_is_judged(client):
    for path, body in (
        ("/v1/chat/completions/render", {"messages": user(ASK_BLOCKED)}),
        ("/v1/completions/render", {"prompt": ASK_BLOCKED}),
        ("/generative_scoring", {"query": ASK_BLOCKED, "items": ["a"], "label_token_ids": [5]}),
    ):
        reply = client.post(path, json={"model": "gemma", **body})
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "content_filter"
    row = {"index": 0, "token_ids": ids_of(client, UNSAYABLE), "finish_reason": "stop"}
    asked = {"model": "gemma", "messages": user(HARMLESS)}
    made_up = {"generate_response": {"request_id": "r", "choices": [row]}, "chat_request": asked}
    told = post(client, "/v1/chat/completions/derender", made_up).json()
    assert told["choices"][0]["message"]["content"] == REFUSAL


def test_generative_scores(client):
    body = {"model": "gemma", "query": HARMLESS, "items": [" Paris", " Rome"]}
    got = post(client, "/generative_scoring", {**body, "label_token_ids": [5, 6]}).json()
    assert [row["index"] for row in got["data"]] == [0, 1]
    assert all(0 <= row["score"] <= 1 for row in got["data"])
    split = {**body, "query": ASK_BLOCKED[:-8], "items": [ASK_BLOCKED[-8:]], "label_token_ids": [5]}
    assert client.post("/generative_scoring", json=split).status_code == 400


# The operator's


def test_figures_are_those_of_the_process_that_answers(client):
    """vLLM's own ``/metrics`` shows nothing that another of its processes counts."""

    def refused():
        rows = client.get("/prism/metrics").text.splitlines()
        name = 'prism_requests_total{family="completions",outcome="blocked_prompt"}'
        return sum(float(row.split()[-1]) for row in rows if row.startswith(name))

    before = refused()
    post(client, "/v1/completions", {**OPTIONS, "prompt": ASK_BLOCKED})
    assert refused() == before + 1
    assert "prism_" not in client.get("/metrics").text


def test_admin_routes_are_the_operators(client):
    for key in ({}, {"x-prism-admin-key": "wrong"}):
        reply = client.post("/reset_prefix_cache", headers=key)
        assert reply.status_code == 403
        assert reply.json()["error"]["code"] == "operator_only"
    assert (
        client.post("/reset_prefix_cache", headers={"x-prism-admin-key": ADMIN_KEY}).status_code
        == 200
    )
    asleep = client.get("/is_sleeping", headers={"authorization": f"Bearer {ADMIN_KEY}"})
    assert asleep.json() == {"is_sleeping": False}
    for path in ("/collective_rpc", "/update_weights"):
        denied = client.post(path, headers={"x-prism-admin-key": ADMIN_KEY})
        assert denied.json()["error"]["code"] == "route_not_moderated"
