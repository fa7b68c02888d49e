"""The kinds of personal data that a rule's ``pii`` may name. No logic, and cheap to import."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

CHECKED = MappingProxyType(
    {
        "card": "payment card numbers: issuer range, length and Luhn check digit",
        "iban": "international bank account numbers: country, length and mod-97 check digits",
        "email": "e-mail addresses",
        "phone": "phone numbers: international, common national forms, others behind a word for it",
        "ip": "IPv4 and IPv6 addresses, save loopback and unspecified ones",
        "crypto": "Bitcoin addresses (checksum) and Ethereum addresses (form)",
        "api-key": "keys and tokens with a known issuer's prefix",
        "jwt": "JSON Web Tokens",
        "private-key": "private keys in PEM",
        "password": "passwords and secrets that are not words, behind a word that announces one",
        "us-ssn": "US social security numbers: areas, groups and serials that are issued",
        "uk-nino": "UK national insurance numbers: prefixes that are issued",
        "de-steuer-id": "German tax identification numbers: check digit",
        "fr-nir": "French social security numbers: check digits",
        "es-dni": "Spanish DNI and NIE: check letter",
        "it-codice-fiscale": "Italian tax codes: check letter",
        "nl-bsn": "Dutch citizen service numbers: check digit, behind a word for it",
        "pt-nif": "Portuguese tax numbers: check digit, behind a word for it",
        "br-cpf": "Brazilian taxpayer numbers of persons: check digits",
        "br-cnpj": "Brazilian taxpayer numbers of companies: check digits",
        "pl-pesel": "Polish personal numbers: date and check digit",
        "cn-resident-id": "Chinese resident identity numbers: place, date and check digit",
        "in-aadhaar": "Indian Aadhaar numbers: Verhoeff check digit",
    }
)
"""Kinds found by form and checksum, exactly, in any chunking of a stream."""

NAMED = MappingProxyType(
    {
        "person": "names of persons",
        "place": "names of places",
        "organisation": "names of organisations",
    }
)
"""Kinds found by a language model of the ``pii`` extra, sentence by sentence."""

GROUPS = MappingProxyType(
    {
        "secret": ("api-key", "jwt", "private-key", "password"),
        "national-id": (
            "us-ssn", "uk-nino", "de-steuer-id", "fr-nir", "es-dni", "it-codice-fiscale",
            "nl-bsn", "pt-nif", "br-cpf", "br-cnpj", "pl-pesel", "cn-resident-id", "in-aadhaar",
        ),
    }
)  # fmt: skip
"""Names for several kinds at once."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one rule looks for. ``held``: whether a match is kept from the client."""

    rule: str
    kinds: tuple[str, ...]
    held: bool


KNOWN = (*CHECKED, *NAMED, *GROUPS)
"""Everything that may stand in a rule's ``pii``."""


def expand(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds meant, sorted, each once, with groups replaced by what is in them."""
    return tuple(sorted({each for kind in kinds for each in GROUPS.get(kind, (kind,))}))
