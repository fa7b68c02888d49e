"""The converted model: made once, found again, and with the token that its texts begin with."""

import importlib.util
import subprocess
import sys

import pytest
from vllm_runs import HERE

from boot.install import UNWANTED

pytestmark = pytest.mark.engine


def test_a_second_conversion_finds_the_first(vllm_model):
    script = HERE.parents[2] / "scripts" / "convert_gemma.py"
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=True
    )
    assert run.stdout == f"{vllm_model}\n"
    assert run.stderr == ""


@pytest.mark.parametrize("name", UNWANTED)
def test_what_breaks_the_import_of_transformers_is_gone(name):
    """vLLM asks for them, and what pip finds does not fit the CPU build of torch."""
    assert importlib.util.find_spec(name) is None


def test_texts_begin_with_one_bos(vllm_model):
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(f"{vllm_model}/tokenizer.json").encode("a zephyr lantern").ids
    assert ids[0] == 2
    assert 2 not in ids[1:]
