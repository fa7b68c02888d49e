"""A tokenizer's vocabulary as bytes, and as the keys by which phrases find the tokens they end
in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prism.match.kernel import GAPS, PLAIN, SIGNS
from prism.steer import kernel
from prism.text.normalise import fold_block

MOST_SYMBOLS_PER_BYTE = 8
"""NFKD turns three bytes (U+FDFA) into 18 characters at most."""
Encode = Callable[[str], list[int]]


class VocabularyError(ValueError):
    """The tokenizer's tokens can't be turned into bytes."""


class Vocabulary:
    """What each token id adds to the text.

    ``tokens[i]`` is the bytes of token ``i``; ``None`` marks control tokens, which add no text.
    ``encode`` turns a text into ids without adding control tokens.
    """

    def __init__(
        self, tokens: Sequence[bytes | None], eos_ids: Iterable[int], encode: Encode
    ) -> None:
        self.size = len(tokens)
        self.eos_ids = frozenset(eos_ids)
        self.encode = encode
        if not self.eos_ids:
            raise VocabularyError("the tokenizer names no end-of-text token: a refusal can't end")
        lengths = [len(token or b"") for token in tokens]
        self.offsets: NDArray[np.int64] = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum(np.array(lengths, np.int64))]
        )
        self.data: NDArray[np.uint8] = np.frombuffer(
            b"".join(token or b"" for token in tokens), np.uint8
        )
        self.control = np.array([token is None for token in tokens], np.bool_)
        digest = hashlib.sha256(self.data.tobytes())
        digest.update(self.offsets.tobytes())
        digest.update(self.control.tobytes())
        digest.update(repr(sorted(self.eos_ids)).encode())
        self.digest = digest.hexdigest()

    @cached_property
    def keys(self) -> tuple[Keys, Keys, Keys]:
        """Its tokens as the views PLAIN, GAPS and SIGNS read them."""
        return Keys(self, PLAIN), Keys(self, GAPS), Keys(self, SIGNS)

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """Return the text of ``ids`` as bytes."""
        return b"".join(self.data[self.offsets[i] : self.offsets[i + 1]].tobytes() for i in ids)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> Vocabulary:
        """Read a fast tokenizer of ``transformers`` (or an object with the same attributes).

        Byte-level BPE and SentencePiece with byte fallback are understood; anything else raises
        ``VocabularyError``.
        """
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        size = max(len(tokenizer), max(backend.get_vocab(True).values()) + 1)
        special = set(getattr(tokenizer, "all_special_ids", []))
        special |= {
            index
            for index, token in backend.get_added_tokens_decoder().items()
            if getattr(token, "special", False)
        }
        byte_level = _is_byte_level(json.loads(backend.to_str()).get("decoder"))
        tokens: list[bytes | None] = [None] * size
        for text, index in backend.get_vocab(True).items():
            if index not in special:
                tokens[index] = _token_bytes(text, byte_level=byte_level)
        eos = getattr(tokenizer, "eos_token_id", None)
        ids = [eos] if isinstance(eos, int) else list(eos or [])

        def encode(text: str) -> list[int]:
            return list(backend.encode(text, add_special_tokens=False).ids)

        return cls(tokens, ids, encode)


_GPT2_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]


def _byte_level_table() -> dict[str, int]:
    """Return the character-to-byte table of byte-level BPE (openai/gpt-2 src/encoder.py)."""
    table = {chr(byte): byte for byte in _GPT2_PRINTABLE}
    others = [byte for byte in range(256) if byte not in set(_GPT2_PRINTABLE)]
    table.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return table


_BYTE_LEVEL = _byte_level_table()


def _is_byte_level(decoder: Any) -> bool:
    if not isinstance(decoder, dict):
        raise VocabularyError("the tokenizer has no decoder that says what its tokens spell")
    kinds = {decoder.get("type"), *(d.get("type") for d in decoder.get("decoders", []))}
    if "ByteLevel" in kinds:
        return True
    if kinds & {"Metaspace", "ByteFallback", "Replace"}:
        return False
    raise VocabularyError(f"tokenizer decoder {decoder.get('type')!r} isn't supported")


def _token_bytes(text: str, *, byte_level: bool) -> bytes:
    if byte_level:
        if all(char in _BYTE_LEVEL for char in text):
            return bytes(_BYTE_LEVEL[char] for char in text)
        return text.encode()
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        return bytes((int(text[3:5], 16),))
    return text.replace("\u2581", " ").encode("utf-8", "replace")


class Keys:
    """The vocabulary in one view, sorted: symbols of token ``i`` are ``symbols[offsets[i]:…]``.

    Bytes that are not characters alone are read as separators; where they may complete a character,
    ``TokenGuard`` tries the token out instead. ``order`` int32 ``[n]`` holds the ids of the tokens
    that have a key, ascending by key.
    """

    def __init__(self, vocabulary: Vocabulary, view: int) -> None:
        room = np.zeros(len(vocabulary.data) * MOST_SYMBOLS_PER_BYTE + 1, np.int32)
        self.offsets = np.zeros(vocabulary.size + 1, np.int64)
        size = kernel.token_keys(
            fold_block(), vocabulary.data, vocabulary.offsets, view, room, self.offsets
        )
        self.symbols = room[:size].copy()
        # Python orders strings by code point, as the kernels compare.
        text = self.symbols.tobytes().decode("utf-32-le", "surrogatepass")
        bounds = self.offsets.tolist()
        keys = [text[a:b] for a, b in pairwise(bounds)]
        ranked = sorted((i for i, key in enumerate(keys) if key), key=keys.__getitem__)
        self.order = np.array(ranked, np.int32)
