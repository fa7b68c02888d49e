"""The checks, by what was complained of."""

from __future__ import annotations

from prism.conform.check import Check
from prism.conform.checks import (
    bypass,
    channels,
    chunking,
    concurrency,
    cost,
    families,
    lookalikes,
    records,
    streaming,
    tenants,
    tools,
)

COMPLAINTS = {
    1: "streaming is unsupported, or checked too late",
    2: "text leaks out before the block",
    3: "stream: true bypasses, or success is reported though nothing was scanned",
    4: "the Responses and Messages APIs are not covered",
    5: "tool calls are not scanned",
    6: "latency, and extra calls of the model",
    7: "concurrent streams are mixed",
    8: "clients and tenants override each other's rules",
    9: "harmless look-alikes are blocked",
    10: "chunking hangs, or empties the output",
    11: "texts end up in the guardrail's logs",
    12: "each token costs as much as all before it",
}
"""The complaints that are replayed, by number."""

CHECKS: tuple[Check, ...] = (
    *families.CHECKS,
    *streaming.CHECKS,
    *bypass.CHECKS,
    *tools.CHECKS,
    *channels.CHECKS,
    *cost.CHECKS,
    *concurrency.CHECKS,
    *tenants.CHECKS,
    *lookalikes.CHECKS,
    *chunking.CHECKS,
    *records.CHECKS,  # last: it asks what the others left behind
)
"""All of them, in the order in which they run."""
