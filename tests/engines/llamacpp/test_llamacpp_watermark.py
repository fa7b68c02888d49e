"""The watermark in llama.cpp: carried by real text, found in it, and never in the mask's way."""

from __future__ import annotations

import ast
import json
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_texts import STEERED
from llama_cpp import Llama, LogitsProcessorList
from typer.testing import CliRunner

from llamacpp_prism import UnsupportedModelError, guard
from llamacpp_prism.engine import install
from prism.cli.app import app
from prism.moderator import Moderator
from prism.policy.compiled import CompiledPolicy
from prism.steer.guard import TokenGuard
from prism.steer.vocabulary import Vocabulary
from prism.steer.watermark import WatermarkKey, WatermarkKeyError, detect

pytestmark = pytest.mark.engine

KEY = WatermarkKey(0x5EED_0F_A_7E57)
STORY = "The lighthouse keeper's diary, first entry. Today"
SAMPLED: dict[str, Any] = {"temp": 0.9, "top_k": 50, "top_p": 0.97, "min_p": 0.0}


@pytest.fixture
def marked(llama: Llama, policy: CompiledPolicy, vocabulary: Vocabulary) -> Llama:
    demanding = replace(policy, watermark="required", digest="marked" + policy.digest)
    return guard(llama, demanding, vocabulary=vocabulary, watermark_key=KEY)


def generated(llama: Llama, prompt: str, count: int, **options: Any) -> list[int]:
    said: list[int] = []
    for token in llama.generate(llama.tokenize(prompt.encode()), **{**SAMPLED, **options}):
        said.append(token)
        if len(said) == count or token == llama.token_eos():
            break
    return said


def test_what_the_model_writes_is_detected(marked: Llama):
    said = generated(marked, STORY, 64)
    found = detect(KEY, said)
    assert found.p_value < 1e-6
    assert not detect(WatermarkKey(KEY.value + 1), said).detected


def test_the_text_alone_is_enough(marked: Llama):
    """Read again by the tokenizer, as ``prism watermark detect`` does."""
    text = marked.detokenize(generated(marked, STORY, 96))
    assert detect(KEY, marked.tokenize(text, add_bos=False)).p_value < 1e-4


def test_the_command_reads_a_gguf_files_tokenizer(
    marked: Llama, llama_gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    text = marked.detokenize(generated(marked, STORY, 64)).decode("utf-8", "replace")
    monkeypatch.setenv("PRISM_WATERMARK_KEY", str(KEY.value))
    detect_ = ["watermark", "detect", "--json", "--tokenizer"]
    found = CliRunner().invoke(app, [*detect_, str(llama_gguf), "-"], input=text)
    assert found.exit_code == 0
    assert json.loads(found.stdout)["detected"] is True
    (tmp_path / "broken.gguf").write_bytes(b"no model")
    broken = CliRunner().invoke(app, [*detect_, str(tmp_path / "broken.gguf"), "a text"])
    assert broken.exit_code == 2
    assert "broken.gguf can't be read" in broken.stdout


def test_vllms_own_detector_agrees(marked: Llama):
    from vllm.v1.watermarking import GumbelWatermarkDetector

    said = generated(marked, STORY, 48)
    theirs, ours = GumbelWatermarkDetector(KEY.value).detect(said), detect(KEY, said)
    assert ours.tokens == theirs.num_scored_tokens
    assert ours.score == pytest.approx(theirs.score, rel=1e-6)
    assert ours.p_value == pytest.approx(theirs.p_value, rel=1e-6)


def test_without_a_demand_there_is_no_watermark(llama: Llama):
    assert not detect(KEY, generated(llama, STORY, 64)).detected


def test_greedy_text_carries_none(marked: Llama):
    assert not detect(KEY, generated(marked, STORY, 48, temp=0.0)).detected


def test_penalties_and_a_grammar_still_hold(marked: Llama):
    answer = marked.create_completion(
        "A colour as JSON:", max_tokens=24, temperature=1.0, repeat_penalty=1.2,
        frequency_penalty=0.1, grammar=_json_string(),
    )  # fmt: skip
    text = answer["choices"][0]["text"]
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    assert text.startswith('"')
    assert set(text[1:].rstrip('"')) <= set("abcdefghijklmnopqrstuvwxyz ")


def test_steering_and_watermark_together_keep_the_guarantee(marked: Llama, moderator: Moderator):
    class Wants:
        """Makes the steered phrase as likely as can be, and leaves the rest of the choice."""

        def __init__(self) -> None:
            self.ids = marked.tokenize(f" {STEERED}".encode(), add_bos=False)

        def __call__(self, _ids: Any, scores: Any) -> Any:
            scores[self.ids] += np.float32(25.0)
            return scores

    prompt = f"Repeat after me: {STEERED} {STEERED} zephyr"
    for key in range(12):
        llama = marked
        llama._prism_key = WatermarkKey(key)
        said = []
        for token in llama.generate(
            llama.tokenize(prompt.encode()),
            logits_processor=LogitsProcessorList([Wants()]),
            **SAMPLED,
        ):
            said.append(token)
            if len(said) == 12 or token == llama.token_eos():
                break
        text = llama.detokenize(said).decode("utf-8", "replace")
        assert not moderator.check_output(text).blocked, key


def test_a_policy_that_demands_one_needs_a_key(
    llama: Llama, policy: CompiledPolicy, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("PRISM_WATERMARK_KEY", raising=False)
    demanding = replace(policy, watermark="required", digest="marked" + policy.digest)
    with pytest.raises(WatermarkKeyError, match="set PRISM_WATERMARK_KEY"):
        guard(llama, demanding, vocabulary=vocabulary)
    # A policy that a server loads later must not run without one either.
    token_guard = TokenGuard.compile(demanding, vocabulary)
    install(llama, lambda: token_guard)
    with pytest.raises(UnsupportedModelError, match="no key"):
        llama("A word:", max_tokens=1)


def test_people_are_rarely_taken_for_the_model(plain: Llama):
    """The false-positive rate on 1,000 and more texts by people: Python's own documentation."""
    p = np.array([detect(KEY, ids).p_value for ids in _human_texts(plain)])
    assert len(p) >= 1000
    # 1 in 100 by chance; three standard errors above it.
    assert np.mean(p <= 0.01) < 0.01 + 3 * np.sqrt(0.01 * 0.99 / len(p))
    assert np.mean(p <= 0.001) < 0.001 + 3 * np.sqrt(0.001 / len(p))


def _human_texts(llama: Llama) -> list[list[int]]:
    """Docstrings of the standard library of 50 tokens and more, each once."""
    texts: set[str] = set()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                texts.add(ast.get_docstring(node) or "")
    tokenised = (llama.tokenize(t.encode(), add_bos=False) for t in sorted(texts) if len(t) > 150)
    return [ids[:200] for ids in tokenised if len(ids) >= 50]


def _json_string() -> Any:
    from llama_cpp import LlamaGrammar

    return LlamaGrammar.from_string('root ::= "\\"" [a-z ]+ "\\""', verbose=False)
