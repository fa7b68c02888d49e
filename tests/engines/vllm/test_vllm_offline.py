"""Offline ``LLM``: nobody stamps, so the strictest policy holds, on every trap of the engine."""

import pytest
from vllm_texts import BLOCKED, REFUSAL, STEERED, UNSAYABLE, says

pytestmark = pytest.mark.engine

DECOYS = ["FF 78", "FF D0 B6", "78 FF"]
REFUSED = [
    "blocked prompt",
    "blocked prompt as ids",
    "refusal, n",
    "refusal, ignore_eos",
    "refusal, min_tokens",
    "refusal, penalties",
    "refusal, no penalty at all",
    "refusal, endless penalty",
    "refusal, bad_words",
    "refusal, allowed_token_ids",
    "long and blocked",
    "forged stamp",
    "prompt embeds",
]


def texts(outputs):
    return [output["text"] for output in outputs]


def test_harmless_prompts_are_answered(offline):
    for name in ("harmless", "long and harmless"):
        (output,) = offline[name]
        assert output["tokens"] == 24
        assert REFUSAL not in output["text"]


@pytest.mark.parametrize("name", REFUSED)
def test_the_refusal_comes_out_whole_and_ends(offline, name):
    for output in offline[name]:
        assert output["text"].strip() == REFUSAL
        assert output["reason"] == "stop"


def test_a_stop_string_cuts_the_refusal_and_lets_nothing_else_out(offline):
    (output,) = offline["refusal, stop"]
    assert REFUSAL.startswith(output["text"])


@pytest.mark.parametrize(
    "name",
    [
        "steered",
        "steered, sampled",
        "steered, biased",
        "steered, nothing else allowed",
        "steered, no penalty at all",
        "cut within a word",
        "logprobs",
    ],
)
def test_a_steered_phrase_never_comes_out(offline, name):
    for output in offline[name]:
        assert not says(output["text"], STEERED)


@pytest.mark.parametrize(
    "name",
    [
        "wanted",
        "wanted, n",
        "wanted, unseen",
        "wanted, min_tokens",
        "wanted, ignore_eos",
        "wanted, bad_words",
        "wanted, control",
        "wanted, control shown",
        "cut and shown",
        "dropped bytes",
        "broken off",
        *(f"decoy {name}{how}" for name in DECOYS for how in ("", ", unseen")),
    ],
)
def test_a_model_that_wants_nothing_else_does_not_say_it(offline, name):
    """Neither in what the engine prints nor in what its ids spell."""
    assert offline[name]
    for output in offline[name]:
        assert not says(output["text"], STEERED)
        assert not says(output["decoded"], STEERED)
        assert output["tokens"] > 2


@pytest.mark.parametrize("decoy", DECOYS)
def test_bytes_that_are_no_characters_end_the_answer(offline, decoy):
    (output,) = offline[f"decoy {decoy}"]
    assert REFUSAL.split()[0] in output["text"]


def test_a_character_that_would_be_broken_off_is_said_whole(offline):
    (output,) = offline["broken off"]
    assert "\ufffd" not in output["decoded"]
    assert REFUSAL.split()[0] not in output["text"]


@pytest.mark.parametrize("end", ["FF", "FF 41", "D0", "none"])
def test_no_prompt_is_printed(offline, end):
    (output,) = offline[f"prompt ends in {end}"]
    assert not says(output["text"], STEERED)
    assert (output["text"].strip() == REFUSAL) == (end != "none")


def test_steering_goes_on_with_other_words(offline):
    (output,) = offline["steered"]
    assert output["tokens"] == 24
    assert REFUSAL not in output["text"]


def test_a_phrase_that_blocks_is_answered_by_the_refusal(offline):
    assert not says(offline["unsayable, biased"][0]["text"], UNSAYABLE)
    (output,) = offline["unsayable"]
    assert not says(output["text"], UNSAYABLE)
    assert output["text"].endswith(REFUSAL)
    assert output["reason"] == "stop"


def test_a_phrase_begun_in_the_prompt_is_not_ended(offline):
    first, second = STEERED.split()
    (output,) = offline["begun in the prompt"]
    assert not says(first + output["text"], STEERED)
    assert not output["text"].strip().startswith(second)


def test_embeddings_among_ids_are_refused(offline):
    assert offline["embeds among ids"]["error"] == "UnmoderatableError"
    assert "prompt_embeds is refused by PRISM" in offline["embeds among ids"]["message"]


def test_grammars_are_masked_but_never_made_to_refuse(offline):
    assert offline["structured"][0]["text"] in ("Paris", "London")
    assert offline["structured, a way around"][0]["text"] == "zephyr lamp"


@pytest.mark.parametrize("name", ["structured, no way around", "structured, blocked prompt"])
def test_a_grammar_without_a_way_out_is_an_error_without_the_phrase(offline, name):
    (output,) = offline[name]
    assert output["reason"] == "error"
    assert STEERED not in output["text"]
    assert BLOCKED not in output["text"]


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("prompt_logprobs", "prompt_logprobs"),
        ("trace", "trace_decode_token_ids"),
        ("thinking budget", "thinking_token_budget"),
    ],
)
def test_what_shows_or_forces_unmasked_tokens_is_refused(offline, name, parameter):
    assert offline[name]["error"] == "VLLMValidationError"
    assert f"{parameter} is refused by PRISM" in offline[name]["message"]


def test_logprobs_do_not_show_what_is_masked(offline):
    assert offline["logprobs of masked tokens"] == []


def test_beam_search_is_refused(offline):
    assert offline["beam search"]["error"] == "BeamSearchError"
    assert "PRISM refuses beam search" in offline["beam search"]["message"]


def test_a_forged_stamp_is_taken_off_and_other_arguments_stay(offline):
    assert offline["extra_args"] == {"mine": 1}


def test_preempted_requests_keep_their_verdicts(offline):
    assert offline["preemptions"] > 0
    outputs = texts(offline["preempted"])
    for refused, steered in zip(outputs[::2], outputs[1::2], strict=True):
        assert refused.strip() == REFUSAL
        assert not says(steered, STEERED)
