"""Receipts: what was really checked for one answer. Counts and names, never text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from prism.types import Decision, TierState

HEADER = "x-prism-receipt"
"""Header that carries the receipt of an answer in one piece."""


_COMPACT = json.JSONEncoder(separators=(",", ":"))  # ``json.dumps`` would make one at each call


@dataclass(frozen=True, slots=True)
class Receipt:
    """A statement about one answer.

    ``channels`` counts the characters that were judged per kind of channel (``prompt``,
    ``content``, ``reasoning``, ``arguments`` …); a kind that isn't there was not run. ``unread``
    names what no tier of this server can read, such as images. ``layers`` names the layers that
    were live. ``tiers`` says per stage what became of each tier: ``ran``,
    ``settled_by_cheaper_tier``, ``failed`` or ``not_run``; ``languages`` what each stage's text was
    in, where somebody looked. ``would``, where that differs from ``action``: what would have been
    done if rules in monitor mode were enforced.
    """

    id: str
    policy: str
    tenant: str
    action: str
    layers: tuple[str, ...]
    would: str | None = None
    stage: str | None = None  # where it was blocked: prompt, output or token
    categories: tuple[str, ...] = ()
    tiers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    channels: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    unread: tuple[str, ...] = ()
    languages: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    choices: int = 0
    blocked_choices: int = 0

    @classmethod
    def of(cls, decision: Decision, **facts: Any) -> Receipt:
        """Return the receipt of ``decision``, with what only the caller knows."""
        differs = decision.would is not decision.action
        return cls(
            policy=decision.policy,
            would=str(decision.would) if differs else None,
            categories=decision.categories,
            tiers={name: TierState(state).value for name, state in decision.tiers.items()},
            languages=dict(decision.languages),
            **{"action": str(decision.action), **facts},
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the receipt as plain data; what does not apply is left out."""
        data: dict[str, Any] = {
            "id": self.id,
            "policy": self.policy,
            "tenant": self.tenant,
            "action": self.action,
            "would": self.would,
            "layers": list(self.layers),
            "stage": self.stage,
            "categories": list(self.categories),
            "tiers": dict(self.tiers),
            "channels": dict(sorted(self.channels.items())),
            "unread": list(self.unread),
            "languages": dict(self.languages),
            "choices": self.choices,
            "blocked_choices": self.blocked_choices,
        }
        return {key: value for key, value in data.items() if value not in (None, [], {})}

    def compact(self) -> str:
        """Return one line of ASCII, fit for a header or a comment in a stream."""
        return _COMPACT.encode(self.as_dict())
