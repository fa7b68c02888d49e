"""Decode-time steering: which tokens would complete a blocked phrase, and the refusal's tokens.

The rule that makes it a guarantee: a token is banned when the text, *ending behind it*, would be
blocked as a whole. So no prefix that the sampler can reach is a blocked text, wherever generation
stops. The tokens worth trying are found by their keys (a phrase's remainder is a prefix of the
token), and each is then tried on a copy of the state, which makes the mask exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from prism.match import automaton as ac
from prism.match import kernel as match_kernel
from prism.match.kernel import GAPS, HEAD, PLAIN, SIGNS, VIEWS
from prism.match.phrases import Phrase, PhraseSet
from prism.policy.compiled import CompiledPolicy
from prism.steer import kernel
from prism.steer.vocabulary import Vocabulary
from prism.types import Action, Mode, Stage

_HITS = 64
_RECOGNISE = 3
"""Tokens of a refusal that must be there before a resumed request is taken to be refusing."""
_NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class _Completions:
    """For one automaton and view: node -> ranges of ``order`` whose tokens may complete a
    phrase."""

    start: NDArray[np.int64]  # [n + 1]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    order: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Step:
    """What the next token may be. ``forced`` wins over ``banned``."""

    forced: int | None
    banned: NDArray[np.int64]  # token ids, ascending

    def write(self, row: NDArray[np.float32]) -> None:
        """Apply to one row of logits in place, shape ``[vocabulary]``, strided views included."""
        if self.forced is not None:
            row[:] = -np.inf
            row[self.forced] = 0.0
        elif len(self.banned):
            row[self.banned] = -np.inf


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
        state = _State(self.prompt)
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

    def _complete(self) -> tuple[_Completions, ...]:
        keys = self.vocabulary.keys
        result = []
        for view, key in zip((PLAIN, GAPS, SIGNS), keys, strict=True):
            block = self.output.plain if view == PLAIN else self.output.squeezed
            patterns = self.output.plain_keys if view == PLAIN else self.output.squeezed_keys
            joined = "".join(patterns).encode("utf-32-le", "surrogatepass")
            symbols = np.frombuffer(joined, np.int32)
            sizes = np.array([len(p) for p in patterns], np.int64)
            bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
            common = (block, symbols, bounds, key.symbols, key.offsets, key.order, view == PLAIN)
            count = kernel.completion_ranges(*common, False, _NOTHING, _NOTHING, _NOTHING)
            nodes, lows, highs = (np.zeros(count, np.int64) for _ in range(3))
            kernel.completion_ranges(*common, True, nodes, lows, highs)
            by_node = np.argsort(nodes, kind="stable")
            start = np.zeros(int(block[ac.NODES]) + 1, np.int64)
            np.cumsum(np.bincount(nodes, minlength=len(start) - 1), out=start[1:])
            result.append(_Completions(start, lows[by_node], highs[by_node], key.order))
        return tuple(result)

    def _sort_whole_tokens(self) -> None:
        """Find the tokens that hold a whole phrase themselves.

        ``always``: from any state. ``at_word_start``: only where a word may begin. ``partial``:
        tokens with bytes that are no characters alone; those are tried out while a character is
        incomplete.
        """
        everything = np.flatnonzero(~self.vocabulary.control).astype(np.int64)
        inside = _State(self.output)
        # A letter of no phrase: what is found behind it doesn't depend on what was before.
        inside.feed_text("\u9f98")
        self.always = everything[inside.unsafe(self.vocabulary, everything)]
        fresh = _State(self.output)
        starting = everything[fresh.unsafe(self.vocabulary, everything)]
        self.at_word_start = np.setdiff1d(starting, self.always)
        raw = self.vocabulary.data.tobytes()
        bounds = self.vocabulary.offsets.tolist()
        self.partial = np.array(
            [i for i in everything.tolist() if not _whole(raw[bounds[i] : bounds[i + 1]])],
            np.int64,
        )

    def candidates(self, state: _State) -> NDArray[np.int64]:
        """Return tokens of which every one that completes a phrase from ``state`` is a member."""
        found = self._completing(state)
        if state.pending:
            # The next token finishes the character, or leaves it broken, which separates words. (A
            # token that begins a character can't complete a phrase: broken off, it is the text's
            # end.)
            broken = state.copy()
            broken.feed_space()
            found += [*self._completing(broken), self.partial]
        return np.unique(np.concatenate(found)) if found else _NOTHING

    def _completing(self, state: _State) -> list[NDArray[np.int64]]:
        found: list[NDArray[np.int64]] = []
        for view, node in kernel.state_views(state.head):
            completions = self._completions[view]
            block = self.output.plain if view == PLAIN else self.output.squeezed
            fail = int(block[ac.FAIL])
            while node != 0:
                for i in range(int(completions.start[node]), int(completions.start[node + 1])):
                    low, high = int(completions.low[i]), int(completions.high[i])
                    found.append(completions.order[low:high].astype(np.int64))
                node = int(block[fail + node])
        if kernel.at_word_start(state.head) and len(self.at_word_start):
            found.append(self.at_word_start)
        return found

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


class _State:
    """The phrase state of one row."""

    __slots__ = ("_out", "head", "phrases", "ring", "utf8")

    def __init__(self, phrases: PhraseSet) -> None:
        self.phrases = phrases
        self.head = np.zeros(HEAD, np.int64)
        self.ring = np.zeros((VIEWS, phrases.ring_size, match_kernel.FIELDS), np.int64)
        self.utf8 = np.zeros(kernel.UTF8, np.int64)
        self._out = np.empty((_HITS, 5), np.int64)
        match_kernel.begin(phrases.plain, self.head, self.ring)

    def copy(self) -> _State:
        """Return an independent copy."""
        twin = object.__new__(_State)
        twin.phrases, twin._out = self.phrases, self._out
        twin.head, twin.ring, twin.utf8 = self.head.copy(), self.ring.copy(), self.utf8.copy()
        return twin

    @property
    def pending(self) -> bool:
        """Whether a character is incomplete."""
        return bool(self.utf8[kernel.DUE])

    def _tables(self) -> tuple[NDArray[np.int32], ...]:
        p = self.phrases
        return (p.table, p.plain, p.squeezed, p.entries)

    def feed(self, vocabulary: Vocabulary, ids: NDArray[np.int64]) -> bool:
        """Read tokens; return whether a phrase was found."""
        return bool(
            kernel.feed_tokens(
                *self._tables(), self.head, self.ring, self.utf8,
                vocabulary.data, vocabulary.offsets, ids, self._out,
            )
        )  # fmt: skip

    def feed_text(self, text: str) -> None:
        """Read characters."""
        cps = np.array([ord(char) for char in text], np.int32)
        match_kernel.feed(*self._tables(), self.head, self.ring, cps, 0, self._out)

    def feed_space(self) -> None:
        """Read a separator, ending an incomplete character."""
        self.utf8[:] = 0
        self.feed_text(" ")

    def end(self) -> bool:
        """Return whether the text, ending here, holds a phrase. The state is spent afterwards."""
        return bool(kernel.end_hits(*self._tables(), self.head, self.ring, self.utf8, self._out))

    def unsafe(self, vocabulary: Vocabulary, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return, for each token, whether the text ending behind it would hold a phrase."""
        verdict = np.zeros(len(ids), np.uint8)
        kernel.try_tokens(
            *self._tables(), self.head, self.ring, self.utf8,
            vocabulary.data, vocabulary.offsets, ids, self._out, verdict,
        )  # fmt: skip
        return verdict.astype(np.bool_)

    def rules_behind(self, vocabulary: Vocabulary, token: int) -> set[str]:
        """Return the rules that the text ending behind ``token`` would break."""
        twin = self.copy()
        twin._out = np.zeros((_HITS, 5), np.int64)
        one = np.zeros(1, np.int32)
        rules: set[str] = set()
        data = vocabulary.data[vocabulary.offsets[token] : vocabulary.offsets[token + 1]]
        for i in range(len(data)):
            hits = kernel.feed_bytes(
                *self._tables(), twin.head, twin.ring, twin.utf8, data[i : i + 1], one, twin._out
            )
            rules |= self._owners(twin._out[:hits])
        hits = kernel.end_hits(*self._tables(), twin.head, twin.ring, twin.utf8, twin._out)
        return rules | self._owners(twin._out[:hits])

    def _owners(self, rows: NDArray[np.int64]) -> set[str]:
        rules: set[str] = set()
        for kind, index in rows[:, :2].tolist():
            owners = self.phrases.entry_owners[index] if kind else self.phrases.plain_owners[index]
            rules |= {rule for rule, _ in owners}
        return rules


class TokenRow:
    """One row of a batch: follows its output ids and says what the next token may be."""

    def __init__(
        self, guard: TokenGuard, prompt_ids: Sequence[int] | None, locale: str | None
    ) -> None:
        self._guard = guard
        self._locale = locale
        self._state = _State(guard.output)
        self._count = 0  # output ids read into the state
        self._last = -1
        self._refusal: list[int] = []
        self._refused_at: int | None = None
        self._step: Step | None = None
        self._length = 0
        if prompt_ids is None or guard.blocks_prompt(prompt_ids):
            self._start_refusal(0)

    @property
    def refusing(self) -> bool:
        """Whether the refusal is being forced."""
        return self._refused_at is not None

    def refuse(self) -> None:
        """Force the refusal from the next token on."""
        if self._refused_at is None:
            self._start_refusal(self._length)

    def _start_refusal(self, at: int) -> None:
        self._refused_at = at
        self._refusal = self._guard.refusal(self._locale, inside=at > 0)
        self._step = None

    def advance(self, output_ids: Sequence[int]) -> None:
        """Take note of the whole output so far, shape ``[length]``.

        Costs what is new; a list that isn't a continuation is read anew. Placeholders (ids below
        zero, which engines use for tokens still on the device) can't be judged: the row refuses.
        """
        length = len(output_ids)
        if length == self._length and (length == 0 or output_ids[-1] == self._last):
            return
        self._step = None
        if self._refused_at is not None and length >= self._refused_at:
            self._length = length
            self._last = int(output_ids[-1])
            return
        if length < self._count or (self._count and output_ids[self._count - 1] != self._last):
            self._restart()
        new = np.asarray(output_ids[self._count :], np.int64)
        self._length = length
        self._last = int(output_ids[-1]) if length else -1
        if len(new) and (new.min() < 0 or new.max() >= self._guard.vocabulary.size):
            self._start_refusal(length)
            return
        resumed = self._count == 0 and length > 1
        self._count = length
        if resumed:
            self._recognise(list(map(int, output_ids)))
        if self._state.feed(self._guard.vocabulary, new) and self._refused_at is None:
            # Only reachable when tokens were appended past the mask: nothing more may follow.
            self._start_refusal(length)

    def _restart(self) -> None:
        self._state = _State(self._guard.output)
        self._count = 0
        if self._refused_at:
            self._refused_at = None

    def _recognise(self, ids: list[int]) -> None:
        """After preemption a request comes back with its output: was it refusing already?"""
        refusal = self._guard.refusal(self._locale, inside=True)
        for size in range(min(len(refusal), len(ids)), _RECOGNISE - 1, -1):
            if ids[-size:] == refusal[:size]:
                self._start_refusal(len(ids) - size)
                return

    def step(self) -> Step:
        """Return what the next token may be; changes nothing."""
        if self._step is None:
            self._step = self._make_step()
        return self._step

    def _make_step(self) -> Step:
        if self._refused_at is not None:
            index = self._length - self._refused_at
            forced = self._refusal[index] if index < len(self._refusal) else self._guard.eos
            return Step(forced, _NOTHING)
        guard = self._guard
        ids = guard.candidates(self._state)
        banned = ids[self._state.unsafe(guard.vocabulary, ids)] if len(ids) else ids
        if len(guard.always):
            banned = np.union1d(banned, guard.always)
        return Step(None, banned)

    def apply(self, row: NDArray[np.float32]) -> None:
        """Steer one row of logits in place, shape ``[vocabulary]``.

        Where the likeliest token would complete a phrase of a rule that blocks, the refusal begins.
        """
        step = self.step()
        if step.forced is None and len(step.banned):
            top = int(step.banned[np.argmax(row[step.banned])])
            if row[top] >= row.max() and self.blocks(top):
                self.refuse()
                step = self.step()
        step.write(row)

    def blocks(self, token: int) -> bool:
        """Return whether a banned token would break a rule that blocks, not one that steers."""
        return self._guard.stops(self._state.rules_behind(self._guard.vocabulary, token))
