# Triton compiles these functions from their source: no annotation but ``constexpr`` means anything.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202
"""Whether an output goes in circles: ``prism.steer.circles`` in Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from prism.steer import circles as host

_TIMES = tl.constexpr(host.TIMES)
_TOKENS = tl.constexpr(host.TOKENS)
_LONGEST = tl.constexpr(host.LONGEST)
_LOOK = tl.constexpr(host.LOOK)
_WATCHED = tl.constexpr(host.WATCHED)
_TAIL = tl.constexpr(host.LONGEST * host.TIMES)
_ROOM = tl.constexpr(1 << (host.LONGEST * host.TIMES - 1).bit_length())


@triton.jit
def look_due(turned, here):
    """Whether an output is looked at, ``here`` tokens long, its course changed at ``turned``."""
    since = here - turned
    return (turned >= 0) & (since > 0) & (since <= _WATCHED) & (since % _LOOK == 0)


@triton.jit
def turn_counts(turned, here):
    """Whether a mask that changes the course ``here`` counts, after the one at ``turned``."""
    return (turned < 0) | (here - turned > _WATCHED)


@triton.jit
def _tokens(ids, drafts, first, at, live):
    """Return the tokens at positions ``at``: those from ``first`` on are drafts."""
    old = tl.load(ids + at, mask=live & (at < first), other=0).to(tl.int32)
    new = tl.load(drafts + (at - first), mask=live & (at >= first), other=0).to(tl.int32)
    return tl.where(at < first, old, new)


@triton.jit
def in_circles(ids, drafts, first, prompt, turned, here):
    """Whether the text before ``here`` ends in a circle around the token before ``turned``.

    ``ids`` are its tokens, ``drafts`` those from position ``first`` on.
    """
    i = tl.arange(0, _ROOM)
    at = here - 1 - i
    length = tl.minimum(here - tl.maximum(prompt, turned - _LONGEST), _TAIL)
    tail = _tokens(ids, drafts, first, at, i < length)
    found = tl.full((), 0, tl.int32)
    size = tl.full((), 1, tl.int32)
    while (found == 0) & (size <= _LONGEST):
        span = size * tl.maximum((_TOKENS + size - 1) // size, _TIMES)
        compared = (i < span - size) & (span <= length)
        earlier = _tokens(ids, drafts, first, at - size, compared)
        differs = tl.max((compared & (tail != earlier)).to(tl.int32), 0)
        found = tl.where((span <= length) & (differs == 0), size, found)
        size += 1
    word = _tokens(ids, drafts, first, turned - 1, turned > prompt)
    inside = tl.max(((i < found) & (tail == word)).to(tl.int32), 0)
    return (found > 0) & ((turned == prompt) | (inside != 0))
