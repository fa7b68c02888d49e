"""Numbers of accounts: payment cards and IBANs, and crypto addresses.

Issuer ranges after ISO/IEC 7812 as the card schemes publish them; IBAN lengths after the SWIFT
registry. Checksums are ``python-stdnum``'s.
"""

from __future__ import annotations

import re

from stdnum import bitcoin, iban, luhn

from prism.match.pii.shape import Shape, anything, starts, whole

_MORE = r"[0-9AaBb][ .\-()/]{0,3}"
DIGIT = starts(
    "[0-9]",
    r"(?<![0-9][.,].)(?<!\+.)(?:"
    rf"[ .\-()/]{{0,3}}(?:{_MORE}){{0,5}}\Z|[ .\-()/]{{0,3}}(?:{_MORE}){{6}}"
    r"|[0-9]{0,2}\.[0-9]{1,3}\.)",
)
"""Where a number may begin that is somebody's: not inside a word, not behind a decimal point or a
plus sign, and not so short that nothing comes of it, unless the text ends there. (A and B stand in
Corsican NIRs.)
"""

_ISSUERS = re.compile(
    r"4|5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"  # Visa, Mastercard
    r"|3[47]|30[0-5]|3[689]|35(?:2[89]|[3-8])"  # American Express, Diners Club, JCB
    r"|6011|64[4-9]|65|62|220[0-4]|60|81|82|508"  # Discover, UnionPay, Mir, RuPay
    r"|50[1-9]|5[6-8]|63[0-9]|67"  # Maestro
)
_GROUPINGS = frozenset({(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (4, 4, 4, 4, 2)})
_SEPARATORS = re.compile(r"[ .\-]")


def _card(text: str) -> tuple[int, int] | None:
    groups = _SEPARATORS.split(text)
    if len(groups) > 1 and len(set(_SEPARATORS.findall(text))) > 1:
        return None
    for count in range(len(groups), 0, -1):  # what follows a card may be its expiry date
        part = groups[:count]
        digits = "".join(part)
        sizes = tuple(map(len, part))
        if (
            (count == 1 or sizes in _GROUPINGS)
            and 12 <= len(digits) <= 19
            and _ISSUERS.match(digits)
            and len(set(digits)) > 1
            and luhn.is_valid(digits)
        ):
            return 0, len(digits) + count - 1
    return None


_IBAN_LENGTHS = (
    "NO15 BE16 BI27 DK18 FI18 FK18 FO18 GL18 NL18 SD18 MK19 SI19 AT20 BA20 EE20 KZ20 LT20 LU20 "
    "XK20 MN20 CH21 CR22 DE22 GB22 GE22 IE22 ME22 RS22 BG22 BH22 VA22 AE23 GI23 IL23 IQ23 OM23 "
    "SO23 TL23 AD24 CZ24 ES24 MD24 PK24 RO24 SA24 SE24 SK24 TN24 VG24 DZ26 PT25 ST25 LY25 IS26 "
    "TR26 DJ27 FR27 GR27 IT27 MC27 MR27 SM27 AL28 AZ28 BY28 CY28 DO28 GT28 HN28 HU28 LB28 NI28 "
    "PL28 SV28 BR29 EG29 PS29 QA29 UA29 JO30 KW30 MU30 YE30 MT31 SC31 LC32 RU33"
)


def _iban_pattern() -> str:
    by_length: dict[int, list[str]] = {}
    for entry in _IBAN_LENGTHS.split():
        by_length.setdefault(int(entry[2:]), []).append(entry[:2])
    return "|".join(
        rf"(?:{'|'.join(countries)})[0-9]{{2}}(?:[ \-]?[A-Z0-9]){{{length - 4}}}"
        for length, countries in sorted(by_length.items())
    )


def _iban(text: str) -> bool:
    number = re.sub(r"[ \-]", "", text).upper()
    # The country's own check digits aren't asked for: the mod-97 ones say enough.
    return bool(iban.is_valid(number, check_country=False))


_BASE58 = "1-9A-HJ-NP-Za-km-z"
_BITCOIN = starts("[13]", rf"\Z|[{_BASE58}]")

SHAPES = (
    Shape("card", DIGIT, r"[0-9]{4}(?:[ .\-][0-9]{1,6}){2,4}|[0-9]{12,19}", _card),
    Shape(
        "iban",
        starts("[A-Za-z]", r"\Z|[A-Za-z](?:\Z|[0-9](?:\Z|[0-9]))"),
        _iban_pattern(),
        whole(_iban),
        ignore_case=True,
    ),
    Shape("crypto", _BITCOIN, rf"[13][{_BASE58}]{{25,34}}", whole(bitcoin.is_valid)),
    Shape(
        "crypto",
        starts("[bB]", r"\Z|[cC](?:\Z|1)"),
        "bc1[02-9ac-hj-np-z]{11,71}",
        whole(bitcoin.is_valid),
        ignore_case=True,
    ),
    Shape("crypto", starts("0", r"\Z|x"), "0x[0-9a-fA-F]{40}", anything),
)
"""Shapes of ``card``, ``iban`` and ``crypto``."""
