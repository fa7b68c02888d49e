"""Each way in which llama-cpp-python would let a token past a logits processor, closed."""

from __future__ import annotations

import json
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from engine_texts import BLOCKED, REFUSAL, STEERED
from llama_cpp import Llama, LlamaGrammar, LogitsProcessorList, MinTokensLogitsProcessor
from llamacpp_tools import note_tool

from llamacpp_prism import GrammarError, ModerationFailedError, guard
from llamacpp_prism.gate import Gate
from prism.moderator import Moderator
from prism.policy.compiled import CompiledPolicy
from prism.steer.row import TokenRow
from prism.steer.vocabulary import Vocabulary

pytestmark = pytest.mark.engine

EAGER = f"Repeat after me: {STEERED} {STEERED} zephyr"
GREEDY: dict[str, Any] = {"max_tokens": 16, "temperature": 0.0}


def text_of(answer: Any) -> str:
    return str(answer["choices"][0]["text"])


# --- processors that the engine drops, and processors of the request's own


def test_logit_bias_drops_nothing(
    llama: Llama, moderator: Moderator, insist: Any, pieces: dict[bytes, int]
) -> None:
    wanted = [pieces[p] for p in (b" ze", b"phyr", b" lantern")]
    for bias in (100.0, float("inf")):
        for processors in (None, insist(wanted), LogitsProcessorList()):
            answer = llama(
                EAGER, logit_bias={wanted[2]: bias}, logits_processor=processors, **GREEDY
            )
            assert not moderator.check_output(text_of(answer)).blocked


def test_minimum_tokens_do_not_hold_up_a_refusal(llama: Llama) -> None:
    processors = LogitsProcessorList([MinTokensLogitsProcessor(60, llama.token_eos())])
    answer = llama(BLOCKED, max_tokens=100, logits_processor=processors)
    assert text_of(answer).strip() == REFUSAL
    assert answer["usage"]["completion_tokens"] < 60


def test_a_processor_of_the_request_cannot_unmask(
    llama: Llama, moderator: Moderator, insist: Any, plain: Llama
) -> None:
    ids = plain.tokenize(f" {STEERED}".encode(), add_bos=False)
    answer = llama("Hello", logits_processor=insist(ids * 3), **GREEDY)
    assert text_of(answer).startswith(" zephyr")
    assert not moderator.check_output(text_of(answer)).blocked


SPELLINGS = [
    " zephyr lantern",
    " ZEPHYR  lantern",
    "Zephyr Lantern",
    "zephyr\nlantern",
    " z e p h y r l a n t e r n",
    " z3phyr l4ntern",
    " zephyyyr lantern",
    " mrculre ynagrea",
]


def test_no_spelling_in_tokens_gets_through(
    llama: Llama, moderator: Moderator, insist: Any, pieces: dict[bytes, int], plain: Llama
) -> None:
    """Whatever the sequence of tokens that the engine wants, the text stays clean."""
    rng = random.Random(4)
    control = [0, 3, 7, 50, 105]  # print nothing, so the text runs on across them
    for token in control:
        assert plain.detokenize([token]) == b""
    for _ in range(30):
        spelt = rng.choice(SPELLINGS)
        wanted: list[int] = []
        rest = spelt.encode()
        while rest:
            size = rng.choice([n for n in range(1, len(rest) + 1) if rest[:n] in pieces])
            wanted.append(pieces[rest[:size]])
            rest = rest[size:]
            if rng.random() < 0.3:
                wanted.append(rng.choice(control))
        answer = llama(
            "Hello", logits_processor=insist(wanted), max_tokens=len(wanted) + 4, temperature=0.0
        )
        assert not moderator.check_output(text_of(answer)).blocked, (spelt, wanted)


# --- failures: an exception in a C callback is lost, and decoding would go on unmasked


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after", [0, 3])
def test_a_failure_ends_the_request_and_only_that(
    llama: Llama, stream: bool, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    mask = TokenRow.apply

    def broken(row: TokenRow, scores: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise RuntimeError("injected")
        mask(row, scores)

    chunks: list[Any] = []

    def ask() -> None:
        answer = llama("Once upon a time", stream=stream, max_tokens=8, temperature=0.0)
        chunks.extend(answer)

    with monkeypatch.context() as patch:
        patch.setattr(TokenRow, "apply", broken)
        with pytest.raises(ModerationFailedError, match="nothing more is generated") as caught:
            ask()
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert calls == after + 1  # the engine was not asked for another token
        assert len(chunks) <= after
    assert len(text_of(llama("Once upon a time", max_tokens=8))) > 8


def test_an_interrupt_is_not_swallowed(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(row: TokenRow, scores: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TokenRow, "apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llama("Once upon a time", max_tokens=8)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failing_processor_of_the_request_fails_closed(llama: Llama) -> None:
    def broken(input_ids: Any, scores: Any) -> Any:
        raise RuntimeError("the request's own")

    with pytest.raises(ModerationFailedError, match="without calling the guard"):
        llama("Once upon a time", max_tokens=8, logits_processor=LogitsProcessorList([broken]))


# --- samplers behind the mask that undo it


@pytest.mark.parametrize(
    "options",
    [
        {"repeat_penalty": 0.0},  # -inf * 0 is NaN
        {"repeat_penalty": -1.0},  # -inf * -1 is +inf
        {"repeat_penalty": 2.0, "frequency_penalty": 2.0, "presence_penalty": 2.0},
        {"repeat_penalty": 0.01, "frequency_penalty": -2.0, "presence_penalty": -2.0},
        {"temperature": 1e-40},
        {"temperature": -1.0},
        {"temperature": 5.0},
        {"top_k": 0},
        {"top_k": 1},
        {"top_k": -1, "min_p": 0.0, "top_p": 1.0},
        {"min_p": 1.0},
        {"top_p": 0.0},
        {"typical_p": 0.1},
        {"typical_p": 0.1, "top_k": 0},
        {"mirostat_mode": 1},
        {"mirostat_mode": 2},
        {"tfs_z": 0.1},
    ],
    ids=json.dumps,
)
def test_no_sampling_option_undoes_the_mask(
    llama: Llama, moderator: Moderator, insist: Any, plain: Llama, options: dict[str, Any]
) -> None:
    ids = plain.tokenize(f" lantern, {STEERED}".encode(), add_bos=False)
    request = {"max_tokens": 20, "temperature": 0.7, "logits_processor": insist(ids * 4), **options}
    try:
        answer = llama("Hello", **request)
    except ModerationFailedError:
        return  # closed as well
    assert not moderator.check_output(text_of(answer)).blocked


@pytest.mark.parametrize(
    "option",
    [
        "temperature",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "frequency_penalty",
        "presence_penalty",
        "mirostat_tau",
        "mirostat_eta",
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_options_that_are_no_numbers_are_refused(llama: Llama, option: str, value: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number"):
        llama("Hello", max_tokens=2, **{option: value})


# --- grammars: the engine's own sampler ends the process when nothing is left to choose


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("stream", [False, True])
def test_a_grammar_that_only_allows_the_phrase_ends_in_the_refusal(
    llama: Llama, moderator: Moderator, temperature: float, stream: bool
) -> None:
    grammar = LlamaGrammar.from_string(f'root ::= "{STEERED}"')
    answer = llama("Say:", grammar=grammar, temperature=temperature, max_tokens=40, stream=stream)
    chunks: list[Any] = list(answer) if stream else [answer]
    text = "".join(map(text_of, chunks))
    assert text.endswith(REFUSAL)
    assert not moderator.check_output(text).blocked
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"


def test_a_blocked_prompt_is_refused_under_a_grammar(llama: Llama) -> None:
    grammar = LlamaGrammar.from_string('root ::= "yes" | "no"')
    assert text_of(llama(BLOCKED, grammar=grammar, max_tokens=40)).strip() == REFUSAL


def test_a_grammar_still_does_its_work(llama: Llama) -> None:
    grammar = LlamaGrammar.from_string('root ::= "yes" | "no"')
    answer = llama("Is water wet?", grammar=grammar, max_tokens=40)
    assert text_of(answer) in ("yes", "no")
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_grammar_that_leaves_nothing_but_a_forbidden_end_ends(llama: Llama) -> None:
    def no_end(input_ids: Any, scores: Any) -> Any:
        scores[[1, 106, 212]] = -np.inf  # this model's end-of-generation tokens
        return scores

    grammar = LlamaGrammar.from_string('root ::= "yes"')
    processors = LogitsProcessorList([no_end])
    answer = llama("Is water wet?", grammar=grammar, max_tokens=40, logits_processor=processors)
    assert text_of(answer) == "yes"
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "text", ['root ::= "a', "root ::= root", "nonsense", "root ::= missing", "%llguidance {}"]
)
def test_a_malformed_grammar_is_an_error_and_not_a_crash(llama: Llama, text: str) -> None:
    with pytest.raises(GrammarError, match="can't be parsed"):
        llama("Hello", grammar=LlamaGrammar.from_string(text), max_tokens=4)


def test_json_mode_gives_json_without_the_phrase(
    llama: Llama, moderator: Moderator, insist: Any, plain: Llama
) -> None:
    ids = plain.tokenize(f'{{"a": "{STEERED}'.encode(), add_bos=False)
    answer = llama.create_chat_completion(
        [{"role": "user", "content": "Give me JSON"}],
        response_format={
            "type": "json_object",
            "schema": {
                "type": "object",
                "properties": {"a": {"type": "string", "maxLength": 20}},
                "required": ["a"],
            },
        },
        logits_processor=insist(ids),
        max_tokens=60,
        temperature=0.0,
    )
    text = answer["choices"][0]["message"]["content"]
    assert json.loads(text)["a"].startswith("zephyr")
    assert not moderator.check_output(text).blocked


TOOL = note_tool(20)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_tool_arguments_are_steered(
    llama: Llama, moderator: Moderator, insist: Any, plain: Llama, stream: bool, legacy: bool
) -> None:
    ids = plain.tokenize(f'{{"text": "{STEERED}'.encode(), add_bos=False)
    asked: dict[str, Any] = (
        {"functions": [TOOL["function"]], "function_call": {"name": "note"}}
        if legacy
        else {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "note"}}}
    )
    answer = llama.create_chat_completion(
        [{"role": "user", "content": "Take a note"}],
        **asked,
        logits_processor=insist(ids),
        max_tokens=60,
        temperature=0.0,
        stream=stream,
    )
    if stream:
        deltas = [chunk["choices"][0]["delta"] for chunk in answer]
        arguments = "".join(
            call["function"]["arguments"]
            for delta in deltas
            for call in delta.get("tool_calls") or ()
        )
    else:
        arguments = answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments)["text"].startswith("zephyr")
    assert not moderator.check_output(arguments).blocked


@pytest.mark.parametrize("chat_format", ["chatml", "gemma", "chatml-function-calling", "alpaca"])
def test_every_chat_format_goes_through_the_guard(
    llama: Llama, chat_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "chat_format", chat_format)
    answer = llama.create_chat_completion(
        [{"role": "user", "content": f"What is {BLOCKED}?"}], max_tokens=64
    )
    assert answer["choices"][0]["message"]["content"].strip() == REFUSAL


@pytest.mark.parametrize(
    "choice", ["auto", "none", {"type": "function", "function": {"name": "note"}}]
)
def test_function_calling_formats_are_refused_without_a_crash(
    llama: Llama, choice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "chat_format", "chatml-function-calling")
    answer = llama.create_chat_completion(
        [{"role": "user", "content": f"Note: {BLOCKED}"}],
        tools=[TOOL],
        tool_choice=choice,
        max_tokens=64,
    )
    message = answer["choices"][0]["message"]
    said = [message["content"] or ""]
    said += [call["function"]["arguments"] for call in message.get("tool_calls") or ()]
    assert "".join(said).strip() in ("", REFUSAL)


# --- what else a request can ask for


def test_a_stop_string_cannot_turn_a_refusal_into_text(llama: Llama) -> None:
    answer = llama(BLOCKED, max_tokens=64, stop=[REFUSAL[:5]])
    assert text_of(answer).strip() in REFUSAL
    assert answer["choices"][0]["finish_reason"] == "content_filter"


def test_a_stop_string_inside_the_phrase_hides_nothing(
    llama: Llama, insist: Any, plain: Llama, moderator: Moderator
) -> None:
    ids = plain.tokenize(f" {STEERED}".encode(), add_bos=False)
    for stream in (False, True):
        answer = llama(
            "Hello", logits_processor=insist(ids * 2), stop=["lantern"], stream=stream, **GREEDY
        )
        text = "".join(map(text_of, answer)) if stream else text_of(answer)
        assert not moderator.check_output(text).blocked


def test_few_tokens_leave_a_shorter_refusal(llama: Llama) -> None:
    answer = llama(BLOCKED, max_tokens=3)
    assert REFUSAL.startswith(text_of(answer).strip())
    assert answer["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize("n_batch", [1, 3, 16])
def test_small_batches(
    make_llama: Any,
    policy: CompiledPolicy,
    vocabulary: Vocabulary,
    moderator: Moderator,
    n_batch: int,
) -> None:
    llama = guard(make_llama(n_ctx=128, n_batch=n_batch), policy, vocabulary=vocabulary)
    text = text_of(llama(EAGER, **GREEDY))
    assert text.strip()
    assert not moderator.check_output(text).blocked
    assert text_of(llama(BLOCKED, max_tokens=40)).strip() == REFUSAL


def test_echo_and_suffix(llama: Llama, moderator: Moderator) -> None:
    text = text_of(llama(EAGER, echo=True, **GREEDY))
    assert text.startswith(EAGER)
    assert not moderator.check_output(text.removeprefix(EAGER)).blocked
    text = text_of(llama(EAGER, suffix="The end", **GREEDY))
    assert not moderator.check_output(text).blocked
    assert (
        text_of(llama("Hello", suffix=f"all about the {BLOCKED}", max_tokens=40)).strip() == REFUSAL
    )


def test_the_empty_prompt(llama: Llama, insist: Any, plain: Llama, moderator: Moderator) -> None:
    ids = plain.tokenize(STEERED.encode(), add_bos=False)
    text = text_of(llama("", logits_processor=insist(ids), **GREEDY))
    assert text.startswith("zephyr")
    assert not moderator.check_output(text).blocked


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_do_not_tell_what_was_masked(
    make_llama: Any,
    policy: CompiledPolicy,
    vocabulary: Vocabulary,
    insist: Any,
    pieces: dict[bytes, int],
    stream: bool,
) -> None:
    llama = make_llama(n_ctx=64, n_batch=32, logits_all=True)

    def third_token() -> dict[str, float]:
        wanted = [pieces[b" ze"], pieces[b"phyr"]]
        answer = llama(
            f"Repeat after me: {STEERED} {STEERED}",
            logits_processor=insist(wanted),
            max_tokens=4,
            temperature=0.0,
            logprobs=3,
            stream=stream,
        )
        tops: list[dict[str, float]] = []
        for chunk in answer if stream else [answer]:
            logprobs = chunk["choices"][0]["logprobs"]
            tops += logprobs["top_logprobs"] if logprobs else []
        return tops[2]

    assert third_token()[" lantern"] > -1
    guard(llama, policy, vocabulary=vocabulary)
    guarded = third_token()
    assert " lantern" not in guarded
    assert len(guarded) == 3
    assert all(np.isfinite(value) for value in guarded.values())


def test_logprobs_of_a_refusal_tell_nothing(
    make_llama: Any, policy: CompiledPolicy, vocabulary: Vocabulary
) -> None:
    llama = guard(make_llama(n_ctx=64, n_batch=32, logits_all=True), policy, vocabulary=vocabulary)
    logprobs = llama(BLOCKED, max_tokens=30, logprobs=2)["choices"][0]["logprobs"]
    assert all(value == 0.0 for value in logprobs["token_logprobs"])
    assert all(np.isfinite(v) for top in logprobs["top_logprobs"] for v in top.values())
    with pytest.raises(ValueError, match="echo with logprobs"):
        llama("Hello", max_tokens=3, logprobs=2, echo=True)


def test_the_mask_is_written_in_place_and_allocates_nothing_big(
    llama: Llama, insist: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_bytes = llama.n_vocab() * 4
    peaks: list[int] = []
    mask = Gate.__call__

    def measured(gate: Gate, input_ids: Any, scores: Any) -> Any:
        assert scores.strides == (12,)  # a view into the engine's array of (id, logit, p)
        assert scores.flags.writeable
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        returned = mask(gate, input_ids, scores)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
        assert returned is scores
        return returned

    monkeypatch.setattr(Gate, "__call__", measured)
    for traced in (False, True):  # at first, to have the compiled functions loaded
        peaks.clear()
        if traced:
            tracemalloc.start()
        try:
            llama(EAGER, **GREEDY)
            llama(BLOCKED, max_tokens=20)
        finally:
            tracemalloc.stop()
    assert len(peaks) > 16
    # A request's first call makes two small states, of the output and of the prompt's end.
    assert max(peaks) < row_bytes / 4, max(peaks)
    assert sorted(peaks)[-3] < row_bytes / 16, peaks


def test_a_draft_of_tokens_shown_to_the_gate_is_not_taken_for_output(
    llama: Llama, pieces: dict[bytes, int]
) -> None:
    """The row follows the context, also when it shrinks or changes under it."""
    gate = Gate(llama._prism_guard())
    scores = np.zeros(llama.n_vocab(), np.float32)
    prompt = llama.tokenize(b"Hello")
    ze, phyr, lantern = (pieces[p] for p in (b" ze", b"phyr", b" lantern"))

    def masked(ids: list[int]) -> bool:
        scores[:] = 0
        gate(np.array(ids, np.int32), scores)
        return bool(np.isneginf(scores[lantern]))

    assert not masked(prompt)
    assert masked([*prompt, ze, phyr])
    assert not masked([*prompt, ze])
    assert not masked([*prompt, ze, lantern])
    assert masked([*prompt, lantern, ze, phyr])
    assert not masked(prompt)
    # Another context, all of it prompt: what a prompt leaves open is masked, what it says is not.
    assert masked([9, *prompt, ze, phyr])
    assert not masked([8, *prompt, ze, phyr, lantern])
