"""A GGUF file's tokenizer, without the model: for tools that read texts and run nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llama_cpp import Llama

from llamacpp_prism.vocabulary import vocabulary_of
from prism.steer.vocabulary import Vocabulary


def tokenise(path: Path, text: str) -> list[int]:
    """Return the token ids of ``text``, without control tokens. Raises ``ValueError``.

    Only the vocabulary of the file at ``path`` is read.
    """
    return _encoded(_read(path), text)


def vocabulary_in(path: Path) -> Vocabulary:
    """Return the vocabulary of the file at ``path``. Raises ``ValueError``."""
    model = _read(path)
    vocabulary = vocabulary_of(model)
    # A model without weights may live as long as its vocabulary.
    vocabulary.encode = lambda text: _encoded(model, text)
    return vocabulary


def _read(path: Path) -> Any:
    try:
        return Llama(str(path), vocab_only=True, verbose=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def _encoded(model: Any, text: str) -> list[int]:
    return list(model.tokenize(text.encode(), add_bos=False, special=False))
