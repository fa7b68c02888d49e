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


async def scripts_in_any_chunks(
    settings: Settings,
    script: Callable[[list[tuple[str, list[str]]]], list[bytes]],
    part: str,
    pieces: list[str],
    places: Sequence[int],
    ask: Ask,
    *,
    blocked: str = "content_filter",
) -> None:
    """Check an answer that ``script`` makes of ``pieces``, also with an event for each letter.

    ``part``: the script's own name for what is said. The rest as in :func:`in_any_chunks`.
    """
    raw = b"".join(script([(part, pieces)]))
    letters = script([(part, list("".join(pieces)))])
    await in_any_chunks(settings, raw, pieces, places, ask, blocked=blocked, also=[letters])


async def in_any_chunks(
    settings: Settings,
    raw: bytes,
    pieces: Sequence[str],
    places: Sequence[int],
    ask: Ask,
    *,
    blocked: str = "content_filter",
    kind: str = "text/event-stream",
    also: Sequence[Sequence[bytes]] = (),
) -> None:
    """Check what is let out when the engine sends ``raw``, the answer that says ``pieces``.

    It is sent whole, cut at ``places`` and byte by byte, and then ``also``. ``ask`` returns the
    text of an answer and how it ended (``blocked``: as blocked ones do); all have to be the same,
    and what the whole text's own verdict allows.
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
    text, reason = results[0]
    _may_have_said(settings, pieces, text, blocked=reason == blocked)


def _may_have_said(settings: Settings, pieces: Sequence[str], text: str, *, blocked: bool) -> None:
    moderator = Moderator(settings.policy)
    assert moderator.check_output("".join(pieces)).blocked is blocked
    assert not moderator.check_output(text).blocked
    if not blocked:
        session = moderator.session()
        assert text == session.feed("".join(pieces)).text + session.finish().text
