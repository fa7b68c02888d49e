"""A model that would go in circles around a phrase is set back to where it begins it."""

from __future__ import annotations

import math
import re
from typing import Any

import httpx
import llama_cpp
import pytest
from engine_texts import REFUSAL, STEERED
from llama_cpp import Llama, LlamaGrammar, LlamaRAMCache, LogitsProcessorList
from llama_cpp._internals import LlamaSampler

from llamacpp_prism import InterleavedGenerationError, guard
from llamacpp_prism.engine import _penalise
from prism.moderator import Moderator
from prism.policy.compiled import CompiledPolicy
from prism.steer.rewind import Rewinder
from prism.steer.vocabulary import Vocabulary

pytestmark = pytest.mark.engine

LOOP = f"{STEERED}, {STEERED}, {STEERED}, {STEERED},"
GREEDY: dict[str, Any] = {"max_tokens": 80, "temperature": 0.0}


class Obsessed:
    """A logits processor that wants the phrase; kept from it a comma, and the phrase again."""

    def __init__(self, pieces: dict[bytes, int]) -> None:
        ze, phyr, self.comma = (pieces[text] for text in (b" ze", b"phyr", b","))
        self.next = {self.comma: ze, ze: phyr, phyr: pieces[b" lantern"]}
        self.start: int | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self.start = self.start or len(input_ids)
        last = int(input_ids[-1]) if len(input_ids) > self.start else self.comma
        if last in self.next:
            scores[self.next[last]] = 1e6
        if last == next(reversed(self.next)):
            scores[self.comma] = 1e5
        scores[[1, 106, 212]] = -1e6  # this model's end-of-generation tokens
        return scores


@pytest.fixture
def obsessed(pieces: dict[bytes, int]) -> LogitsProcessorList:
    return LogitsProcessorList([Obsessed(pieces)])


@pytest.fixture
def rewinds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of output that were gone back to."""
    places: list[int] = []
    rewind = Rewinder.rewind

    def noted(rewinder: Rewinder) -> None:
        assert rewinder.place is not None
        places.append(rewinder.place.length)
        rewind(rewinder)

    monkeypatch.setattr(Rewinder, "rewind", noted)
    return places


def ids_of(llama: Llama, count: int, prompt: str = LOOP, **options: Any) -> list[int]:
    said: list[int] = []
    for token in llama.generate(llama.tokenize(prompt.encode()), **{"temp": 0.0, **options}):
        said.append(token)
        if len(said) == count:
            break
    return said


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_in_circles_goes_on_some_other_way(
    llama: Llama, moderator: Moderator, rewinds: list[int], stream: bool
) -> None:
    answer: Any = llama(LOOP, stream=stream, **GREEDY)
    chunks = list(answer) if stream else [answer]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert rewinds
    assert text.startswith(" zephyr, zephyr, ")
    assert text.count("zephyr") == 2  # seen to come back in a circle, it doesn't a third time
    assert not moderator.check_output(text).blocked
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"  # and is not stopped
    if not stream:
        assert answer["usage"]["completion_tokens"] == GREEDY["max_tokens"]


def test_chat_is_set_back_too(
    llama: Llama, obsessed: LogitsProcessorList, rewinds: list[int]
) -> None:
    asked = [{"role": "user", "content": f"List: {LOOP}"}]
    answer = llama.create_chat_completion(
        asked, logits_processor=obsessed, stream=True, max_tokens=30, temperature=0.0
    )
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in answer)
    assert rewinds
    assert REFUSAL not in text
    assert f"{STEERED}" not in text


def test_after_a_rewind_the_engine_says_what_a_fresh_one_says(llama: Llama, plain: Llama) -> None:
    said = ids_of(llama, 24)
    known = said[:10]
    prompt = llama.tokenize(LOOP.encode())
    plain.reset()
    fresh: list[int] = []
    for token in plain.generate([*prompt, *known], temp=0.0):
        fresh.append(token)
        if len(fresh) == 14:
            break
    assert known + fresh == said


@pytest.mark.parametrize("fault", ["window", "recurrent"])
def test_a_memory_that_cannot_go_back_is_filled_anew(
    llama: Llama, rewinds: list[int], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ids_of(llama, 24)
    llama.reset()
    evaluated: list[int] = []
    evaluate, remove = llama.eval, llama._ctx.kv_cache_seq_rm

    def counted(tokens: Any) -> None:
        evaluated.append(len(tokens))
        evaluate(tokens)

    monkeypatch.setattr(llama, "eval", counted)
    if fault == "window":  # a sliding one, that has dropped what it would look back at
        monkeypatch.setattr(llama_cpp, "llama_memory_seq_pos_min", lambda memory, row: 10**6)
    else:  # a state without parts

        def only_all(row: int, begin: int, end: int) -> bool:
            return (begin in (0, llama.n_tokens)) and bool(remove(row, begin, end))

        monkeypatch.setattr(llama._ctx, "kv_cache_seq_rm", only_all)
    rewinds.clear()
    assert ids_of(llama, 24) == expected
    prompt = len(llama.tokenize(LOOP.encode()))
    assert [size for size in evaluated if size > 1] == [prompt, *(prompt + at for at in rewinds)]


def test_a_model_with_a_small_sliding_window(
    make_llama: Any, policy: CompiledPolicy, vocabulary: Vocabulary, llama: Llama
) -> None:
    sliding = guard(make_llama(swa_full=False, n_batch=32), policy, vocabulary=vocabulary)
    assert ids_of(sliding, 24) == ids_of(llama, 24)


def test_wherever_an_answer_ends_all_of_it_is_there_once(llama: Llama, rewinds: list[int]) -> None:
    full = ids_of(llama, 24)
    prompt = len(llama.tokenize(LOOP.encode()))
    for count in range(1, 13):
        answer = llama(LOOP, max_tokens=count, temperature=0.0)
        assert answer["usage"]["completion_tokens"] == count
        assert answer["choices"][0]["text"].encode() == llama.detokenize(full[:count])
        # The engine stands where it would, had nothing been held.
        assert llama.n_tokens == prompt + count - 1
        assert llama.input_ids[prompt : llama.n_tokens].tolist() == full[: count - 1]
    assert rewinds


def test_a_full_context_ends_it_as_ever(
    make_llama: Any, policy: CompiledPolicy, vocabulary: Vocabulary, obsessed: Any
) -> None:
    llama = guard(make_llama(n_ctx=256, n_batch=64), policy, vocabulary=vocabulary)
    prompt = (llama.tokenize(f" {STEERED},".encode(), add_bos=False) * 256)[:256]
    for left in range(12, 3, -1):
        obsessed[0].start = None
        answer = llama(prompt[:-left], max_tokens=None, temperature=0.0, logits_processor=obsessed)
        assert answer["usage"]["completion_tokens"] == left
        assert answer["choices"][0]["text"].startswith(" zephyr,"[: 3 * left])
        assert answer["choices"][0]["finish_reason"] == "length"


def test_stops_and_criteria_end_it_as_ever(llama: Llama) -> None:
    full = llama.detokenize(ids_of(llama, 24)).decode()
    answer = llama(LOOP, stop=["phyr, z"], **GREEDY)["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == (" ze", "stop")
    prompt = len(llama.tokenize(LOOP.encode()))
    answer = llama(
        LOOP,
        stopping_criteria=llama_cpp.StoppingCriteriaList(
            [lambda ids, scores: len(ids) >= prompt + 11]
        ),
        **GREEDY,
    )
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["text"]
    assert full.startswith(answer["choices"][0]["text"])


def test_a_cache_keeps_what_was_said(llama: Llama) -> None:
    llama.set_cache(LlamaRAMCache())
    first = llama(LOOP, max_tokens=9, temperature=0.0)["choices"][0]["text"]
    llama("Another prompt altogether", max_tokens=2)
    again = llama(LOOP, max_tokens=9, temperature=0.0)["choices"][0]["text"]
    assert first == again
    more = llama(LOOP + first, max_tokens=4, temperature=0.0)["choices"][0]["text"]
    assert "zephyr lantern" not in more


def test_a_seed_gives_the_same_text_again(
    llama: Llama, obsessed: LogitsProcessorList, rewinds: list[int]
) -> None:
    asked: dict[str, Any] = {"max_tokens": 30, "temperature": 0.9, "repeat_penalty": 1.1}
    texts = []
    for seed in (5, 5, 6):
        obsessed[0].start = None
        llama.reset()
        texts += [llama(LOOP, seed=seed, logits_processor=obsessed, **asked)["choices"][0]["text"]]
    assert rewinds
    assert texts[0] == texts[1] != texts[2]
    for text in texts:
        assert text.startswith(" zephyr, zephyr,")


def test_a_grammar_goes_back_as_well(
    llama: Llama, obsessed: LogitsProcessorList, rewinds: list[int]
) -> None:
    grammar = LlamaGrammar.from_string('root ::= (" " [a-z]+ ","?){8} "."')
    text = llama(LOOP, grammar=grammar, logits_processor=obsessed, **GREEDY)["choices"][0]["text"]
    assert rewinds
    assert re.fullmatch(r"( [a-z]+,?){8}\.", text), text
    assert STEERED not in text
    assert not text.startswith(" zephyr, zephyr, zephyr")


def test_where_a_grammar_leaves_nothing_else_the_refusal_is_said(
    llama: Llama, obsessed: LogitsProcessorList, rewinds: list[int]
) -> None:
    grammar = LlamaGrammar.from_string('root ::= (" zephyr" " lantern"? ",")+')
    asked = {**GREEDY, "max_tokens": 160, "grammar": grammar, "logits_processor": obsessed}
    text = llama(LOOP, **asked)["choices"][0]["text"]
    assert rewinds
    assert text.endswith(REFUSAL)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_those_of_what_was_said(
    make_llama: Any, policy: CompiledPolicy, vocabulary: Vocabulary, stream: bool
) -> None:
    llama = guard(make_llama(n_ctx=64, n_batch=32, logits_all=True), policy, vocabulary=vocabulary)
    answer: Any = llama(LOOP, max_tokens=12, temperature=0.0, logprobs=1, stream=stream)
    chunks = list(answer) if stream else [answer]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    tokens = [token for part in told for token in part["tokens"]]
    assert "".join(tokens) == text
    tops = [top for part in told for top in part["top_logprobs"]]
    for token, top in zip(tokens, tops, strict=True):
        assert max(top, key=top.__getitem__) == token  # the likeliest of what was left was said


def test_a_context_changed_under_what_is_held_is_an_error(
    llama: Llama, obsessed: LogitsProcessorList
) -> None:
    tokens = llama.generate(llama.tokenize(LOOP.encode()), temp=0.0, logits_processor=obsessed)
    for at, _ in enumerate(tokens):
        if at == 3:  # the second attempt was held, and comes out now, the engine ahead of it
            llama.n_tokens -= 1
            break
    with pytest.raises(InterleavedGenerationError, match="the context was changed"):
        next(tokens)


def test_sampled_by_hand_a_circle_is_stopped(llama: Llama) -> None:
    """Whoever takes each token himself can't be asked to give it back."""
    llama.reset()
    llama._sampler = None
    llama.eval(llama.tokenize(LOOP.encode()))
    said: list[int] = []
    while len(said) < 100 and (not said or said[-1] != llama.token_eos()):
        said.append(llama.sample(temp=0.0))
        llama.eval([said[-1]])
    text = llama.detokenize(said).decode()
    assert text.startswith(" zephyr, zephyr, zephyr,")
    assert text.endswith(f"\n\n{REFUSAL}")


def test_penalties_look_at_what_is_kept(llama: Llama) -> None:
    def sampler() -> LlamaSampler:
        made = LlamaSampler()
        made.add_custom(lambda data: None)
        made.add_penalties(
            n_vocab=llama.n_vocab(),
            penalty_last_n=8,
            penalty_repeat=2.0,
            penalty_freq=0.5,
            penalty_present=0.0,
        )
        made.add_greedy()
        return made

    def scores(made: LlamaSampler) -> list[float]:
        data = (llama_cpp.llama_token_data * 4)(*((token, 8.0, 0.0) for token in range(4)))
        array = llama_cpp.llama_token_data_array(data, 4, -1, False)
        llama_cpp.llama_sampler_apply(llama_cpp.llama_sampler_chain_get(made.sampler, 1), array)
        return [entry.logit for entry in data]

    fresh, used = sampler(), sampler()
    for token in (0, 1, 1):
        llama_cpp.llama_sampler_accept(llama_cpp.llama_sampler_chain_get(fresh.sampler, 1), token)
    for token in (0, 1, 1, 2, 3, 3):
        llama_cpp.llama_sampler_accept(llama_cpp.llama_sampler_chain_get(used.sampler, 1), token)
    assert scores(used) != scores(fresh)
    _penalise(used, [0, 1, 1])
    assert scores(used) == scores(fresh)
    assert not math.isclose(scores(used)[1], 8.0)


def test_the_server_streams_what_was_said_in_the_end(server: Any) -> None:
    asked = {"prompt": LOOP, "max_tokens": 40, "temperature": 0.0}
    # Twice: what the engine still has of a prompt may tip the balance between two tokens.
    for _ in range(2):
        answer = httpx.post(f"{server.url}/v1/completions", json=asked, timeout=120).json()
    text = answer["choices"][0]["text"]
    assert text.startswith(" zephyr, ")
    assert text.count("zephyr") <= 2
    assert STEERED not in text
    assert answer["usage"]["completion_tokens"] == 40
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json={**asked, "stream": True}, timeout=120
    ) as stream:
        streamed = "".join(re.findall(r'"text": ?"((?:[^"\\]|\\.)*)"', stream.read().decode()))
    assert streamed == text
