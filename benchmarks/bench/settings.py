"""What a run was asked for, and what parts are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.rows import Row

Case = Mapping[str, Any]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prism"
GGUF = CACHE / "models" / "gemma-3-270m-q4_k_m.gguf"


@dataclass(frozen=True, slots=True)
class Settings:
    """``quick`` runs are for seeing that everything works; their figures mean nothing."""

    model: str = str(GGUF)
    policy: str = "default"
    quick: bool = False
    rounds: int = 0
    phrases: tuple[int, ...] = ()
    peers: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)

    def times(self, usual: int) -> int:
        """Return how many rounds to do where ``usual`` are right for a run of minutes."""
        return self.rounds or (3 if self.quick else usual)

    def pick(self, usual: int, quick: int) -> int:
        """Return how much of something there is to be."""
        return quick if self.quick else usual

    def counts(self, usual: tuple[int, ...], quick: tuple[int, ...]) -> tuple[int, ...]:
        """Return which sizes to try."""
        return quick if self.quick else usual

    def dump(self) -> str:
        """Write them as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Settings:
        """Read what :meth:`dump` wrote."""
        data = json.loads(text)
        for name in ("phrases", "peers"):
            data[name] = tuple(data[name])
        return cls(**data)


class Part(Protocol):
    """A module of ``bench.parts``. Each of its cases runs in a process of its own."""

    TITLE: str
    ENGINE: bool
    """Whether it needs an inference engine."""

    def cases(self, settings: Settings) -> list[Case]:
        """Return the cases, JSON all of it."""
        ...

    def measure(self, settings: Settings, case: Case) -> Iterator[Row]:
        """Yield rows as they are known."""
        ...
