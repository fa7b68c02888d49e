"""A policy's patterns for one stage, compiled once, and the scanner of one text."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import ClassVar, Literal

from prism.match.layers import Budget, Layer, Patterns
from prism.match.pii import PiiSet, Wanted
from prism.match.regexes import Regex, RegexSet
from prism.match.stages import phrases_of
from prism.policy.compiled import CompiledPolicy
from prism.types import Action, Disguise, Match, Mode, Stage

ENCODINGS = frozenset({Disguise.BASE64, Disguise.HEX, Disguise.ESCAPES})
"""Disguises that are decoded into layers; the others are part of the phrase automaton."""
_CACHE_SIZE = 256


class Matcher:
    """Immutable; shared by all requests under policies with the same digest."""

    _cache: ClassVar[OrderedDict[tuple[str, Stage], Matcher]] = OrderedDict()
    _lock = Lock()

    def __init__(self, policy: CompiledPolicy, stage: Stage) -> None:
        regexes: list[Regex] = []
        disguises: dict[str, frozenset[Disguise]] = {}
        for rule in policy.rules_for(stage):
            # Only what is enforced by changing the text is ever held back.
            held = rule.mode is Mode.ENFORCE and rule.action >= Action.REDACT
            disguises[rule.id] = rule.disguises & ENCODINGS
            for item in rule.regexes:
                regexes.append(
                    Regex.compile(rule.id, item.pattern, ignore_case=item.ignore_case, held=held)
                )
        self.patterns = Patterns(
            phrases_of(policy, stage),
            RegexSet.compile(tuple(regexes)),
            disguises,
            frozenset().union(*disguises.values()),
        )
        self.pii = PiiSet(
            [
                Wanted(r.id, r.pii, r.mode is Mode.ENFORCE and r.action >= Action.REDACT)
                for r in policy.rules_for(stage)
                if r.pii
            ]
        )

    @classmethod
    def compile(cls, policy: CompiledPolicy, stage: Stage) -> Matcher:
        """Return the matcher of ``policy`` at ``stage``, from the cache where it is there."""
        key = (policy.digest, stage)
        with cls._lock:
            if (known := cls._cache.get(key)) is not None:
                cls._cache.move_to_end(key)
                return known
        matcher = cls(policy, stage)
        with cls._lock:
            cls._cache[key] = matcher
            while len(cls._cache) > _CACHE_SIZE:
                cls._cache.popitem(last=False)
        return matcher

    @property
    def slow(self) -> bool:
        """Whether a language model looks for names, which takes milliseconds a sentence."""
        return self.pii.names is not None

    def scanner(self) -> Scanner:
        """Return a scanner at the start of a text."""
        return Scanner(self)

    def found(self, text: str) -> list[Match]:
        """Return the matches in a whole text as a scanner would, in its order; raises what it does.

        Most texts hold nothing, and that is said sooner than a scanner is made.
        """
        if self.patterns.surely_absent(text):
            if not self.pii:
                return []
            alone = self.pii.scanner()
            if not (alone.feed(text) or alone.finish()):
                return []
        scanner = self.scanner()
        return scanner.feed(text) + scanner.finish()

    def scan(self, text: str) -> list[Match]:
        """Return the matches in a whole text."""
        return sorted(self.found(text), key=lambda m: (m.start, m.end, m.rule))


class Scanner:
    """Reads one text in any chunks; the matches are those of the whole text."""

    __slots__ = ("_pii", "_read", "_root", "_seen")

    def __init__(self, matcher: Matcher) -> None:
        self._root = Layer(matcher.patterns, Budget())
        self._pii = matcher.pii.scanner() if matcher.pii else None
        self._read = 0
        self._seen: set[tuple[str, int, int]] = set()

    @property
    def read(self) -> int:
        """How many code points were read."""
        return self._read

    @property
    def hold_from(self) -> int:
        """Offset, in code points, from which an unfinished, enforced match may still begin."""
        place = self._root.open_from()
        ends = self._read if self._pii is None else self._pii.open_from()
        return ends if place is None else min(place, ends)

    def feed(self, text: str) -> list[Match]:
        """Read more text; return the matches that became certain.

        Raises ``TimeoutError`` (a regex backtracks too long) and ``DecodeBudgetError``.
        """
        self._read += len(text)
        matches = self._root.feed(text)
        if self._pii is not None:
            matches = matches + self._pii.feed(text)
        return self._fresh(matches) if matches else matches

    def token(self, data: bytes) -> list[Match] | Literal[True] | None:
        """Do what ``feed`` does with a few characters of ASCII, sooner, where that can be.

        Returns ``None`` where ``feed`` has to read them: they are unread. ``True``: there are no
        matches, and an unfinished, enforced match may begin nowhere. Raises what ``feed`` does.
        """
        if self._pii is not None:
            return None
        matches = self._root.token(data)
        if matches is None:
            return None
        self._read += len(data)
        return self._fresh(matches) if matches and matches is not True else matches

    def finish(self) -> list[Match]:
        """Read the end of the text; return the matches that it makes certain."""
        matches = self._root.finish()
        return self._fresh(matches if self._pii is None else matches + self._pii.finish())

    def _fresh(self, matches: list[Match]) -> list[Match]:
        # A layer repeats what its parent found in the text before the first escape.
        result = []
        for match in matches:
            key = (match.rule, match.start, match.end)
            if key not in self._seen:
                self._seen.add(key)
                result.append(match)
        return result
