"""National identity numbers. Check digits are ``python-stdnum``'s.

A number needs a word for it close before where, without one, two or more of a hundred numbers
of its length would pass for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from stdnum.br import cnpj, cpf
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.pt import nif

from prism.match.pii.numbers import DIGIT
from prism.match.pii.shape import Accept, Shape, starts, whole


def _bare(check: Callable[[str], bool]) -> Accept:
    """Accept what ``check`` accepts once separators are gone."""
    return whole(lambda text: bool(check(re.sub(r"[ .\-/]", "", text).upper())))


def _ssn(number: str) -> bool:
    area, group, serial = number[:3], number[3:5], number[5:]
    return (
        area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"
    )  # fmt: skip


def _nino(number: str) -> bool:
    return number[:2] not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")


def _aadhaar(number: str) -> bool:
    return len(number) == 12 and bool(aadhaar.is_valid(number))


def _words(words: str, others: str = "") -> str:
    """Return the expression for one of ``words`` with no digit between it and the number."""
    spoken = rf"\b(?:{words})\b" + (f"|{others}" if others else "")
    return rf"(?:{spoken})[^0-9\n]{{0,32}}\Z"


_NINO = starts("[A-Za-z]", r"\Z|[A-Za-z](?:\Z|[ \-]?(?:\Z|[0-9]))")
_D = "[0-9LMNP-V]"  # a digit, or the letter that stands for it where two people share a code
_FISCAL = starts(
    "[A-Za-z]",
    rf"(?i:[A-Z]{{0,2}}\Z|[A-Z]{{2}} ?(?:[A-Z]{{0,3}}\Z|[A-Z]{{3}} ?"
    rf"(?:\Z|{_D}(?:\Z|{_D}(?:\Z|[A-EHLMPR-T](?:\Z|{_D}))))))",
)

SHAPES = (
    Shape("us-ssn", DIGIT, r"[0-9]{3}-[0-9]{2}-[0-9]{4}|[0-9]{3} [0-9]{2} [0-9]{4}", _bare(_ssn)),
    Shape(
        "us-ssn", DIGIT, "[0-9]{9}", _bare(_ssn), _words(r"ssn|social[ -]security(?: number| no)?")
    ),
    Shape(
        "uk-nino",
        _NINO,
        r"[A-CEGHJ-PQR-TW-Z][A-CEGHJ-NPQR-TW-Z](?:[ \-]?[0-9]{2}){3}[ \-]?[A-D]",
        _bare(_nino),
        ignore_case=True,
    ),
    Shape(
        "de-steuer-id",
        DIGIT,
        r"[0-9]{2} [0-9]{3} [0-9]{3} [0-9]{3}",
        _bare(idnr.is_valid),
    ),
    Shape(
        "de-steuer-id",
        DIGIT,
        r"[0-9]{11}",
        _bare(idnr.is_valid),
        _words(
            r"steuer-?id(?:nr|-nr)?|idnr|tin|steuer(?:liche )?identifikationsnummer"
            r"|tax (?:id|number)"
        ),
    ),
    Shape(
        "fr-nir",
        DIGIT,
        r"[1-478] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}",
        _bare(nir.is_valid),
        ignore_case=True,
    ),
    Shape("es-dni", DIGIT, r"[0-9]{8}[ \-]?[A-Z]", _bare(dni.is_valid), ignore_case=True),
    Shape(
        "es-dni",
        starts("[XYZxyz]", r"\Z|[ \-]?(?:\Z|[0-9])"),
        r"[XYZ][ \-]?[0-9]{7}[ \-]?[A-Z]",
        _bare(nie.is_valid),
        ignore_case=True,
    ),
    Shape(
        "it-codice-fiscale",
        _FISCAL,
        f"[A-Z]{{3}} ?[A-Z]{{3}} ?{_D}{{2}}[A-EHLMPR-T]{_D}{{2}} ?[A-Z]{_D}{{3}} ?[A-Z]",
        _bare(codicefiscale.is_valid),
        ignore_case=True,
    ),
    Shape(
        "nl-bsn",
        DIGIT,
        r"[0-9]{9}|[0-9]{3}[. ][0-9]{3}[. ][0-9]{3}|[0-9]{4}[. ][0-9]{2}[. ][0-9]{3}",
        _bare(bsn.is_valid),
        _words(r"bsn|burgerservicenummer|sofi-?nummer|citizen service number"),
    ),
    Shape(
        "pt-nif",
        DIGIT,
        r"[0-9]{9}|[0-9]{3}[. ][0-9]{3}[. ][0-9]{3}",
        _bare(nif.is_valid),
        _words(r"nif|contribuinte|n[uú]mero fiscal|tax (?:id|number)"),
    ),
    Shape("br-cpf", DIGIT, r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}|[0-9]{11}", _bare(cpf.is_valid)),
    Shape(
        "br-cnpj",
        DIGIT,
        r"[0-9]{2}\.[0-9]{3}\.[0-9]{3}/[0-9]{4}-[0-9]{2}|[0-9]{14}",
        _bare(cnpj.is_valid),
    ),
    Shape("pl-pesel", DIGIT, "[0-9]{11}", _bare(pesel.is_valid)),
    Shape(
        "cn-resident-id",
        DIGIT,
        "[1-9][0-9]{5}(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])[0-3][0-9]{4}[0-9X]",
        _bare(ric.is_valid),
        ignore_case=True,
    ),
    # A fourth group makes it something else, such as a card.
    Shape(
        "in-aadhaar",
        DIGIT,
        r"[2-9][0-9]{3}([ \-])[0-9]{4}[ \-][0-9]{4}(?:[ \-][0-9])?",
        _bare(_aadhaar),
        _words(r"aadhaa?r|uidai?", "आधार"),
    ),
    Shape(
        "in-aadhaar",
        DIGIT,
        "[2-9][0-9]{11}",
        _bare(_aadhaar),
        _words(r"aadhaa?r|uidai?", "आधार"),
    ),
)
"""Shapes of the kinds in the group ``national-id``."""
