"""Decoders of disguises, each a transducer: characters in, decoded characters with their places
out.

Every decoder reads character by character and emits as soon as a character is certain, so that what
it emits is the same for any chunking. ``Decoded`` runs carry, per character, the half-open span of
the input that it came from.
"""

from __future__ import annotations

import codecs
import html
import re
from array import array
from dataclasses import dataclass, field

MIN_DECODED = 4
"""Characters that must decode before a run is read as text: shorter runs are ordinary words."""

_REPLACEMENT = "\ufffd"
_TAGS = 0xE0000
"""Tags: ASCII that nobody sees and models read; behind a flag they spell its name."""
_TRIGGER = re.compile(r"[%&\\\U000e0020-\U000e007e]")
_LONGEST_ESCAPE = 32
_ESCAPE = re.compile(
    r"%(?P<url>[0-9A-Fa-f]{2})|\\x(?P<x>[0-9A-Fa-f]{2})|\\u(?P<u>[0-9A-Fa-f]{4})"
    r"|\\u\{(?P<b>[0-9A-Fa-f]{1,6})\}|\\U(?P<U>[0-9A-Fa-f]{8})|\\(?P<gap>[nrtbfv])"
    r"|&#(?P<d>0{0,16}[0-9]{1,7})(?![0-9]);?|&#[xX](?P<h>0{0,16}[0-9A-Fa-f]{1,6})(?![0-9A-Fa-f]);?"
    r"|&(?P<name>[A-Za-z][A-Za-z0-9]{1,30};)|(?P<tag>[\U000e0020-\U000e007e])"
)
_ESCAPE_PREFIX = re.compile(
    r"%[0-9A-Fa-f]?|\\(x[0-9A-Fa-f]?|u[0-9A-Fa-f]{0,3}|u\{[0-9A-Fa-f]{0,6}|U[0-9A-Fa-f]{0,7})?"
    r"|&(#0{0,16}[0-9]{0,7}|#[xX]0{0,16}[0-9A-Fa-f]{0,6}|[A-Za-z][A-Za-z0-9]{0,30})?"
)


@dataclass(slots=True)
class Decoded:
    """Decoded text; ``starts[i]:ends[i]`` is where its character ``i`` came from in the input."""

    text: list[str] = field(default_factory=list)
    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))

    def put(self, char: str, start: int, end: int) -> None:
        """Append one character (or several that share one span)."""
        for one in char:
            self.text.append(one)
            self.starts.append(start)
            self.ends.append(end)


class Utf8:
    """Incremental UTF-8 with the span of each character; bad bytes become U+FFFD."""

    __slots__ = ("_decoder", "_pending", "_start")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._start = 0
        self._pending = False

    def clone(self) -> Utf8:
        """Return an independent decoder in the same state."""
        twin = Utf8()
        twin._decoder.setstate(self._decoder.getstate())
        twin._start, twin._pending = self._start, self._pending
        return twin

    @property
    def pending_from(self) -> int | None:
        """Where an incomplete character began, if there is one."""
        return self._start if self._pending else None

    def put(self, byte: int, start: int, end: int, out: Decoded) -> None:
        """Decode one byte that came from ``start:end``."""
        if not self._pending:
            self._start = start
        out.put(self._decoder.decode(bytes((byte,))), self._start, end)
        self._pending = bool(self._decoder.getstate()[0])

    def flush(self, end: int, out: Decoded) -> None:
        """End a run of bytes."""
        out.put(self._decoder.decode(b"", True), self._start, end)
        self._decoder.reset()
        self._pending = False


class Unescaper:
    r"""URL, HTML, ``\x``, ``\u``, ``\U`` and ``\n`` escapes, tags; all else passes as it is."""

    __slots__ = ("_at", "_pending", "_utf8", "decoded_any")

    def __init__(self, at: int) -> None:
        self._at = at  # offset of the next character of the input
        self._pending = ""  # input not yet settled; ends at _at
        self._utf8 = Utf8()
        self.decoded_any = False

    def clone(self) -> Unescaper:
        """Return an independent decoder in the same state."""
        twin = Unescaper(self._at)
        twin._pending, twin._utf8 = self._pending, self._utf8.clone()
        twin.decoded_any = self.decoded_any
        return twin

    @property
    def pending_from(self) -> int | None:
        """Where input that is not yet settled begins, if there is any."""
        if self._utf8.pending_from is not None:
            return self._utf8.pending_from
        return self._at - len(self._pending) if self._pending else None

    @staticmethod
    def first_trigger(text: str) -> int | None:
        """Return where the first escape of ``text`` is, or one that its end cuts off."""
        found = _ESCAPE.search(text)
        if found:
            return found.start()
        for trigger in _TRIGGER.finditer(text, max(0, len(text) - _LONGEST_ESCAPE)):
            if _ESCAPE_PREFIX.fullmatch(text, trigger.start()):
                return trigger.start()
        return None

    def feed(self, text: str) -> Decoded:
        """Read more input."""
        buffer = self._pending + text
        base = self._at - len(self._pending)
        self._at += len(text)
        out = Decoded()
        position = self._drain(buffer, base, out, final=False)
        self._pending = buffer[position:]
        return out

    def finish(self) -> Decoded:
        """Read the end of the input."""
        out = Decoded()
        base = self._at - len(self._pending)
        self._drain(self._pending, base, out, final=True)
        self._utf8.flush(self._at, out)
        self._pending = ""
        return out

    def _drain(self, buffer: str, base: int, out: Decoded, *, final: bool) -> int:
        i, size = 0, len(buffer)
        while i < size:
            trigger = _TRIGGER.search(buffer, i)
            stop = trigger.start() if trigger else size
            if stop > i:
                self._utf8.flush(base + i, out)
                out.text.extend(buffer[i:stop])
                out.starts.extend(range(base + i, base + stop))
                out.ends.extend(range(base + i + 1, base + stop + 1))
                i = stop
                continue
            found = _ESCAPE.match(buffer, i)
            # "&#12" may go on; so may any escape that the buffer cuts off.
            cut = size - i <= _LONGEST_ESCAPE and (
                found.end() == size and found.group()[-1] != ";" and found.group()[0] == "&"
                if found
                else _ESCAPE_PREFIX.fullmatch(buffer, i) is not None
            )
            if cut and not final:
                return i
            if found is None:
                self._utf8.flush(base + i, out)
                out.put(buffer[i], base + i, base + i + 1)
                i += 1
                continue
            self._emit(found, base, out)
            i = found.end()
        return i

    def _emit(self, found: re.Match[str], base: int, out: Decoded) -> None:
        start, end = base + found.start(), base + found.end()
        kind, value = found.lastgroup, found.group(found.lastgroup or 0)
        if kind in ("url", "x"):
            self.decoded_any = True
            self._utf8.put(int(value, 16), start, end, out)
            return
        self._utf8.flush(start, out)
        if kind == "gap":  # in JSON, as in tool calls, a line break is two characters
            decoded = " "
            self.decoded_any = True
        elif kind == "name":
            decoded = html.unescape(f"&{value}")
            self.decoded_any |= decoded != f"&{value}"
        elif kind == "tag":
            decoded = chr(ord(value) - _TAGS)
            self.decoded_any = True
        else:
            code = int(value, 10 if kind == "d" else 16)
            decoded = chr(code) if code < 0x110000 else _REPLACEMENT
            self.decoded_any = True
        out.put(decoded, start, end)


_BASE64_VALUE = {c: i for i, c in enumerate(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
)} | {"-": 62, "_": 63}  # fmt: skip


_LINE = frozenset(b"\t\n\r")


def _readable(text: str) -> bool:
    return all(c.isprintable() or c in "\t\n\r" for c in text) and _REPLACEMENT not in text


class BytesReader:
    """A run that may be encoded bytes: base64 (6 bits a character) or hex (4 bits).

    ``dead`` as soon as the bytes can't be readable UTF-8, which ordinary words reach at once.
    """

    __slots__ = ("_bits", "_count", "_places", "_utf8", "dead", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self._bits = 0
        self._count = 0
        self._places: list[int] = []  # where the characters behind the leftover bits are
        self._utf8 = Utf8()
        self.dead = False

    def clone(self) -> BytesReader:
        """Return an independent reader in the same state."""
        twin = BytesReader(self.width)
        twin._bits, twin._count, twin._places = self._bits, self._count, self._places[:]
        twin._utf8, twin.dead = self._utf8.clone(), self.dead
        return twin

    @property
    def leftover(self) -> int:
        """How many bits of the next byte are known."""
        return self._count

    def put(self, value: int, at: int, out: Decoded) -> None:
        """Read one character worth ``width`` bits at input offset ``at``."""
        self._bits = (self._bits << self.width) | value
        self._count += self.width
        self._places.append(at)
        if self._count < 8:
            self._check_continuation()
            return
        self._count -= 8
        byte = self._bits >> self._count
        self._bits &= (1 << self._count) - 1
        before = len(out.text)
        self._utf8.put(byte, self._places[0], at + 1, out)
        self._places = [at] if self._count else []
        if not _readable("".join(out.text[before:])):
            self.dead = True
            del out.text[before:], out.starts[before:], out.ends[before:]
        self._check_continuation()

    def _check_continuation(self) -> None:
        # Inside a character of several bytes the next one begins with the bits 10.
        if self._utf8.pending_from is not None and self._count >= 2:
            self.dead |= self._bits >> (self._count - 2) != 0b10

    def forget_zero(self) -> bool:
        """Drop a leading ``0`` digit of ``0x``; return whether there was one."""
        if self._count == 4 and self._bits == 0 and self.width == 4:
            self._count, self._places = 0, []
            return True
        return False

    @property
    def pending_from(self) -> int | None:
        """Where bytes that are still incomplete begin, if a visible character may come of them."""
        if self.dead:
            return None
        if self._utf8.pending_from is not None:
            return self._utf8.pending_from
        if not self._count:
            return None
        shift = 8 - self._count
        low = self._bits << shift
        high = low + (1 << shift) - 1
        # Visible ASCII, or the first byte of a longer character.
        visible = low <= 0x7E and high >= 0x21
        return self._places[0] if visible or (low <= 0xF4 and high >= 0xC2) else None


def _readable_pairs() -> frozenset[str]:
    """Return the pairs of base64 characters that readable text can begin with."""
    pairs = []
    for a, high in _BASE64_VALUE.items():
        for b, low in _BASE64_VALUE.items():
            byte, rest = (high << 6 | low) >> 4, low & 0xF
            ascii_ = 0x20 <= byte < 0x7F or byte in _LINE
            if ascii_ or (0xC2 <= byte <= 0xF4 and rest >> 2 == 0b10):
                pairs.append(a + b)
    return frozenset(pairs)


_READABLE_PAIRS = _readable_pairs()


def may_be_base64(word: str) -> bool:
    """Return whether ``word`` may decode to readable text, going by its first two characters."""
    return len(word) < 2 or word[:2] in _READABLE_PAIRS


def base64_value(char: str) -> int | None:
    """Return the six bits of a base64 or base64url character."""
    return _BASE64_VALUE.get(char)
