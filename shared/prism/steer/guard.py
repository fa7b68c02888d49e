"""Decode-time steering: which tokens would complete a blocked phrase, and the refusal's tokens.

The rule that makes it a guarantee: a token is banned when the text, *ending behind it*, would be
blocked as a whole. So no prefix that the sampler can reach is a blocked text, wherever generation
stops. The tokens worth trying are found by their keys (a phrase's remainder is a prefix of the
token), and each is then tried on a copy of the state, which makes the mask exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prism.classify.sketch import Sketch
from prism.match import automaton as ac
from prism.match import disk, scratch
from prism.match.kernel import NODE, PLAIN, VIEWS
from prism.match.phrases import PhraseSet
from prism.match.stages import phrases_of
from prism.policy.compiled import CompiledPolicy
from prism.steer import kernel
from prism.steer.completions import Patterns, any_behind, compile_block, loose_patterns, spread
from prism.steer.row import TokenRow
from prism.steer.scores import Scores
from prism.steer.state import Masks, State, States
from prism.steer.vocabulary import Vocabulary
from prism.types import Action, Stage

WORTH_KEEPING = 1 << 18
"""From so many numbers in an automaton on, reading completions is quicker than finding them."""
_MADE_BY = tuple(
    f"prism.steer.{name}" for name in ("completions", "guard", "kernel", "keys", "lookup", "utf8")
)


def within_word(phrases: PhraseSet) -> State:
    """Return a state within a word: what is found from it is found from any."""
    state = State(phrases)
    state.feed_text("\u9f98")  # a letter of no phrase: nothing depends on what was before
    return state


def word_starts(phrases: PhraseSet) -> list[State]:
    """Return the states in which a word may begin: at a text's start, and right behind a sign.

    A sign that resembles a letter is one to a view, so that the next letter doesn't stand alone.
    Two signs, because a token's own first letter may lengthen one of them.
    """
    states = [State(phrases) for _ in range(3)]
    for state, before in zip(states, ("", "+", "#"), strict=True):
        state.feed_text(before)
    return states


class TokenGuard:
    """A policy's phrases over one vocabulary; immutable, shared by every row under the policy."""

    _cache: ClassVar[dict[tuple[str, str], TokenGuard]] = {}
    _lock = Lock()

    def __init__(
        self, policy: CompiledPolicy, vocabulary: Vocabulary, sketch: Sketch | None = None
    ) -> None:
        """``sketch``: the shipped one, where the policy watches scores."""
        self.policy = policy
        self.vocabulary = vocabulary
        self.scores = Scores.of(policy, vocabulary, sketch)
        self.output = phrases_of(policy, Stage.OUTPUT, Action.STEER)
        self.prompt = phrases_of(policy, Stage.PROMPT, Action.BLOCK)
        self._stopping = {
            rule.id for rule in policy.rules_for(Stage.OUTPUT) if rule.action is Action.BLOCK
        }
        self._utf8 = vocabulary.follows, vocabulary.continuing, vocabulary.ends
        self.always: NDArray[np.int64]
        self.at_word_start: NDArray[np.int64]
        # Now, not in a request: guards outlive the model whose tokenizer encodes these.
        self._refusals = {
            text: (vocabulary.encode(text), vocabulary.encode(f"\n\n{text}"))
            for text in policy.messages.values()
        }
        self._load()

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

    def refusal(self, locale: str | None, *, inside: bool) -> list[int]:
        """Return the token ids of the refusal; ``inside`` an answer it begins a new paragraph."""
        return self._refusals[self.policy.message(locale)][inside]

    @property
    def completions(self) -> tuple[NDArray[np.int32], ...]:
        """Per view, which tokens complete a phrase, as ``prism.steer.completions.spread`` does."""
        blocks = (self.output.plain, self.output.squeezed, self.output.squeezed)
        views = zip(self._completions, self.vocabulary.words, blocks, strict=True)
        return tuple(spread(*view) for view in views)

    @property
    def eos(self) -> int:
        """The token that ends a refusal."""
        return min(self.vocabulary.eos_ids)

    def _load(self) -> None:
        """Find what completes a phrase, and what holds one; or read it where it was kept."""
        phrases, vocabulary = self.output, self.vocabulary
        made_by = disk.code_digest(*_MADE_BY)
        key = hashlib.sha256(f"{made_by} {phrases.digest} {vocabulary.digest}".encode()).hexdigest()
        large = len(phrases.plain) >= WORTH_KEEPING
        found = disk.load("completions", key) if large else None
        if found is None:
            self._completions = self._complete()
            self._sort_whole_tokens()
            if large:
                arrays: dict[str, NDArray[Any]] = {
                    f"view{view}": block for view, block in enumerate(self._completions)
                }
                arrays |= {"always": self.always, "at_word_start": self.at_word_start}
                disk.save("completions", key, {}, arrays)
                found = disk.load("completions", key)  # as in ``PhraseSet.compile``
        if found is not None:
            self._completions = tuple(found.arrays[f"view{view}"] for view in range(VIEWS))
            self.always = found.arrays["always"]
            self.at_word_start = found.arrays["at_word_start"]
        if large:
            scratch.trim()

    def _complete(self) -> tuple[NDArray[np.int32], ...]:
        phrases = self.output
        count = int(phrases.plain[ac.PATTERNS])
        wanted, behind = np.split(phrases.active.view(np.bool_), [count])
        patterns = Patterns(phrases.plain, np.zeros(count, np.bool_), wanted, True)
        loose, some = loose_patterns(phrases.entries), any_behind(phrases.entries, behind)
        squeezed = Patterns(phrases.squeezed, loose, some, False)
        views = zip((patterns, squeezed, squeezed), self.vocabulary.lookups, strict=True)
        with ThreadPoolExecutor() as pool:  # the compiled loops hold no lock
            return tuple(pool.map(lambda view: compile_block(view[0], *view[1]), views))

    def _sort_whole_tokens(self) -> None:
        """Find the tokens that hold a whole phrase themselves.

        ``always``: from any state. ``at_word_start``: only where a word may begin. Tried are those
        whose key leads through an automaton to the end of a phrase. Where phrases are kept out,
        nor are tokens said whose characters a decoder may join to what is before their first bytes.
        """
        holding = self._holding(within_word(self.output))
        mixed = self.vocabulary.mixed if not self.output.empty else holding[:0]
        self.always = np.union1d(holding, mixed)
        starting = [self._holding(state) for state in word_starts(self.output)]
        self.at_word_start = np.setdiff1d(np.concatenate(starting), self.always)
        self.always.flags.writeable = self.at_word_start.flags.writeable = False

    def _holding(self, state: State) -> NDArray[np.int64]:
        """Return the tokens that hold a phrase behind ``state``, ascending."""
        found = []
        for view, (whole, _) in enumerate(self.vocabulary.lookups):
            block = self.output.plain if view == PLAIN else self.output.squeezed
            marked = np.zeros(len(whole.low), np.uint8)
            node = np.int32(state.head[2 + 4 * view + NODE])
            kernel.may_hold(block, whole.block, node, view == PLAIN, marked)
            held = np.repeat(marked > 0, whole.exact - whole.low)
            found.append(whole.order[held])
        likely = np.unique(np.concatenate(found)).astype(np.int64)
        return likely[state.unsafe(self.vocabulary, likely)]

    def banned(self, states: States, slots: NDArray[np.int64]) -> Masks:
        """Return the tokens that complete a phrase from the states at ``slots``, ``[rows]``."""
        bounds = np.zeros(len(slots) + 1, np.int64)
        only = np.zeros(len(slots), np.uint8)
        if self.output.empty:
            return Masks(bounds[:0], bounds, only)
        while True:
            codes, ids = states.found
            needed = kernel.mask_rows(
                *states.tables, *self._completions, *self.vocabulary.words, *states.arrays, slots,
                self.vocabulary.data, self.vocabulary.offsets, *self._utf8, self.at_word_start,
                self.always, states.out, codes, ids, bounds, only,
            )  # fmt: skip
            if not needed:
                return Masks(ids[: bounds[-1]].copy(), bounds, only)
            states.found = np.empty((2, 2 * int(needed)), np.int64)

    def stops(self, rule_ids: set[str]) -> bool:
        """Return whether one of the rules blocks (rather than steers)."""
        return bool(rule_ids & self._stopping)
