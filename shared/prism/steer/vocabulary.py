"""A tokenizer's vocabulary as bytes, and as the keys by which phrases find the tokens they end
in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prism.match import disk
from prism.match.kernel import GAPS, PLAIN, SIGNS
from prism.steer import keys, utf8
from prism.steer.completions import tokens_block
from prism.steer.lookup import Lookup
from prism.steer.lookup import build as build_lookup
from prism.text.normalise import fold_block, fold_digest

MOST_SYMBOLS_PER_BYTE = 8
"""NFKD turns three bytes (U+FDFA) into 18 characters at most."""
WORTH_KEEPING = 5_000
"""From so many tokens on, reading lookups from a file is quicker than building them."""
_MADE_BY = (
    "prism.match.automaton", "prism.match.kernel", "prism.match.spelling", "prism.steer.kernel",
    "prism.steer.keys", "prism.steer.lookup", "prism.steer.utf8", "prism.steer.vocabulary",
)  # fmt: skip
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
    def lookups(self) -> tuple[tuple[Lookup, Lookup | None], ...]:
        """Its tokens as the views PLAIN, GAPS and SIGNS read them: whole, and cut at words' ends.

        The plain view needs no cut keys: there a separator is a symbol like any other.
        """
        key = hashlib.sha256(
            f"{disk.code_digest(*_MADE_BY)} {fold_digest()} {self.digest}".encode()
        ).hexdigest()
        found = disk.load("vocabulary", key) if self.size >= WORTH_KEEPING else None
        if found is not None:
            return tuple(
                (_kept(found, view, "whole"), _kept(found, view, "cut") if view != PLAIN else None)
                for view in (PLAIN, GAPS, SIGNS)
            )
        made = tuple(_lookups(self, view) for view in (PLAIN, GAPS, SIGNS))
        if self.size >= WORTH_KEEPING:
            arrays = {
                f"{view}.{name}.{part}": array
                for view, both in enumerate(made)
                for name, lookup in zip(("whole", "cut"), both, strict=True)
                if lookup is not None
                for part, array in lookup._asdict().items()
            }
            disk.save("vocabulary", key, {}, arrays)
        return made

    @cached_property
    def words(self) -> tuple[NDArray[np.int32], ...]:
        """What the codes of completions stand for, per view (``completions.tokens_block``)."""
        return tuple(tokens_block(whole, cut) for whole, cut in self.lookups)

    @cached_property
    def follows(self) -> NDArray[np.uint8]:
        """Where in UTF-8 the text stands behind each token, from each state, ``[8, vocabulary]``
        (``prism.steer.utf8``)."""
        return utf8.follows(self.data, self.offsets)

    @cached_property
    def continuing(self) -> NDArray[np.int64]:
        """Tokens with bytes that may go on within a character, ascending."""
        some = (self.follows[1:] != utf8.BROKEN).any(0) & (np.diff(self.offsets) > 0)
        return np.flatnonzero(some & ~self.control).astype(np.int64)

    @cached_property
    def mixed(self) -> NDArray[np.int64]:
        """Tokens that have characters but may only go on within one, if at all, ascending."""
        mixed = np.zeros(self.size, np.bool_)
        keys.mixed_tokens(self.data, self.offsets, mixed)
        return np.flatnonzero(mixed & ~self.control).astype(np.int64)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """The ends of text, ascending."""
        return np.array(sorted(end for end in self.eos_ids if 0 <= end < self.size), np.int64)

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


def _kept(found: disk.Stored, view: int, name: str) -> Lookup:
    return Lookup(*(found.arrays[f"{view}.{name}.{part}"] for part in Lookup._fields))


def _lookups(vocabulary: Vocabulary, view: int) -> tuple[Lookup, Lookup | None]:
    """Return the lookup of whole keys and, but for the plain view, of keys up to ends of words.

    Bytes that are not characters alone are read as separators; where they may complete a character,
    tokens are tried out instead.
    """
    first = _keys(vocabulary, view, alone=0)
    tokens = np.arange(vocabulary.size, dtype=np.int32)
    if view == PLAIN:
        return build_lookup(first.symbols, first.starts, first.sizes, tokens), None
    # Where the other reading of a token differs, it has a second key.
    second = _keys(vocabulary, view, alone=1)
    other = np.flatnonzero(first.sizes != second.sizes).astype(np.int32)
    symbols = np.concatenate([first.symbols, second.symbols])
    shift = len(first.symbols)
    starts = np.concatenate([first.starts, second.starts[other] + shift])
    sizes = np.concatenate([first.sizes, second.sizes[other]])
    whole = build_lookup(symbols, starts, sizes, np.concatenate([tokens, other]))
    owner = np.repeat(tokens, first.stops)
    others = np.repeat(tokens, second.stops)
    also = np.isin(others, other)
    starts = np.concatenate([first.starts[owner], second.starts[others[also]] + shift])
    sizes = np.concatenate([first.ends, second.ends[also]])
    return whole, build_lookup(symbols, starts, sizes, np.concatenate([owner, others[also]]))


class _Keys(NamedTuple):
    symbols: NDArray[np.int32]
    starts: NDArray[np.int64]  # [vocabulary]
    sizes: NDArray[np.int64]  # [vocabulary]
    ends: NDArray[np.int64]  # of all tokens: how many symbols there are where a word ends
    stops: NDArray[np.int64]  # [vocabulary] how many of these each token has


def _keys(vocabulary: Vocabulary, view: int, alone: int) -> _Keys:
    room = len(vocabulary.data) * MOST_SYMBOLS_PER_BYTE + 1
    symbols, ends = np.zeros(room, np.int32), np.zeros(room, np.int32)
    bounds, end_bounds = (np.zeros(vocabulary.size + 1, np.int64) for _ in range(2))
    size = keys.token_keys(
        fold_block(), vocabulary.data, vocabulary.offsets, view, alone,
        symbols, bounds, ends, end_bounds,
    )  # fmt: skip
    cut = ends[: end_bounds[-1]].astype(np.int64)
    return _Keys(symbols[:size].copy(), bounds[:-1], np.diff(bounds), cut, np.diff(end_bounds))
