"""Judgements that were given already, under keyed hashes: neither texts nor guessable digests."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, TypeVar

V = TypeVar("V")


class KeyedCache(Generic[V]):
    """A bounded LRU. The key is drawn anew in each process and never leaves it. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._secret = secrets.token_bytes(32)
        self._entries: OrderedDict[bytes, V] = OrderedDict()
        self._lock = threading.Lock()

    def key(self, parts: Iterable[str]) -> bytes:
        """Return the HMAC-SHA-256 of ``parts``, each with its length, so that none runs on."""
        raw = b"".join(
            len(part).to_bytes(8, "big") + part
            for part in (p.encode("utf-8", "surrogatepass") for p in parts)
        )
        return hmac.digest(self._secret, raw, "sha256")

    def get(self, key: bytes) -> V | None:
        """Return the judgement under ``key``, if there is one."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: bytes, value: V) -> None:
        """Keep ``value``; the one unused for longest goes."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)
