"""Log-probabilities follow the text: an entry goes out once the text it shows has gone out.

Engines send the entries of a token with the token, while the text may be held back, cut off by a
stop string, or moved to another channel. So entries queue, and one leaves only when its token is
literally the next piece of text released in its choice. What never matches (special tokens, the
tail behind a stop string, redacted words) never leaves. Dropping an entry is always safe.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

_WINDOW = 32
# How far ahead an entry is looked for after one that matched nothing, e.g. half a character.


@dataclass(frozen=True, slots=True)
class Entry:
    """One token's entry. ``data`` is in the family's own form."""

    token: str
    data: Any


@dataclass(slots=True)
class _Track:
    """Released text of one channel, and how much of it entries have shown."""

    text: str = ""
    at: int = 0
    dropped: int = 0  # characters of the channel before text[0]

    @property
    def ahead(self) -> int:
        return len(self.text) - self.at

    def place(self, token: str, window: int) -> int | None:
        """Move past the next ``token``, at most ``window`` away; return where it was."""
        start = self.text.find(token, self.at, self.at + window + len(token))
        if start < 0:
            return None
        self.at = start + len(token)
        return self.dropped + start

    def trim(self, keep: int) -> None:
        """Let go of text that no entry will ask for."""
        self.at = max(self.at, len(self.text) - keep)
        if self.at > 4096:
            self.text, self.dropped, self.at = self.text[self.at :], self.dropped + self.at, 0


class Queue:
    """The entries of one choice, waiting for their text."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._tracks: dict[str, _Track] = {}

    def add(self, entries: list[Entry]) -> None:
        """Queue entries as the engine sent them."""
        self._entries.extend(entries)

    def released(self, channel: str, text: str) -> None:
        """Note that ``text`` went out."""
        if text:
            self._tracks.setdefault(channel, _Track()).text += text

    def take(self, *, final: bool = False) -> list[tuple[Entry, int]]:
        """Return the entries whose text is out, each with its offset in its channel."""
        taken: list[tuple[Entry, int]] = []
        while self._entries:
            entry = self._entries[0]
            at = self._place(entry.token)
            if at is None and not final and self._may_come(entry.token):
                break
            self._entries.popleft()
            if at is not None:
                taken.append((entry, at))
        if not self._entries:
            for track in self._tracks.values():
                track.trim(4 * _WINDOW)
        return taken

    def clear(self) -> None:
        """Forget everything: the choice was blocked."""
        self._entries.clear()
        self._tracks.clear()

    def _place(self, token: str) -> int | None:
        tracks = self._tracks.values()
        if not token:  # no text, nothing shown: e.g. the first bytes of a character
            return max((track.dropped + track.at for track in tracks), default=0)
        for window, wanted in ((0, token), (_WINDOW, token), (_WINDOW, token.strip())):
            for track in tracks:
                at = track.place(wanted, window) if wanted else None
                if at is not None:
                    return at
        return None

    def _may_come(self, token: str) -> bool:
        waiting = [track.ahead for track in self._tracks.values() if track.ahead]
        return all(ahead < _WINDOW + len(token) for ahead in waiting)


def chat_entries(value: Any) -> list[Entry]:
    """Return the entries of a chat choice's ``logprobs``; anything malformed is left out."""
    items = value.get("content") if isinstance(value, dict) else None
    if not isinstance(items, list):
        return []
    return [
        Entry(_token(item), item)
        for item in items
        if isinstance(item, dict) and isinstance(item.get("token"), str)
    ]


def chat_logprobs(taken: list[tuple[Entry, int]], keep_alternatives: bool) -> dict[str, Any]:
    """Return entries in the chat form, alternatives to the sampled token left out."""
    content = []
    for entry, _ in taken:
        # llama-server, asked for post_sampling_probs, names both fields after what they hold.
        name = "top_probs" if "top_probs" in entry.data else "top_logprobs"
        top = entry.data.get(name)
        alternatives = [
            _chat_token(other) if keep_alternatives else _same(entry.data, other)
            for other in (top if isinstance(top, list) else [])
            if isinstance(other, dict)
            and (keep_alternatives or other.get("token") == entry.data.get("token"))
        ]
        content.append({**_chat_token(entry.data), name: alternatives})
    return {"content": content}


def text_entries(value: Any) -> list[Entry]:
    """Return the entries of a completion's ``logprobs`` (four lists side by side).

    llama-server writes those of a chat there instead.
    """
    if isinstance(value, dict) and "content" in value:
        return chat_entries(value)
    if not isinstance(value, dict) or not isinstance(value.get("tokens"), list):
        return []
    entries = []
    for number, token in enumerate(value["tokens"]):
        if not isinstance(token, str):
            continue
        row = [_at(value.get(key), number) for key in ("token_logprobs", "top_logprobs")]
        entries.append(Entry(token, (token, *row)))
    return entries


def text_logprobs(taken: list[tuple[Entry, int]], keep_alternatives: bool) -> dict[str, Any]:
    """Return entries in the form they came in; offsets are those of the released text."""
    if all(isinstance(entry.data, dict) for entry, _ in taken):
        return chat_logprobs(taken, keep_alternatives)
    taken = [pair for pair in taken if isinstance(pair[0].data, tuple)]
    tokens: list[str] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    for entry, _ in taken:
        token, value, top = entry.data
        tokens.append(token)
        values.append(_number(value))
        tops.append(
            {
                key: number
                for key, number in top.items()
                if isinstance(number, int | float) and (keep_alternatives or key == token)
            }
            if isinstance(top, dict)
            else None
        )
    return {
        "text_offset": [at for _, at in taken],
        "token_logprobs": values,
        "tokens": tokens,
        "top_logprobs": tops,
    }


def _token(item: dict[str, Any]) -> str:
    raw = item.get("bytes")
    if isinstance(raw, list) and (exact := _text(raw)) is not None:
        # An entry that shows one thing in words and another in bytes has to answer for both.
        return exact if exact.strip() == item["token"].strip() else item["token"] + exact
    return str(item["token"])


def _same(sampled: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """Return the sampled token where it stands among its alternatives: it shows nothing more."""
    return {**_chat_token(item), **{key: _chat_token(sampled)[key] for key in ("token", "bytes")}}


def _chat_token(item: dict[str, Any]) -> dict[str, Any]:
    token, raw = str(item.get("token", "")), item.get("bytes")
    exact = _text(raw) if isinstance(raw, list) else None
    # Bytes that say another thing than the token are not those of the text that went out.
    fine = exact is not None and exact.strip() == token.strip()
    name = "prob" if "prob" in item else "logprob"
    return {"token": token, name: _number(item.get(name)), "bytes": raw if fine else None}


def _text(raw: list[Any]) -> str | None:
    if not all(isinstance(b, int) and not isinstance(b, bool) and 0 <= b < 256 for b in raw):
        return None
    return bytes(raw).decode("utf-8", "replace")


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return value if known else None


def _at(items: Any, index: int) -> Any:
    return items[index] if isinstance(items, list) and index < len(items) else None
