"""Token ids as they come, turned into the text that they add: each piece with its ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prism.http.errors import UpstreamShape
from prism.http.family import Detokenise

_CONTEXT = 6  # ids read again with what follows them: how a token reads can depend on those before
_LONGEST = 8  # ids of one character, at most: bytes on their own
_HALF = "\ufffd"


@dataclass(frozen=True, slots=True)
class Piece:
    """Ids, and the text that they add to what came before: none for special tokens."""

    ids: tuple[int, ...]
    text: str
    entries: tuple[object, ...] = ()  # what else belongs to each id


class TokenText:
    """Reads one choice's ids. ``before`` are the last ids of its prompt."""

    def __init__(self, detokenise: Detokenise, before: Sequence[int] = ()) -> None:
        self._detokenise = detokenise
        self._context = list(before)[-_CONTEXT:]
        self._known = self._read(self._context)
        self._pending: list[int] = []
        self._entries: list[object] = []

    def feed(self, ids: Sequence[int], entries: Sequence[object] = ()) -> list[Piece]:
        """Take more ids; return the pieces that are whole now. Raises :class:`UpstreamShape`.

        An id that is a part of a character waits for the rest of it.
        """
        made: list[Piece] = []
        for place, number in enumerate(ids):
            self._pending.append(number)
            if entries:
                self._entries.append(entries[place])
            text = self._read([*self._context, *self._pending])
            if not text.endswith(_HALF) or len(self._pending) >= _LONGEST:
                made.append(self._piece(text))
        return made

    def finish(self) -> list[Piece]:
        """Return what is left over."""
        if not self._pending:
            return []
        return [self._piece(self._read([*self._context, *self._pending]))]

    def _piece(self, text: str) -> Piece:
        added = text[len(self._known) :] if text.startswith(self._known) else None
        if added is None:  # a context that reads differently now: the new ids by themselves
            added = self._read(self._pending)
        piece = Piece(tuple(self._pending), added, tuple(self._entries))
        self._context = [*self._context, *self._pending][-_CONTEXT:]
        self._known = self._read(self._context)
        self._pending, self._entries = [], []
        return piece

    def _read(self, ids: Sequence[int]) -> str:
        if not ids:
            return ""
        try:
            return self._detokenise(ids, special=False)
        except Exception as error:
            raise UpstreamShape(
                "the engine sent unknown token ids", code="upstream_shape"
            ) from error
