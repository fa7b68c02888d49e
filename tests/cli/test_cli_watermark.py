"""``prism watermark detect``."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from prism.steer.watermark import Sampling, Watermark, WatermarkKey

KEY = WatermarkKey(1234567)
WORDS = [f"w{i}" for i in range(500)]


@pytest.fixture
def marked(monkeypatch, tmp_path) -> list[int]:
    """Ids of a marked text; its tokenizer lies in ``words.json``, its key in the environment."""
    monkeypatch.setenv("PRISM_WATERMARK_KEY", str(KEY.value))
    monkeypatch.chdir(tmp_path)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save("words.json")
    watermark = Watermark(KEY, Sampling(1.0, 0, 1.0, 0.0))
    rng = np.random.default_rng(1)
    output: list[int] = []
    for _ in range(80):
        chosen = watermark.pick(rng.normal(0, 1, len(WORDS)).astype(np.float32), output)
        assert chosen is not None
        output.append(chosen)
    return output


def test_a_text_is_read_with_its_tokenizer(prism, marked):
    text = " ".join(WORDS[i] for i in marked)
    result = prism("watermark", "detect", "--tokenizer", "words.json", text)
    assert result.code == 0
    assert result.out.startswith("watermark detected: p = ")
    assert "over 80 scored tokens" in result.out
    assert "“Not detected” does not mean that a person wrote it" in result.out


def test_ids(prism, marked):
    result = prism("watermark", "detect", "--ids", "--json", str(marked))
    assert result.code == 0
    assert result.json["detected"] is True
    assert result.json["p_value"] < 1e-6
    assert result.json["tokens_scored"] == 80
    assert len(result.json["caveats"]) == 4


def test_another_key_finds_nothing(prism, marked, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", "99")
    result = prism("watermark", "detect", "--key-env", "OTHER_KEY", "--ids", str(marked))
    assert result.code == 0
    assert result.out.startswith("watermark not detected: p = 0.")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["some text"], "say how to read the text: --tokenizer FILE, or --ids"),
        (["--tokenizer", "none.json", "some text"], "no such file: none.json"),
        (["--tokenizer", "broken.json", "some text"], "broken.json is no tokenizer.json"),
        (["--ids", "[1, -2]"], "not a list of token ids"),
        (["--ids", "[true]"], "not a list of token ids"),
        (["--ids", "1, 2"], "not JSON"),
        (["--key-env", "NONE_SUCH", "--ids", "[1]"], "the environment has no NONE_SUCH"),
    ],
)
@pytest.mark.usefixtures("marked")
def test_bad_input(prism, tmp_path, arguments, problem):
    (tmp_path / "broken.json").write_text("{}", encoding="utf-8")
    result = prism("watermark", "detect", *arguments)
    assert result.code == 2
    assert problem in result.err
