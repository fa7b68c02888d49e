"""The front end's hooks: where a stop string may cut, which prompts and penalties are taken."""

from types import SimpleNamespace

import pytest
from vllm_texts import STEERED, UNSAYABLE, says

from prism.steer import stamp

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture
def check(vllm_policy, monkeypatch):
    from vllm.v1.engine.detokenizer import check_stop_strings

    from vllm_prism import fronts

    monkeypatch.setenv("PRISM_POLICY", str(vllm_policy))
    fronts._phrases.cache_clear()
    yield fronts.cut_before_phrases(check_stop_strings)
    fronts._phrases.cache_clear()


@pytest.mark.parametrize(
    ("text", "stop", "included", "left"),
    [
        (f"the {STEERED}s", "s", False, "the "),
        (f"the {STEERED}s", "rn", True, "the "),
        (f"the {STEERED}s, the {UNSAYABLE}s", "s, the ", False, "the "),
        ("the lanterns", "s", False, "the lantern"),
        ("the lanterns", "ns", True, "the lanterns"),
        ("the lanterns", "x", False, None),
    ],
)
def test_a_stop_string_leaves_no_phrase(check, text, stop, included, left):
    found = check(text, len(text), [stop], included)
    if left is None:
        assert found is None
    else:
        assert found[0] == stop
        assert (text if found[1] == -1 else text[: found[1]]) == left


@pytest.fixture(scope="module")
def gemma(vllm_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(vllm_model)


@pytest.fixture
def detokenizer(gemma, vllm_policy, monkeypatch):
    """Make vLLM's own detokenizer of a request, with the hooks or without."""
    from vllm import SamplingParams
    from vllm.v1.engine import detokenizer as engine

    from vllm_prism import fronts

    monkeypatch.setenv("PRISM_POLICY", str(vllm_policy))
    fronts._phrases.cache_clear()
    base, fast = engine.BaseIncrementalDetokenizer, engine.FastIncrementalDetokenizer

    def make(prompt="Hello", hooked=True, **options):
        ids = gemma.encode(prompt) if isinstance(prompt, str) else prompt
        params = SamplingParams(**options)
        request = SimpleNamespace(request_id="1", prompt_token_ids=ids, sampling_params=params)
        with pytest.MonkeyPatch.context() as patch:
            get, init = base.get_next_output_text, fast.__init__
            if hooked:
                patch.setattr(fast, "__init__", fronts.begin_behind_prompt(init))
                get = fronts.hold_phrases(get)
            made = fast(gemma, request)
            made.get_next_output_text = lambda finished, delta: get(made, finished, delta)
        return made

    yield make
    fronts._phrases.cache_clear()


@pytest.fixture
def stamped(monkeypatch):
    """Extra arguments of a request that came by the text layer, and of one that says it did."""
    monkeypatch.setenv(stamp.KEY_ENV, "a key")
    signed = stamp.sign(stamp.Stamp("0" * 64))
    return {"stamped": {stamp.FIELD: signed}, "forged": {stamp.FIELD: signed + "0"}, "bare": None}


def handed_out(detokenizer, gemma, text, delta):
    """Feed ``text`` token by token; return what a client has seen after each."""
    seen, out = [], ""
    ids = gemma.encode(text, add_special_tokens=False)
    for i, token in enumerate(ids):
        detokenizer.update([token], False)
        new = detokenizer.get_next_output_text(i == len(ids) - 1, delta)
        out = out + new if delta else new
        seen.append(out)
    return seen


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("hooked", [True, False])
def test_nothing_is_handed_out_that_ends_in_a_phrase(detokenizer, gemma, delta, hooked):
    """vLLM keeps back one letter less than the longest stop string has, here the "s" and what
    follows: without the hook the client reads the phrase, whether the stop string comes or not."""
    text = f"the {STEERED}s, of the sea"
    seen = handed_out(detokenizer(hooked=hooked, stop=["s: x"]), gemma, text, delta)
    assert seen[-1] == text
    phrases = [part for part in seen[:-1] if part.endswith(STEERED)]
    cut = handed_out(detokenizer(hooked=hooked, stop=["s,"]), gemma, f"the {STEERED}s!", delta)
    phrases += [part for part in cut[:-1] if part.endswith(STEERED)]
    three = handed_out(detokenizer(hooked=hooked, stop=["xyz"]), gemma, f"a {STEERED}s, s", delta)
    phrases += [part for part in three[:-1] if part.endswith(STEERED)]
    assert bool(phrases) != hooked


@pytest.mark.parametrize("how", ["stamped", "forged", "bare"])
def test_where_a_text_layer_reads_it_vllm_hands_it_out(detokenizer, gemma, stamped, how):
    made = detokenizer(stop=["s,"], extra_args=stamped[how])
    seen = handed_out(made, gemma, f"the {STEERED}s!", False)
    assert any(part.endswith(STEERED) for part in seen[:-1]) == (how == "stamped")


@pytest.mark.parametrize("hooked", [True, False])
@pytest.mark.parametrize("end", ["\ufffd", "<0xFF>", "<0xFF><0x41>", "<0xD0>"])
def test_a_prompt_is_never_printed(detokenizer, gemma, hooked, end):
    """vLLM takes the text of a prompt that ends in "�" for the output's."""
    known, prompt = gemma.get_vocab(), gemma.encode(f"The {STEERED} is")
    prompt += [known[end]] if end in known else [known[f"{part}>"] for part in end.split(">")[:-1]]
    made = detokenizer(prompt, hooked=hooked)
    for token in gemma.encode(" a light", add_special_tokens=False):
        made.update([token], False)
    text = made.get_next_output_text(True, False)
    assert (text == " a light") == hooked
    assert says(text, STEERED) != hooked


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("how", ["stamped", "forged", "bare"])
def test_the_names_of_control_tokens_are_judged_where_they_are_printed(
    detokenizer, gemma, tmp_path, monkeypatch, stamped, skip, how
):
    from vllm_prism import fronts

    path = tmp_path / "names.yaml"
    path.write_text(
        "prism: 1\nid: names\nextends: default\nrules:\n  - id: name\n    category: prv\n"
        "    stages: [output]\n    phrases: ['velvet mask']\n    action: steer\n"
    )
    monkeypatch.setenv("PRISM_POLICY", str(path))
    made = detokenizer(skip_special_tokens=skip, extra_args=stamped[how])
    update = fronts.judge_names(type(made).update)
    ids = gemma.encode("a velvet", add_special_tokens=False)
    ids += [gemma.get_vocab()["<mask>"], *gemma.encode(" of", add_special_tokens=False)]
    stops = [update(made, [token], False) for token in ids]
    if skip or how == "stamped":
        assert set(stops) == {None}
        assert made.output_text == ("a velvet of" if skip else "a velvet<mask> of")
    else:
        assert fronts.REASON in stops
        assert "mask" not in made.output_text


def test_other_prompts_are_as_they_were(detokenizer, gemma):
    for prompt in ("Hello", "жук", "a😀", "", [2]):
        made, plain = (detokenizer(prompt, hooked=hooked) for hooked in (True, False))
        for token in gemma.encode(" a light 😀", add_special_tokens=False):
            made.update([token], False)
            plain.update([token], False)
        assert made.output_text == plain.output_text == " a light 😀"


@pytest.mark.parametrize("known", [None, [True, True], [True, False]])
@pytest.mark.parametrize("ids", [None, [4, 5]])
def test_embeddings_among_token_ids_are_refused(known, ids):
    from vllm_prism.errors import UnmoderatableError
    from vllm_prism.fronts import refuse_mixed

    request = SimpleNamespace(prompt_token_ids=ids, prompt_is_token_ids=known)
    process = refuse_mixed(lambda: request)
    if ids and known == [True, False]:
        with pytest.raises(UnmoderatableError, match="prompt_embeds is refused"):
            process()
    else:
        assert process() is request


@pytest.mark.parametrize(
    ("asked", "taken"), [(1e-46, 1e-6), (1e39, 1e6), (0.5, 0.5), (1.0, 1.0), (2.0, 2.0)]
)
def test_a_penalty_that_single_precision_makes_0_or_infinite_is_bounded(
    asked, taken, vllm_policy, monkeypatch
):
    from vllm import SamplingParams

    from vllm_prism import checks, params, watermark

    monkeypatch.setenv("PRISM_POLICY", str(vllm_policy))
    monkeypatch.setattr(checks, "_installed", True)
    watermark._settings.cache_clear()
    wanted = SamplingParams(repetition_penalty=asked)
    params.prepare(wanted)
    params.prepare(wanted)
    watermark._settings.cache_clear()
    assert wanted.repetition_penalty == taken
