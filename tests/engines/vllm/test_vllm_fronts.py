"""The front end's hooks: where a stop string may cut, which prompts and penalties are taken."""

from types import SimpleNamespace

import pytest
from vllm_texts import STEERED, UNSAYABLE

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
