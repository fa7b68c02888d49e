"""How to reach somebody: e-mail and IP addresses, phone numbers."""

from __future__ import annotations

import ipaddress
import re

import phonenumbers

from prism.match.pii.numbers import DIGIT
from prism.match.pii.shape import Shape, anything, starts, whole

_LOCAL = r"[\w.%+\-]"
_EMAIL_BEGIN = starts(_LOCAL, rf"(?<!\w'.)(?:{_LOCAL}|'){{0,255}}(?:@|\Z)", before=_LOCAL)
_EMAIL = (
    rf"{_LOCAL}(?:{_LOCAL}|'){{0,255}}@(?:[^\W_](?:\w|-){{0,62}}\.){{1,8}}"
    r"(?:xn--[a-z0-9\-]{2,59}|[^\W\d_]{2,24})"
)


def _ip4(text: str) -> tuple[int, int] | None:
    return _address(text) if text.count(".") == 3 else None


def _address(text: str) -> tuple[int, int] | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    nobody = address.is_loopback or address.is_unspecified
    return None if nobody else (0, len(text))


def _ip6(text: str) -> tuple[int, int] | None:
    # std::find and a::b are code: an address has digits, and some of them.
    plain = re.sub("[^0-9A-Fa-f]", "", text)
    return _address(text) if len(plain) > 4 and re.search("[0-9]", plain) else None


_GAP = re.compile(r"[ .\-()/]+")


def _shorter(text: str) -> list[str]:
    """Return ``text`` and what is left of it as trailing groups are dropped, longest first."""
    return [text, *(text[: gap.start()] for gap in reversed(list(_GAP.finditer(text))))]


def _international(text: str) -> tuple[int, int] | None:
    for part in _shorter(text):
        number = "+" + part[2:] if part.startswith("00") else part
        try:
            parsed = phonenumbers.parse(number)
        except phonenumbers.NumberParseException:
            continue
        check = phonenumbers.is_valid_number if part is not number else (
            phonenumbers.is_possible_number
        )  # fmt: skip
        if check(parsed):
            return 0, len(part)
    return None


def _american(text: str) -> bool:
    digits = re.sub("[^0-9]", "", text)[-10:]
    return digits[0] > "1" and digits[3] > "1"


def _announced(text: str) -> tuple[int, int] | None:
    for part in _shorter(text):
        if 7 <= len(re.sub("[^0-9]", "", part)) <= 15:
            return 0, len(part)
    return None


_SPOKEN = (
    "phone|telephone|tel|mobile|cell|cellphone|fax|whatsapp|sms|call|text|ring|dial|"
    "telefon|telefonnummer|handy|handynummer|mobil|rufnummer|téléphone|portable|teléfono|móvil|"
    "celular|telefone|telemóvel|telefono|cellulare|telefoon|mobiel|телефон|тел|numara|telefonu"
)
_PHONE_WORDS = rf"(?:\b(?:{_SPOKEN})\b|电话|電話|手机|手機|携帯|전화)[^0-9\n]{{0,24}}\Z"
_AMERICAN = r"(?:\([0-9]{3}\) ?|[0-9]{3}[ .\-])[0-9]{3}[ .\-][0-9]{4}"
_PAREN = starts(r"\(")

SHAPES = (
    Shape("email", _EMAIL_BEGIN, _EMAIL, anything),
    Shape("ip", DIGIT, r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:\.[0-9])?", _ip4),
    Shape(
        "ip",
        starts("[0-9A-Fa-f:]", r"[0-9A-Fa-f]{0,3}(?:\Z|:)", before=r"[\w:.]"),
        r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.[0-9]{1,3}){0,3}",
        _ip6,
        after=r"(?![\w:])",
    ),
    Shape("phone", starts(r"\+"), r"\+ ?[1-9](?:[ .\-()/]{0,3}[0-9]){6,14}",
          _international),
    Shape("phone", DIGIT, r"00[1-9](?:[ .\-]?[0-9]){8,13}", _international),
    Shape("phone", DIGIT, rf"(?:1[ .\-])?{_AMERICAN}", whole(_american)),
    Shape("phone", _PAREN, _AMERICAN, whole(_american)),
    Shape(
        "phone",
        DIGIT,
        r"0[1-9](?:[ .\-][0-9]{2}){4}|0[1-9][0-9]{1,3}[ /\-][0-9]{3,4}[ \-][0-9]{3,4}",
        anything,
    ),
    Shape("phone", DIGIT, r"[0-9](?:[ .\-()/]{0,2}[0-9]){6,14}", _announced, _PHONE_WORDS),
    Shape("phone", _PAREN, r"\([0-9](?:[ .\-()/]{0,2}[0-9]){6,14}", _announced, _PHONE_WORDS),
)  # fmt: skip
"""Shapes of ``email``, ``ip`` and ``phone``."""
