"""What is printed is judged, too: the engine cuts and drops some of what the tokens spell."""

from __future__ import annotations

from typing import Any

import pytest
from engine_texts import BLOCKED, REFUSAL, STEERED
from llama_cpp import Llama

from prism.moderator import Moderator
from prism.policy.compiled import CompiledPolicy
from prism.steer.stamp import language
from prism.steer.vocabulary import Vocabulary

pytestmark = pytest.mark.engine


def said(answer: Any, *, stream: bool) -> tuple[str, str]:
    chunks = list(answer) if stream else [answer]
    choices = [chunk["choices"][0] for chunk in chunks]
    return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_within_a_word_leaves_no_phrase(
    llama: Llama, plain: Llama, insist: Any, moderator: Moderator, stream: bool
) -> None:
    ids = plain.tokenize(f" {STEERED}s".encode(), add_bos=False)
    options = {"stop": ["s"], "stream": stream, "temperature": 0.0, "max_tokens": 9}
    text, reason = said(llama("Hello", logits_processor=insist(ids), **options), stream=stream)
    assert not moderator.check_output(text).blocked
    assert text.endswith(REFUSAL)
    assert reason == "content_filter"


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_ended_in_the_same_way(
    llama: Llama, plain: Llama, insist: Any, stream: bool
) -> None:
    ids = plain.tokenize(f"{STEERED}s".encode(), add_bos=False)
    answer = llama.create_chat_completion(
        [{"role": "user", "content": "Hello"}],
        logits_processor=insist(ids),
        stop=["s"],
        stream=stream,
        max_tokens=9,
        temperature=0.0,
    )
    choices = [chunk["choices"][0] for chunk in (answer if stream else [answer])]
    parts = [choice["delta" if stream else "message"].get("content") or "" for choice in choices]
    assert "".join(parts).endswith(REFUSAL)
    assert choices[-1]["finish_reason"] == "content_filter"


def test_letters_lost_at_the_end_of_a_stream_join_no_phrase(
    llama: Llama, plain: Llama, vocabulary: Vocabulary, insist: Any, moderator: Moderator
) -> None:
    """A stream decodes its last tokens one by one, and drops a letter spelled in two."""
    single = {vocabulary.bytes_of([i]): i for i in range(1000)}
    letter = [single[bytes([byte])] for byte in "ж".encode()]
    first, second = plain.tokenize(b" zep", add_bos=False), plain.tokenize(b"hyr", add_bos=False)
    ids = [*first, *letter, *second, *plain.tokenize(b" lantern", add_bos=False)]
    options = {"stop": ["жhyr lantern of"], "max_tokens": len(ids), "temperature": 0.0}
    text, reason = said(
        llama("Hello", logits_processor=insist(ids), stream=True, **options), stream=True
    )
    assert not moderator.check_output(text).blocked
    assert reason == "content_filter"
    whole, _ = said(llama("Hello", logits_processor=insist(ids), **options), stream=False)
    assert whole == " zepжhyr lantern"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("decoy", [b"\xff", b"\x80", b"x\xff", b"\xd0"])
def test_bytes_that_are_dropped_join_no_phrase(
    llama: Llama,
    vocabulary: Vocabulary,
    plain: Llama,
    insist: Any,
    moderator: Moderator,
    stream: bool,
    decoy: bytes,
) -> None:
    """The engine leaves out bytes that are no UTF-8: what is on both sides is printed as one."""
    single = {vocabulary.bytes_of([i]): i for i in range(1000)}
    first, second = plain.tokenize(b" zep", add_bos=False), plain.tokenize(b"hyr", add_bos=False)
    ids = [*first, *(single[bytes([byte])] for byte in decoy), *second]
    ids += plain.tokenize(b" lantern", add_bos=False)
    asked: list[int] = []

    def watch(input_ids: Any, scores: Any) -> Any:
        asked[:] = input_ids.tolist()
        return scores

    processors = [*insist(ids), watch]
    options = {"max_tokens": len(ids) + 4, "temperature": 0.0, "stream": stream}
    text, _ = said(llama("Hello", logits_processor=processors, **options), stream=stream)
    assert not moderator.check_output(text).blocked
    # The sampler itself can't: what it says is UTF-8, but for the byte that ended it.
    answer = vocabulary.bytes_of(asked[len(plain.tokenize(b"Hello")) :])
    assert not moderator.check_output(answer.decode(errors="ignore")).blocked
    assert (decoy != b"\xd0") == (REFUSAL.split()[0] in text)


@pytest.mark.parametrize("stop", [["s"], None])
def test_the_refusal_is_in_the_requests_language(
    llama: Llama, plain: Llama, policy: CompiledPolicy, insist: Any, stop: list[str] | None
) -> None:
    """Whether the sampler begins it or the printed text ends in it."""
    assert policy.message("de") != policy.message()
    ids = plain.tokenize(f" {STEERED if stop else BLOCKED}s".encode(), add_bos=False)
    if not stop:
        ids = plain.tokenize(f" {BLOCKED}".encode(), add_bos=False)
    token = language.set("de")
    try:
        text, reason = said(
            llama("Hello", logits_processor=insist(ids), stop=stop, temperature=0.0, max_tokens=24),
            stream=False,
        )
    finally:
        language.reset(token)
    assert text.endswith(policy.message("de"))
    assert reason == "content_filter"


def test_an_echoed_prompt_is_no_part_of_the_answer(llama: Llama) -> None:
    prompt = f"{STEERED}, {STEERED}, {STEERED}: 1, 2, 3, 4,"
    text, _ = said(llama(prompt, echo=True, max_tokens=6, temperature=0.0), stream=False)
    assert text.startswith(prompt)
    assert REFUSAL not in text


def test_a_phrase_that_the_prompt_begins_is_not_ended(
    llama: Llama, plain: Llama, insist: Any, moderator: Moderator
) -> None:
    first, second = STEERED.split()
    ids = plain.tokenize(f" {second}".encode(), add_bos=False)
    for prompt in (f"I have a {first}", plain.tokenize(f"I have a {first}".encode())):
        text, _ = said(
            llama(prompt, logits_processor=insist(ids), max_tokens=3, temperature=0.0), stream=False
        )
        assert not moderator.check_output(first + text).blocked
