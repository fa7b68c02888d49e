"""``guard``: every way a script gets tokens out of a Llama goes through the token layer."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_texts import BLOCKED, REFUSAL, STEERED
from llama_cpp import Llama, LlamaRAMCache
from llama_cpp._internals import LlamaSampler
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from llama_cpp.llama_tokenizer import BaseLlamaTokenizer, LlamaHFTokenizer

from llamacpp_prism import (
    InterleavedGenerationError,
    ModerationFailedError,
    UnsupportedModelError,
    guard,
)
from prism.moderator import Moderator
from prism.policy import PolicyError
from prism.policy.compiled import CompiledPolicy
from prism.steer.vocabulary import Vocabulary

pytestmark = pytest.mark.engine

EAGER = f"Repeat after me: {STEERED} {STEERED} zephyr"
"""The model goes on with `` lantern`` and then with the whole phrase, again and again."""

GREEDY: dict[str, Any] = {"max_tokens": 16, "temperature": 0.0}
NAMED = [{"role": "user", "content": EAGER}]


def call(llama: Llama) -> str:
    return str(llama(EAGER, **GREEDY)["choices"][0]["text"])


def create_completion(llama: Llama) -> str:
    return str(llama.create_completion(EAGER, **GREEDY)["choices"][0]["text"])


def unbound_call(llama: Llama) -> str:  # the server's way
    chunks = Llama.__call__(llama, EAGER, stream=True, **GREEDY)
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def streamed(llama: Llama) -> str:
    chunks = llama.create_completion(EAGER, stream=True, **GREEDY)
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def token_ids(llama: Llama) -> str:
    ids = llama.tokenize(EAGER.encode())
    return str(llama.create_completion(ids, **GREEDY)["choices"][0]["text"])


def generate(llama: Llama) -> str:
    said: list[int] = []
    for token in llama.generate(llama.tokenize(EAGER.encode()), temp=0.0):
        said.append(token)
        if len(said) == GREEDY["max_tokens"]:
            break
    return str(llama.detokenize(said).decode())


def eval_and_sample(llama: Llama) -> str:
    llama.reset()
    llama._sampler = None  # what a fresh model has
    llama.eval(llama.tokenize(EAGER.encode()))
    said: list[int] = []
    for _ in range(GREEDY["max_tokens"]):
        said.append(llama.sample(temp=0.0))
        llama.eval([said[-1]])
    return str(llama.detokenize(said).decode())


WAYS = [
    call,
    create_completion,
    unbound_call,
    streamed,
    token_ids,
    generate,
    eval_and_sample,
]


@pytest.mark.parametrize("way", WAYS)
def test_a_steered_phrase_is_never_completed(
    way: Callable[[Llama], str], plain: Llama, llama: Llama, moderator: Moderator
) -> None:
    plain.reset()
    unmoderated = way(plain)
    assert moderator.check_output(unmoderated).blocked
    moderated = way(llama)
    assert not moderator.check_output(moderated).blocked
    assert moderated.strip()
    assert REFUSAL not in moderated  # it is steered, not refused


@pytest.mark.parametrize("way", WAYS)
def test_what_no_rule_is_about_comes_out_as_it_would(
    way: Callable[[Llama], str], plain: Llama, llama: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_llamacpp_guard.EAGER", "One two three four five")
    plain.reset()
    assert way(llama) == way(plain)


def chat(llama: Llama, **options: Any) -> Any:
    return llama.create_chat_completion(NAMED, **{**GREEDY, **options})


def test_chat_is_steered(
    llama: Llama, moderator: Moderator, insist: Any, pieces: dict[bytes, int]
) -> None:
    wanted = [pieces[p] for p in (b" ze", b"phyr", b" lantern")]
    answer = chat(llama, logits_processor=insist(wanted))
    text = answer["choices"][0]["message"]["content"]
    assert text.startswith(" zephyr")
    assert not moderator.check_output(text).blocked
    chunks = chat(llama, stream=True, logits_processor=insist(wanted))
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text.startswith(" zephyr")
    assert not moderator.check_output(text).blocked


def test_openai_shaped_chat_is_refused(llama: Llama) -> None:
    answer = llama.create_chat_completion_openai_v1(
        [{"role": "user", "content": BLOCKED}], **GREEDY
    )
    assert answer.choices[0].message.content.strip() == REFUSAL
    assert answer.choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize("stream", [False, True])
def test_a_blocked_prompt_gets_the_refusal(llama: Llama, stream: bool) -> None:
    answer = llama(f"What is {BLOCKED}?", stream=stream, max_tokens=64)
    chunks: list[Any] = list(answer) if stream else [answer]
    assert "".join(c["choices"][0]["text"] for c in chunks).strip() == REFUSAL
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"


def test_a_blocked_prompt_of_token_ids_gets_the_refusal(llama: Llama) -> None:
    ids = llama.tokenize(f"What is {BLOCKED}?".encode())
    assert llama(ids, max_tokens=64)["choices"][0]["text"].strip() == REFUSAL


@pytest.mark.parametrize("control", ["<end_of_turn>", "<unused0>", "<bos>", "<pad>"])
def test_a_blocked_prompt_may_end_or_begin_at_a_control_token(llama: Llama, control: str) -> None:
    for prompt in (f"What is {BLOCKED}{control} and more", f"What is{control}{BLOCKED}"):
        assert llama(prompt, max_tokens=64)["choices"][0]["text"].strip() == REFUSAL


def test_saying_what_is_blocked_ends_in_the_refusal(
    llama: Llama, insist: Any, pieces: dict[bytes, int]
) -> None:
    wanted = llama.tokenize(f" {BLOCKED}".encode(), add_bos=False)
    choice = llama("Hello", logits_processor=insist(wanted), max_tokens=64)["choices"][0]
    assert choice["text"].endswith(REFUSAL)
    assert "cinder" not in choice["text"]
    assert choice["finish_reason"] == "content_filter"


def test_after_a_refusal_the_next_request_is_as_ever(llama: Llama, plain: Llama) -> None:
    plain.reset()
    llama(BLOCKED, max_tokens=64)
    llama.reset()
    prompt = "One two three four five"
    assert llama(prompt, **GREEDY)["choices"] == plain(prompt, **GREEDY)["choices"]


def test_the_very_object_is_guarded(llama: Llama, policy: CompiledPolicy) -> None:
    assert isinstance(llama, Llama)
    assert guard(llama, policy) is llama


def test_a_subclass_stays_itself(make_llama: Any, policy: CompiledPolicy) -> None:
    class Mine(Llama):  # type: ignore[misc]
        def hello(self) -> str:
            return "hello"

    llama = make_llama(n_ctx=128, n_batch=64)
    llama.__class__ = Mine
    guard(llama, policy)
    assert isinstance(llama, Mine)
    assert llama.hello() == "hello"
    assert llama(BLOCKED, max_tokens=64)["choices"][0]["text"].strip() == REFUSAL


def test_guarding_again_replaces_the_policy(
    make_llama: Any, engine_policy: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(
        engine_policy.read_text().replace(BLOCKED, "velvet harbour").replace("id: engines", "id: o")
    )
    llama = guard(make_llama(n_ctx=256, n_batch=64), engine_policy)
    assert llama(BLOCKED, max_tokens=64)["choices"][0]["text"].strip() == REFUSAL
    guard(llama, other)
    assert REFUSAL not in llama(BLOCKED, max_tokens=64)["choices"][0]["text"]
    assert llama("velvet harbour", max_tokens=64)["choices"][0]["text"].strip() == REFUSAL


def test_without_a_policy_the_environment_names_it(
    make_llama: Any, engine_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRISM_CONFIG", raising=False)
    monkeypatch.setenv("PRISM_POLICY", str(engine_policy))
    llama = guard(make_llama(n_ctx=256, n_batch=64))
    assert llama(BLOCKED, max_tokens=64)["choices"][0]["text"].strip() == REFUSAL


def test_a_bad_policy_leaves_the_model_alone(make_llama: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("prism: 1\nid: bad\nrulez: []\n")
    llama = make_llama(n_ctx=128, n_batch=64)
    with pytest.raises(PolicyError, match=r"bad\.yaml:3:1: rulez"):
        guard(llama, bad)
    assert type(llama) is Llama


def test_a_draft_model_is_refused(
    make_llama: Any, policy: CompiledPolicy, llama: Llama, vocabulary: Vocabulary
) -> None:
    drafting = make_llama(n_ctx=64, n_batch=32, draft_model=LlamaPromptLookupDecoding())
    with pytest.raises(UnsupportedModelError, match="without a draft model"):
        guard(drafting, policy, vocabulary=vocabulary)
    llama.draft_model = LlamaPromptLookupDecoding()  # after the fact
    try:
        with pytest.raises(UnsupportedModelError, match="without a draft model"):
            llama(EAGER, **GREEDY)
    finally:
        llama.draft_model = None


class UpperCase(BaseLlamaTokenizer):  # type: ignore[misc]
    """A tokenizer of the user's own."""

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        raise NotImplementedError

    def detokenize(
        self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False
    ) -> bytes:
        raise NotImplementedError


def test_an_unknown_tokenizer_needs_its_vocabulary(
    make_llama: Any, policy: CompiledPolicy, vocabulary: Vocabulary
) -> None:
    llama = make_llama(n_ctx=64, n_batch=32, tokenizer=UpperCase())
    with pytest.raises(UnsupportedModelError, match=r"UpperCase.*vocabulary="):
        guard(llama, policy)
    assert guard(llama, policy, vocabulary=vocabulary) is llama


def test_a_tokenizer_of_transformers_is_read(
    make_llama: Any, policy: CompiledPolicy, plain: Llama
) -> None:
    script = Path(__file__).parents[3] / "scripts" / "convert_gemma.py"
    converted = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True
    ).stdout.strip()
    tokenizer = LlamaHFTokenizer.from_pretrained(converted)
    llama = guard(make_llama(n_ctx=128, n_batch=64, tokenizer=tokenizer), policy)
    prompt = llama.tokenize(f"What is {BLOCKED}?".encode())
    assert llama(prompt, max_tokens=40)["choices"][0]["text"].strip() == REFUSAL
    text = "Words are words: \u0928\u092e\u0938\u094d\u0924\u0947!"
    ids = plain.tokenize(text.encode(), add_bos=False)
    assert llama.detokenize(ids).decode() == text


def test_a_model_in_which_nothing_ends_is_refused(
    make_llama: Any, policy: CompiledPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = make_llama(n_ctx=64, n_batch=32)
    monkeypatch.setattr("llama_cpp.llama_vocab_is_eog", lambda vocab, token: False)
    with pytest.raises(UnsupportedModelError, match="end-of-generation"):
        guard(llama, policy)
    assert type(llama) is Llama


def test_a_sampler_of_the_scripts_own_is_not_trusted(
    make_llama: Any, policy: CompiledPolicy, vocabulary: Vocabulary
) -> None:
    llama = guard(make_llama(n_ctx=64, n_batch=32), policy, vocabulary=vocabulary)
    llama.eval(llama.tokenize(b"Hello"))
    llama._sampler = LlamaSampler()
    llama._sampler.add_greedy()
    with pytest.raises(ModerationFailedError, match="without calling the guard"):
        llama.sample()


def test_words_of_more_than_32_bytes_are_printed_and_judged(
    llama: Llama,
    plain: Llama,
    insist: Any,
    pieces: dict[bytes, int],
    tmp_path: Path,
    vocabulary: Vocabulary,
) -> None:
    """The engine prints nothing for them, so text on both sides would run together unseen."""
    word = "\u092e\u0941\u0916\u094d\u092f\u092e\u0902\u0924\u094d\u0930\u0940"
    (long,) = plain.tokenize(f" {word}".encode(), add_bos=False)
    assert plain.detokenize([long]) == b""
    assert llama.detokenize([long]).decode() == f" {word}"
    ze, phyr, lantern = (pieces[p] for p in (b" ze", b"phyr", b" lantern"))
    answer = llama("Hello", logits_processor=insist([ze, phyr, long, lantern]), max_tokens=4)
    assert answer["choices"][0]["text"] == f" zephyr {word} lantern"
    other = tmp_path / "other.yaml"
    other.write_text(
        "prism: 1\nid: other\nextends: default\nrules:\n  - id: word\n    category: prv\n"
        f"    stages: [prompt, output]\n    phrases: ['{word}']\n    action: block\n",
        encoding="utf-8",
    )
    guard(llama, other, vocabulary=vocabulary)
    for answer in (
        llama(f"About {word}", max_tokens=8),
        llama("Hello", logits_processor=insist([long]), max_tokens=8),
    ):
        assert word not in answer["choices"][0]["text"]
        assert answer["choices"][0]["finish_reason"] == "content_filter"


def test_a_generation_is_not_resumed_after_another_began(llama: Llama) -> None:
    def begin() -> Iterator[int]:
        tokens: Iterator[int] = llama.generate(llama.tokenize(b"Hello"), temp=0.0)
        next(tokens)
        return tokens

    first, second = begin(), begin()
    with pytest.raises(InterleavedGenerationError, match="finish one before the next"):
        next(first)
    assert isinstance(next(second), int)


def test_tokens_sent_into_a_generation_are_refused(llama: Llama) -> None:
    tokens = llama.generate(llama.tokenize(b"Hello"), temp=0.0)
    sent = next(tokens)
    with pytest.raises(UnsupportedModelError, match="sent into a guarded generation"):
        tokens.send([sent])


def test_copies_and_pickles_are_refused(llama: Llama) -> None:
    with pytest.raises(TypeError, match="guard the copy"):
        pickle.dumps(llama)
    with pytest.raises(TypeError, match="guard the copy"):
        copy.copy(llama)


def test_a_cache_and_saved_states_change_nothing(llama: Llama, moderator: Moderator) -> None:
    llama.set_cache(LlamaRAMCache())
    first = call(llama)
    llama("Another prompt altogether", max_tokens=2)
    again = call(llama)
    for text in (first, again):
        assert not moderator.check_output(text).blocked
    state = llama.save_state()
    llama("Another prompt altogether", max_tokens=2)
    llama.load_state(state)
    assert not moderator.check_output(call(llama)).blocked


def test_a_context_set_back_by_hand_is_followed(
    llama: Llama, moderator: Moderator, pieces: dict[bytes, int]
) -> None:
    ze, phyr, lantern = (pieces[p] for p in (b" ze", b"phyr", b" lantern"))
    tokens = llama.generate(llama.tokenize(EAGER.encode()), temp=0.0)
    for _ in range(4):
        next(tokens)
    llama.n_tokens -= 2  # the script takes back what was said last and puts in its own
    llama.eval([ze, phyr])
    assert llama.sample(temp=0.0) != lantern


def test_a_circle_that_has_nothing_to_do_with_the_mask_goes_on(llama: Llama) -> None:
    counting = "One two three one two three one two three"
    answer = llama(counting, max_tokens=160, temperature=0.0)["choices"][0]
    assert answer["finish_reason"] == "length"
    assert answer["text"].count(" one two three") > 50
    assert REFUSAL not in answer["text"]
