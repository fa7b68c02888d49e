"""What a request's body is written in: JSON, or a form with a file.

Either is read into one mapping and written afresh from it, so that the engine's reader never sees
bytes that another reader here took for something else.
"""

from __future__ import annotations

from prism.http.asgi import Scope, header
from prism.http.body import check_media_type, parse_object
from prism.http.errors import dumps
from prism.http.family import Json
from prism.http.form import check_form, parse_form, render_form


class Codec:
    """JSON, and the base of the other."""

    uploads = False
    """Whether a body holds a file, so that the larger of the two size limits is meant."""

    def check(self, scope: Scope) -> None:
        """Raise :class:`~prism.http.errors.UnsupportedBody` for another media type."""
        check_media_type(scope)

    def parse(self, raw: bytes, scope: Scope) -> Json:
        """Return what the body says. Raises :class:`~prism.http.errors.BadRequest`."""
        return parse_object(raw)

    def render(self, body: Json) -> tuple[bytes, bytes]:
        """Return the body that the engine gets, and its content type."""
        return dumps(body), b"application/json"


class FormCodec(Codec):
    """``multipart/form-data``. Values are strings, lists of strings, or one file."""

    uploads = True

    def check(self, scope: Scope) -> None:
        """Raise :class:`~prism.http.errors.UnsupportedBody` for another media type."""
        check_form(scope)

    def parse(self, raw: bytes, scope: Scope) -> Json:
        """Return the fields."""
        return parse_form(raw, header(scope, b"content-type") or "")

    def render(self, body: Json) -> tuple[bytes, bytes]:
        """Return the same fields with a boundary of our own."""
        return render_form(body)


JSON = Codec()
FORM = FormCodec()


def codec_of(family: object) -> Codec:
    """Return the codec that a family names as ``codec``, or JSON's."""
    named = getattr(family, "codec", JSON)
    assert isinstance(named, Codec)
    return named
