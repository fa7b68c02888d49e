"""One answer in every chunking of its bytes: the same words each time, none that may not pass."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from asgi_client import Fixed, until_live
from house import FAST
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.moderator import Moderator

WORDS = ["zephyr", " lantern", "zeph", "yr lan", "tern", " walnut", " ferry", " a", "é", "🜂", "\n",
         "plaid", " ", "marzipan", " gasket", "漢字", ".", "\u2028", "\x85"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12)
PLACES = st.lists(st.integers(0, 10_000), max_size=30)
FEW = hypothesis_settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

Said = tuple[str, str | None]
Ask = Callable[[Any], Awaitable[Said]]


async def in_any_chunks(
    settings: Settings,
    raw: bytes,
    places: Sequence[int],
    ask: Ask,
    *,
    kind: str = "text/event-stream",
    also: Sequence[Sequence[bytes]] = (),
) -> Said:
    """Have the engine send ``raw`` whole, cut at ``places`` and byte by byte, and ``also``.

    ``ask`` returns the text of an answer and how it ended; all of them have to be the same.
    """
    engine = Fixed([], kind=kind)
    app = PrismMiddleware(engine, settings=settings, timing=FAST)
    await until_live(app)
    marks = sorted({place % (len(raw) + 1) for place in places} | {0, len(raw)})
    cut = [raw[a:b] for a, b in itertools.pairwise(marks)]
    results = []
    for chunks in ([raw], cut, [raw[n : n + 1] for n in range(len(raw))], *also):
        engine.pieces = list(chunks)
        results.append(await ask(app))
    await app.selftest.stop()
    assert all(result == results[0] for result in results)
    return results[0]


def may_have_said(settings: Settings, pieces: Sequence[str], text: str, *, blocked: bool) -> None:
    """Check an answer against the whole text's own verdict."""
    moderator = Moderator(settings.policy)
    assert moderator.check_output("".join(pieces)).blocked is blocked
    assert not moderator.check_output(text).blocked
    if not blocked:
        session = moderator.session()
        assert text == session.feed("".join(pieces)).text + session.finish().text
