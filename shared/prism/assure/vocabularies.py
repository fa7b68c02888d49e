"""A model's vocabulary read from a file, without the model."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from prism.steer.vocabulary import Vocabulary, VocabularyError

_ENDS = ("<eos>", "</s>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>")
"""Ends of text, where no ``tokenizer_config.json`` beside the file names one."""


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a ``tokenizer.json`` or a GGUF file.

    Raises ``VocabularyError``; a GGUF file needs llama-cpp-python.
    """
    if not path.is_file():
        raise VocabularyError(f"no such file: {path}")
    if path.suffix == ".gguf":
        # By name: the policy engine imports no inference engine (docs/adr/0011-guard-backends.md).
        try:
            plugin = import_module("llamacpp_prism.tokenise")
        except ImportError:
            raise VocabularyError(
                "a GGUF file needs llama-cpp-python: `pip install .[llamacpp]`"
            ) from None
        try:
            found: Vocabulary = plugin.vocabulary_in(path)
        except ValueError as error:
            raise VocabularyError(str(error)) from error
        return found
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise VocabularyError(f"{path} is no tokenizer.json: {error}") from None
    return Vocabulary.from_tokenizer(_Named(backend, path))


class _Named:
    """The attributes of a transformers tokenizer that a vocabulary is read from."""

    def __init__(self, backend: Tokenizer, path: Path) -> None:
        self.backend_tokenizer = backend
        ends = [_configured(path.with_name("tokenizer_config.json")), *_ENDS]
        ids = [backend.token_to_id(end) for end in ends if end]
        self.eos_token_id: int | None = next((i for i in ids if i is not None), None)
        self.all_special_ids = [] if self.eos_token_id is None else [self.eos_token_id]

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size())


def _configured(path: Path) -> str | None:
    """Return the end of text that the tokenizer's configuration names."""
    try:
        named: Any = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError, AttributeError):
        return None
    if isinstance(named, dict):
        named = named.get("content")
    return named if isinstance(named, str) else None
