"""What an API's module has to offer, and what they share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

from prism.conform.cards import Card

Json = dict[str, Any]
MODEL = "conform"
CREATED = 1_700_000_000


class Speaker(Protocol):
    """One API."""

    def whole(self, card: Card, body: Json) -> Json:
        """Return the answer in one piece."""
        ...

    def stream(self, card: Card, body: Json) -> Iterator[bytes]:
        """Yield the answer's events."""
        ...


def event(body: Json) -> bytes:
    """Return an event without a name."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def named(body: Json) -> bytes:
    """Return an event named after its type."""
    return f"event: {body['type']}\n".encode() + event(body)


def interleaved(card: Card, wanted: int) -> list[Any]:
    """Return what each of ``wanted`` choices says; cards with fewer choices begin again."""
    return [card.choices[index % len(card.choices)] for index in range(wanted)]


def count(body: Json) -> int:
    """Return how many choices a request wants."""
    wanted = body.get("n")
    return wanted if isinstance(wanted, int) and 0 < wanted <= 16 else 1


def used(card: Card) -> int:
    """Return how many tokens an answer counts as: one a piece."""
    return sum(len(say.content) + len(say.reasoning) for say in card.choices)
