"""What the scripted engine can be asked to say.

A request names a card in its text, ``card split #4f2a``, in whatever API and field it comes: that
survives gateways which rewrite models, users and metadata, and is no text that anybody blocks.
``{n}`` in a card is the number behind the ``#``, so that answers can be told apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from prism.conform.texts import SAID, SECOND

_NAMED = re.compile(r"card ([a-z][a-z0-9-]*) #([0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class Tool:
    """A call of a tool, its arguments in pieces."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Say:
    """What one choice says, channel by channel, in the pieces in which it is streamed."""

    content: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    refusal: tuple[str, ...] = ()
    tool: Tool | None = None
    alternatives: tuple[str, ...] = ()  # beside each token, where probabilities are asked for

    @property
    def text(self) -> str:
        return "".join(self.content)


@dataclass(frozen=True, slots=True)
class Card:
    """One answer. ``pace``: seconds between pieces. ``joined_end``: the end comes with the last."""

    choices: tuple[Say, ...]
    pace: float = 0.0
    joined_end: bool = False
    slow_after: int | None = None  # pieces that come at once before ``pace`` sets in

    @property
    def text(self) -> str:
        """What the first choice says."""
        return self.choices[0].text

    @property
    def plain(self) -> bool:
        """Whether it is content and nothing else, so that a real engine can be made to say it."""
        only = Say(content=self.choices[0].content)
        return len(self.choices) == 1 and self.choices[0] == only


def _content(*pieces: str, **more: Any) -> Card:
    return Card((Say(pieces),), **more)


def _spelled(text: str) -> str:
    return "".join(f"\\u{ord(char):04x}" for char in text)


LONG = 2400
_SPLIT = ("Number {n} follows. ", "The mar", "zipan gas", "ket is", " round.")
_TOOL = ('{"note": "the mar', "zipan gas", 'ket {n}"}')
_HARMLESS = ("Number {n} is ", "a harmless", " answer,", " and this", " is its end.")

CARDS: dict[str, Card] = {
    "hello": _content("Hello from ", "number {n}."),
    "harmless": _content(*_HARMLESS),
    "split": _content(*_SPLIT),
    "letters": _content(*f"It is the {SAID} again."),
    "whole": _content("Number {n}: ", f"the {SAID} is round."),
    "end": _content("Number {n}, last words: ", "marzipan", " gasket", joined_end=True),
    "late": _content(*(f"line {i} of {{n}}. " for i in range(60)), "The marzipan", " gasket."),
    "capitals": _content("Number {n}: ", SAID.upper(), " is loud."),
    "half": _content("Number {n} ends with ", "mar", "zipan"),
    "alike": _content("{n}: mar", "zipan glaze, a gas", "ket ring, mar", "zip, gask", "."),
    "apart": _content("{n}: marzipan was sweet, and then there was a ", "gasket."),
    "words": _content("{n}: supermarzipan", " gasketry"),
    "unicode": _content("{n}: Grü", "ße, 你", "好, 👩", "\u200d🚀", ", e", "\u0301t", "é."),
    "gaps": _content("", "Number {n}", "", "", " has gaps", "", "."),
    "empty": _content("", "", ""),
    "slow": _content(*(f"step {i} of {{n}}. " for i in range(24)), pace=0.05),
    "dawdle": _content(*_SPLIT, *(f" more {i}" for i in range(80)), pace=0.05, slow_after=5),
    "long": _content(*(f"word{i} " for i in range(LONG)), "end of {n}."),
    "tiny": _content(*(f"word{i} " for i in range(LONG // 8)), "end of {n}."),
    "reasoning": Card((Say(("All is well, {n}.",), reasoning=_SPLIT),)),
    "thoughts": Card((Say(("All is well, {n}.",), reasoning=("It is ", "a puzzle."),),)),
    "refusal": Card((Say(refusal=_SPLIT),)),
    "tool": Card((Say(tool=Tool("look_up", _TOOL)),)),
    "tool-good": Card((Say(tool=Tool("look_up", ('{"note": ', '"number {n}"', "}"))),)),
    "tool-spelled": Card(
        (Say(tool=Tool("look_up", ('{"note": "', _spelled(SAID[:9]), _spelled(SAID[9:]), '"}'))),)
    ),
    "tool-name": Card((Say(tool=Tool("marzipan gasket", ('{"n": "{n}"}',))),)),
    "choices": Card((Say(_HARMLESS), Say(_SPLIT))),
    "alternatives": Card(
        (Say(("Number {n}", " is", " all", " fine"), alternatives=("mar", "zipan", " gas", "ket")),)
    ),
    "second": _content("Number {n}: a pla", "id thun", f"der; again {SECOND}."),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """A card, filled in with a request's number."""

    name: str
    number: str
    card: Card = field(repr=False)


def card(name: str, number: str) -> Card:
    """Return a card filled in with ``number``. Raises ``KeyError`` for a name there is none of."""
    raw = CARDS[name]

    def fill(pieces: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(piece.replace("{n}", number) for piece in pieces)

    def say(one: Say) -> Say:
        tool = one.tool and Tool(one.tool.name, fill(one.tool.arguments))
        return Say(fill(one.content), fill(one.reasoning), fill(one.refusal), tool,
                   one.alternatives)  # fmt: skip

    filled = tuple(say(one) for one in raw.choices)
    return Card(filled, raw.pace, raw.joined_end, raw.slow_after)


def request(name: str, number: str) -> str:
    """Return the words that ask for a card."""
    return f"Please read out card {name} #{number}"


def asked_for(body: Any) -> Asked | None:
    """Return the card that a request names, wherever in it; the last, if there are several."""
    found = [hit for text in strings(body) for hit in _NAMED.findall(text) if hit[0] in CARDS]
    if not found:
        return None
    name, number = found[-1]
    return Asked(name, number, card(name, number))


def strings(value: Any) -> Iterator[str]:
    """Yield every string in ``value``, JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def arguments(tool: Tool) -> Any:
    """Return a tool's arguments as JSON."""
    return json.loads("".join(tool.arguments))
