"""The language a refusal is written in."""

from __future__ import annotations

from collections.abc import Container

_MOST = 16


def pick(accepted: str | None, available: Container[str]) -> str | None:
    """Return the first available locale that an ``Accept-Language`` header asks for, or ``None``.

    A language stands for its regions: ``de-AT`` is served by ``de``.
    """
    ranked: list[tuple[float, str]] = []
    for item in (accepted or "").split(",")[:_MOST]:
        tag, _, weight = item.partition(";")
        if _weight(weight) > 0:
            ranked.append((-_weight(weight), tag.strip()))
    for _, tag in sorted(ranked, key=lambda pair: pair[0]):
        for name in (tag, tag.split("-")[0]):
            if name and name in available:
                return name
    return None


def _weight(text: str) -> float:
    name, _, value = text.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
