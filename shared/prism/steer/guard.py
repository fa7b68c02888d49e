"""Decode-time steering: which tokens would complete a blocked phrase, and the refusal's tokens.

The rule that makes it a guarantee: a token is banned when the text, *ending behind it*, would be
blocked as a whole. So no prefix that the sampler can reach is a blocked text, wherever generation
stops. The tokens worth trying are found by their keys (a phrase's remainder is a prefix of the
token), and each is then tried on a copy of the state, which makes the mask exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from prism.match.kernel import GAPS, PLAIN, SIGNS
from prism.match.phrases import Phrase, PhraseSet
from prism.policy.compiled import CompiledPolicy
from prism.steer import kernel
from prism.steer.completions import Patterns, compile_block, loose_patterns
from prism.steer.row import TokenRow
from prism.steer.state import Masks, State, States
from prism.steer.vocabulary import Vocabulary
from prism.types import Action, Mode, Stage


class TokenGuard:
    """A policy's phrases over one vocabulary; immutable, shared by every row under the policy."""

    _cache: ClassVar[dict[tuple[str, str], TokenGuard]] = {}
    _lock = Lock()

    def __init__(self, policy: CompiledPolicy, vocabulary: Vocabulary) -> None:
        self.policy = policy
        self.vocabulary = vocabulary
        self.output = PhraseSet(_phrases(policy, Stage.OUTPUT, Action.STEER))
        self.prompt = PhraseSet(_phrases(policy, Stage.PROMPT, Action.BLOCK))
        self._stopping = {
            rule.id for rule in policy.rules_for(Stage.OUTPUT) if rule.action is Action.BLOCK
        }
        self._completions = self._complete()
        self._sort_whole_tokens()

    @classmethod
    def compile(cls, policy: CompiledPolicy, vocabulary: Vocabulary) -> TokenGuard:
        """Return the guard of ``policy`` over ``vocabulary``, from the cache where it is there."""
        key = (policy.digest, vocabulary.digest)
        with cls._lock:
            if key not in cls._cache:
                cls._cache[key] = cls(policy, vocabulary)
            return cls._cache[key]

    def row(self, prompt_ids: Sequence[int] | None, locale: str | None = None) -> TokenRow:
        """Return the state of one row. ``None`` for ids that aren't known: the row refuses."""
        return TokenRow(self, prompt_ids, locale)

    def blocks_prompt(self, prompt_ids: Sequence[int]) -> bool:
        """Return whether a phrase that blocks prompts is in ``prompt_ids``."""
        if self.prompt.empty:
            return False
        state = State(self.prompt)
        ids = np.asarray(prompt_ids, np.int64)
        known = (ids >= 0) & (ids < self.vocabulary.size)
        if not known.all():
            return True  # a prompt that can't be read isn't passed
        # Control tokens stand between turns: in a prompt they separate words.
        pieces = np.split(ids, np.flatnonzero(self.vocabulary.control[ids]))
        for piece in pieces:
            if len(piece) and self.vocabulary.control[piece[0]]:
                if state.copy().end():  # a phrase may end right before the turn does
                    return True
                state.feed_space()
            if state.feed(self.vocabulary, piece):
                return True
        return state.copy().end()

    @cached_property
    def bare_refusal(self) -> dict[str | None, list[int]]:
        """Refusals already encoded, by locale; filled as they are used."""
        return {}

    def refusal(self, locale: str | None, *, inside: bool) -> list[int]:
        """Return the token ids of the refusal; ``inside`` an answer it begins a new paragraph."""
        text = self.policy.message(locale)
        key = f"{locale}\0{inside}"
        if key not in self.bare_refusal:
            self.bare_refusal[key] = self.vocabulary.encode(f"\n\n{text}" if inside else text)
        return self.bare_refusal[key]

    @property
    def eos(self) -> int:
        """The token that ends a refusal."""
        return min(self.vocabulary.eos_ids)

    def _complete(self) -> tuple[NDArray[np.int32], ...]:
        phrases = self.output
        loose = loose_patterns(phrases.entries)
        result = []
        for view, (whole, cut) in zip((PLAIN, GAPS, SIGNS), self.vocabulary.lookups, strict=True):
            keys = phrases.plain_keys if view == PLAIN else phrases.squeezed_keys
            symbols = np.frombuffer("".join(keys).encode("utf-32-le", "surrogatepass"), np.int32)
            bounds = np.cumsum([0, *map(len, keys)], dtype=np.int64)
            block = phrases.plain if view == PLAIN else phrases.squeezed
            open_ = np.zeros(len(keys), np.bool_) if view == PLAIN else loose
            patterns = Patterns(block, symbols, bounds, open_)
            result.append(compile_block(patterns, whole, cut))
        return tuple(result)

    def _sort_whole_tokens(self) -> None:
        """Find the tokens that hold a whole phrase themselves.

        ``always``: from any state. ``at_word_start``: only where a word may begin. ``partial``:
        tokens with bytes that are no characters alone; those are tried out while a character is
        incomplete.
        """
        everything = np.flatnonzero(~self.vocabulary.control).astype(np.int64)
        inside = State(self.output)
        # A letter of no phrase: what is found behind it doesn't depend on what was before.
        inside.feed_text("\u9f98")
        self.always = everything[inside.unsafe(self.vocabulary, everything)]
        fresh = State(self.output)
        starting = everything[fresh.unsafe(self.vocabulary, everything)]
        self.at_word_start = np.setdiff1d(starting, self.always)
        raw = self.vocabulary.data.tobytes()
        bounds = self.vocabulary.offsets.tolist()
        self.partial = np.array(
            [i for i in everything.tolist() if not _whole(raw[bounds[i] : bounds[i + 1]])],
            np.int64,
        )

    def banned(self, states: States, slots: NDArray[np.int64]) -> Masks:
        """Return the tokens that complete a phrase from the states at ``slots``, ``[rows]``."""
        room = 1 << 12
        bounds = np.zeros(len(slots) + 1, np.int64)
        while True:
            codes, ids = np.empty(room, np.int64), np.empty(room, np.int64)
            needed = kernel.mask_rows(
                *states.tables, *self._completions, *states.arrays, slots,
                self.vocabulary.data, self.vocabulary.offsets, self.partial, self.at_word_start,
                states.out, codes, ids, bounds,
            )  # fmt: skip
            if not needed:
                found = Masks(ids[: bounds[-1]], bounds)
                return found.with_each(self.always) if len(self.always) else found
            room = 2 * int(needed)

    def stops(self, rule_ids: set[str]) -> bool:
        """Return whether one of the rules blocks (rather than steers)."""
        return bool(rule_ids & self._stopping)


def _whole(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _phrases(policy: CompiledPolicy, stage: Stage, least: Action) -> list[Phrase]:
    return [
        Phrase(rule.id, text, rule.boundary, rule.disguises, True)
        for rule in policy.rules_for(stage)
        if rule.mode is Mode.ENFORCE and rule.action >= least
        for text in rule.phrases
    ]
