"""The text layer, part by part: a text streamed in pieces, and prompts judged as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from bench.inputs import words
from bench.rows import Row
from bench.settings import Case, Settings
from prism.assure.costs import TEXT, check_costs, text_costs
from prism.moderator import Moderator

TITLE = "The text layer, part by part"
ENGINE = False
_PROMPTS = (40, 800)


def cases(settings: Settings) -> list[Case]:
    """One."""
    return [{}]


def measure(settings: Settings, case: Case) -> Iterator[Row]:
    """Yield µs per piece of an output, and ms per prompt."""
    moderator = Moderator.from_policy(settings.policy)
    for cost in text_costs(moderator, TEXT, settings.times(25)):
        yield Row.taken(cost.name, cost.unit, cost.spread)
    for count in _PROMPTS:
        for cost in check_costs(moderator, words(count, skip=1000), settings.times(15)):
            yield Row.taken(cost.name, cost.unit, cost.spread, at={"words": count})
