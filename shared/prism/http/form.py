"""Forms with a file (``multipart/form-data``), bounded and read once.

A field given twice is refused, but where its name ends in ``[]``: which of the two counts must not
be a guess. A file's name is not passed on, only its ending, which tells its format.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from prism.http.asgi import Scope, headers
from prism.http.errors import BadRequest, UnsupportedBody
from prism.http.family import Json

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELDS = 64
MAX_FIELD_BYTES = 1_000_000
OCTETS = "application/octet-stream"
_FORM = b"multipart/form-data"
_MEDIA = re.compile(r"(?:audio|video)/[A-Za-z0-9.+-]{1,64}")
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,8}$")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}(?:\[\])?")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file: its bytes, the ending of its name, and what media it says it is."""

    data: bytes
    ending: str = ""
    media_type: str = OCTETS


def check_form(scope: Scope) -> None:
    """Raise :class:`UnsupportedBody` unless the body is announced as a form with files."""
    values = headers(scope, b"content-type")
    kind, options = parse_options_header(values[0]) if len(values) == 1 else (b"", {})
    if kind.lower() != _FORM:
        shown = values[0].partition(";")[0][:64] if values else "(none)"
        raise UnsupportedBody(
            f"content-type {shown!r} is not read here; send multipart/form-data",
            code="unsupported_media_type",
        )
    charset = options.get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedBody(
            f"charset {charset[:32]!r} is not read here; send UTF-8", code="unsupported_charset"
        )


def parse_form(raw: bytes, content_type: str) -> Json:
    """Return the fields in order. Raises :class:`BadRequest` that says what is wrong."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise _broken("its content-type names no boundary")
    reader = _Reader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        parser.write(raw)
        parser.finalize()
    except FormParserError as error:
        raise _broken(str(error)[:200]) from None
    if not reader.ended:
        raise _broken("its end is missing")
    return reader.fields


def render_form(body: Json) -> tuple[bytes, bytes]:
    """Return ``body`` as a form, and its content type."""
    boundary = f"prism-{secrets.token_hex(24)}"
    parts: list[bytes] = []
    for name, value in body.items():
        for item in value if isinstance(value, list) else [value]:
            parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode())
            if isinstance(item, Upload):
                head = f'; filename="upload{item.ending}"\r\nContent-Type: {item.media_type}'
                parts += [head.encode(), b"\r\n\r\n", item.data, b"\r\n"]
            else:
                parts += [b"\r\n\r\n", _text(item).encode(), b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), f"multipart/form-data; boundary={boundary}".encode()


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class _Reader:
    """Takes what the parser finds."""

    def __init__(self) -> None:
        self.fields: Json = {}
        self.ended = False
        self._count = 0
        self._key = b""
        self._value = b""
        self._head: dict[bytes, bytes] = {}
        self._data = bytearray()
        self._name = ""
        self._file: str | None = None

    def callbacks(self) -> MultipartCallbacks:
        """Return what the parser is to call."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_key,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_headers_finished": self._on_headers,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._head, self._data = {}, bytearray()
        self._count += 1
        if self._count > MAX_FIELDS:
            raise _broken(f"it has more than {MAX_FIELDS} fields")

    def _on_key(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        key = self._key.lower()
        if key in self._head:
            raise _broken("a part repeats a header")
        if key == b"content-transfer-encoding" and self._value.lower() not in (b"binary", b"8bit"):
            raise _broken("a part is encoded once more")
        self._head[key], self._key, self._value = self._value, b"", b""

    def _on_headers(self) -> None:
        kind, options = parse_options_header(self._head.get(b"content-disposition", b""))
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise _broken("a part has no name")
        self._name = _decoded(name)
        if not _NAME.fullmatch(self._name):
            raise _broken("a part's name has characters other than A-Z a-z 0-9 _ . -")
        file = options.get(b"filename")
        self._file = None if file is None else file.decode("utf-8", "replace")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None and len(self._data) + end - start > MAX_FIELD_BYTES:
            raise _broken(f"{self._name} has more than {MAX_FIELD_BYTES} bytes")
        self._data += data[start:end]

    def _end(self) -> None:
        value: str | Upload
        if self._file is None:
            value = _decoded(bytes(self._data))
        else:
            ending = _ENDING.search(self._file)
            media = self._head.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip()
            known = media if _MEDIA.fullmatch(media) else OCTETS
            value = Upload(bytes(self._data), ending.group() if ending else "", known)
        if self._name.endswith("[]"):
            self.fields.setdefault(self._name, []).append(value)
        elif self._name in self.fields:
            raise BadRequest(
                f"the field {self._name[:64]!r} appears twice",
                param=self._name,
                code="invalid_form",
            )
        else:
            self.fields[self._name] = value

    def _finish(self) -> None:
        self.ended = True


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("a field of the form is not valid UTF-8", code="invalid_utf8") from None


def _broken(why: str) -> BadRequest:
    return BadRequest(f"the form can't be read: {why}", code="invalid_form")
