"""Lines of the audit log: each carries the digest of the line before, and a seal.

A line is one JSON object. ``prev`` is the SHA-256 of the previous line's bytes, without its line
break (64 zeros in the very first line); ``seq`` counts from 1. ``mac``, always the last key, is
HMAC-SHA-256 over the line's bytes before it. So the chain can be followed by anybody, and a chain
put together anew is told from the real one by whoever has the key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any

VERSION = 1
ZERO = "0" * 64
MIN_KEY = 32
"""Least length of a key, in characters."""

_MAC = b',"mac":"'
_TAIL = len(_MAC) + 64 + len(b'"}')


@dataclass(frozen=True, slots=True)
class Head:
    """A place in the chain: the last line's number and its digest."""

    seq: int = 0
    digest: str = ZERO

    def __str__(self) -> str:
        return f"{self.seq}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Return the head written as ``SEQ:DIGEST``. Raises ``ValueError``."""
        number, _, digest = text.strip().partition(":")
        if not (number.isascii() and number.isdigit() and _is_digest(digest)):
            raise ValueError(f"{text!r} is not SEQ:DIGEST, a number and 64 hexadecimal digits")
        return cls(int(number), digest)


class Keys:
    """What is derived from the operator's key: one for seals, one for fingerprints of texts."""

    def __init__(self, key: bytes) -> None:
        self._seal = hmac.digest(key, b"prism audit: seal", "sha256")
        self._text = hmac.digest(key, b"prism audit: text", "sha256")

    def fingerprint(self) -> hmac.HMAC:
        """Return a fingerprint to be fed a text's UTF-8, piece by piece."""
        return hmac.new(self._text, digestmod="sha256")

    def fingerprint_of(self, text: str) -> str:
        """Return the fingerprint of a text: HMAC-SHA-256 of its UTF-8, in hexadecimal digits."""
        made = self.fingerprint()
        made.update(text.encode("utf-8", "surrogatepass"))
        return made.hexdigest()

    def seal(self, record: dict[str, Any], after: Head) -> tuple[bytes, Head]:
        """Return ``record`` as the line after ``after``, line break included, and the new head."""
        full = {"v": VERSION, "seq": after.seq + 1, "prev": after.digest, **record}
        body = json.dumps(full, separators=(",", ":")).encode()[:-1]
        line = body + _MAC + self._mac(body) + b'"}'
        return line + b"\n", Head(after.seq + 1, digest(line))

    def sealed(self, line: bytes) -> bool:
        """Whether the line (without its break) bears this key's seal."""
        body, rest = line[:-_TAIL], line[-_TAIL:]
        return hmac.compare_digest(rest, _MAC + self._mac(body) + b'"}')

    def head(self, head: Head) -> bytes:
        """Return the file that says where the log ends: always the same length."""
        body = f'{{"seq":{head.seq:>20},"digest":"{head.digest}"'.encode()
        return body + _MAC + self._mac(body) + b'"}\n'

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._seal, body, "sha256").hex().encode()


def digest(line: bytes) -> str:
    """Return the digest that the next line carries."""
    return hashlib.sha256(line).hexdigest()


def read_line(line: bytes) -> dict[str, Any]:
    """Return what a line says. Raises ``ValueError`` that says what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(record, dict):
        raise ValueError("is not a JSON object")
    if record.get("v") != VERSION:
        raise ValueError(f"is of version {record.get('v')!r}, not {VERSION}")
    if not isinstance(record.get("seq"), int) or not isinstance(record.get("prev"), str):
        raise ValueError("lacks its number or its link to the line before")
    return record


def read_head(raw: bytes) -> Head:
    """Return the place that a head file names. Raises ``ValueError``."""
    try:
        record = json.loads(raw)
        return Head.parse(f"{record['seq']}:{record['digest']}")
    except (ValueError, KeyError, TypeError):
        raise ValueError("is not a head file") from None


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
