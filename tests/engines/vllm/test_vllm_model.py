"""The converted model: made once, found again, and with the token that its texts begin with."""

import subprocess
import sys

import pytest
from vllm_runs import HERE

pytestmark = pytest.mark.engine


def test_a_second_conversion_finds_the_first(vllm_model):
    script = HERE.parents[2] / "scripts" / "convert_gemma.py"
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout == f"{vllm_model}\n"
    assert run.stderr == ""


def test_texts_begin_with_one_bos(vllm_model):
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(f"{vllm_model}/tokenizer.json").encode("a zephyr lantern").ids
    assert ids[0] == 2
    assert 2 not in ids[1:]
