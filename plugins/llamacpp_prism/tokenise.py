"""A GGUF file's tokenizer, without the model: for tools that read texts and run nothing."""

from __future__ import annotations

from pathlib import Path

from llama_cpp import Llama


def tokenise(path: Path, text: str) -> list[int]:
    """Return the token ids of ``text``, without control tokens. Raises ``ValueError``.

    Only the vocabulary of the file at ``path`` is read.
    """
    try:
        model = Llama(str(path), vocab_only=True, verbose=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    return list(model.tokenize(text.encode(), add_bos=False, special=False))
