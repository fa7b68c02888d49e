"""What a loaded llama.cpp model prints for each of its tokens."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable
from typing import Any

import llama_cpp
from llama_cpp.llama_tokenizer import LlamaHFTokenizer, LlamaTokenizer

from llamacpp_prism.errors import UnsupportedModelError
from prism.steer.vocabulary import Vocabulary


def texts_of(model: Any, tokens: Iterable[int], *, special: bool = False) -> list[bytes]:
    """Return what each token prints.

    The engine's own ``detokenize`` prints nothing for a token of more than 32 bytes: the words of
    some scripts are lost, and text would run on across them unseen.
    """
    size = 256
    buffer = ctypes.create_string_buffer(size)
    texts: list[bytes] = []
    for token in map(int, tokens):
        length = llama_cpp.llama_token_to_piece(model.vocab, token, buffer, size, 0, special)
        if length < 0:
            size = -length
            buffer = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_token_to_piece(model.vocab, token, buffer, size, 0, special)
        texts.append(ctypes.string_at(buffer, length))
    return texts


def vocabulary_of(llama: Any) -> Vocabulary:
    """Return the vocabulary of ``llama``, byte for byte as it prints once it is guarded."""
    tokenizer = llama.tokenizer_
    if isinstance(tokenizer, LlamaHFTokenizer):
        return Vocabulary.from_tokenizer(tokenizer.hf_tokenizer)
    if not isinstance(tokenizer, LlamaTokenizer):
        raise UnsupportedModelError(
            f"can't read the vocabulary of a {type(tokenizer).__name__}: "
            "pass guard(..., vocabulary=prism.steer.Vocabulary(...))"
        )
    model = llama._model
    ids = range(llama.n_vocab())
    ends = [token for token in ids if llama_cpp.llama_vocab_is_eog(model.vocab, token)]
    if not ends:
        raise UnsupportedModelError(
            "the model has no end-of-generation token, so a refusal could not be ended"
        )
    # Control tokens print nothing: text runs on across them, and the mask has to know it.
    pieces = [text or None for text in texts_of(model, ids)]
    # Guards are cached for good, models are not: a guard must not keep 250 MB of weights alive.
    alive = weakref.ref(llama)

    def encode(text: str) -> list[int]:
        owner = alive()
        if owner is None:
            raise UnsupportedModelError("the model of this vocabulary was unloaded")
        tokens: list[int] = owner.tokenize(text.encode(), add_bos=False, special=False)
        return tokens

    return Vocabulary(pieces, ends, encode)
