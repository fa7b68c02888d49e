"""Keys, tokens and passwords. The prefixes are those that the issuers document."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter

from prism.match.pii.shape import Shape, prefixes, starts, whole

_ANY = r"[A-Za-z0-9_\-]"
_KEYS = (
    ("AKIA", "[A-Z0-9]{16}"),  # Amazon
    ("ASIA", "[A-Z0-9]{16}"),
    ("ghp_", "[A-Za-z0-9]{36,251}"),  # GitHub
    ("gho_", "[A-Za-z0-9]{36,251}"),
    ("ghu_", "[A-Za-z0-9]{36,251}"),
    ("ghs_", "[A-Za-z0-9]{36,251}"),
    ("ghr_", "[A-Za-z0-9]{36,251}"),
    ("github_pat_", "[A-Za-z0-9_]{22,244}"),
    ("glpat-", rf"{_ANY}{{20,64}}"),  # GitLab
    ("xoxa-", r"[A-Za-z0-9\-]{10,250}"),  # Slack
    ("xoxb-", r"[A-Za-z0-9\-]{10,250}"),
    ("xoxp-", r"[A-Za-z0-9\-]{10,250}"),
    ("xoxr-", r"[A-Za-z0-9\-]{10,250}"),
    ("xoxs-", r"[A-Za-z0-9\-]{10,250}"),
    ("xapp-", r"[A-Za-z0-9\-]{10,250}"),
    ("sk-", rf"{_ANY}{{20,250}}"),  # OpenAI, Anthropic and others
    ("sk_live_", "[A-Za-z0-9]{16,250}"),  # Stripe
    ("sk_test_", "[A-Za-z0-9]{16,250}"),
    ("rk_live_", "[A-Za-z0-9]{16,250}"),
    ("rk_test_", "[A-Za-z0-9]{16,250}"),
    ("whsec_", "[A-Za-z0-9+/=]{24,100}"),
    ("AIza", rf"{_ANY}{{35}}"),  # Google
    ("ya29.", rf"{_ANY}{{20,250}}"),
    ("GOCSPX-", rf"{_ANY}{{28}}"),
    ("hf_", "[A-Za-z0-9]{30,64}"),  # Hugging Face
    ("gsk_", "[A-Za-z0-9]{40,64}"),  # Groq
    ("xai-", "[A-Za-z0-9]{40,100}"),
    ("nvapi-", rf"{_ANY}{{40,100}}"),
    ("npm_", "[A-Za-z0-9]{36}"),
    ("pypi-", rf"{_ANY}{{50,250}}"),
    ("SG.", rf"{_ANY}{{16,32}}\.{_ANY}{{16,64}}"),  # SendGrid
    ("dop_v1_", "[0-9a-f]{64}"),  # DigitalOcean
    ("shpat_", "[0-9a-fA-F]{32}"),  # Shopify
    ("shpss_", "[0-9a-fA-F]{32}"),
    ("dapi", "[0-9a-f]{32}"),  # Databricks
    ("hvs.", rf"{_ANY}{{24,250}}"),  # Vault
    ("lin_api_", "[A-Za-z0-9]{32,64}"),  # Linear
    ("AGE-SECRET-KEY-1", "[A-Z0-9]{58}"),
)
_FIRST = "".join(sorted({prefix[0] for prefix, _ in _KEYS}))
_KEY = starts(f"[{_FIRST}]", rf"(?<=(?={prefixes(*(prefix for prefix, _ in _KEYS))}).)")


def _entropy(text: str) -> float:
    """Return the bits per character of ``text``, after the frequencies in it."""
    counts = Counter(text).values()
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def _random(text: str) -> bool:
    """Return whether a key's body is one: ``sk-your-api-key-goes-here`` is not."""
    return _entropy(text) >= 3 and re.search("[0-9]", text) is not None


def _jwt(text: str) -> bool:
    head = text.split(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError):
        return False
    return isinstance(header, dict) and "alg" in header


_BODY = re.compile(
    r"(?:(?:\s|\\[rn])+(?:[A-Z][A-Za-z\-]{1,20}:[^\n\\]{0,120}|[A-Za-z0-9+/=]{16,}))*"
)
_LAST_LINE = re.compile(r"(?:\s|\\[rn])+[A-Za-z0-9+/=]+(?:\s|\\[rn])*\Z")


def _pem(text: str) -> tuple[int, int] | None:
    if text.endswith("-----") and "-----END" in text:
        return 0, len(text)
    head = text.index("KEY") + len(text[text.index("KEY") :].split("-----")[0]) + 5
    body = _BODY.match(text, head)
    end = body.end() if body else head
    if end > head and (last := _LAST_LINE.match(text, end)):
        end = last.end()
    return 0, end


_KIND_OF_KEY = r"(?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_PEM = (
    rf"-----BEGIN {_KIND_OF_KEY}"
    r"(?:[A-Za-z0-9+/=\s\\:,.()]|-[A-Za-z0-9]){0,8000}"
    rf"(?:-----END {_KIND_OF_KEY})?"
)

_WORDS = (
    "password|passwd|pwd|passphrase|passcode|secret|secret[ _-]?key|api[ _-]?key|apikey|token|"
    "access[ _-]?(?:key|token)|auth[ _-]?(?:key|token)|client[ _-]?secret|bearer|credential|"
    "passwort|kennwort|contraseña|mot de passe|senha|wachtwoord|пароль"
)
_ANNOUNCES = (
    rf"(?:(?<![^\W_])(?:{_WORDS})|密码|密碼|パスワード)s?[\"'`\])]?"
    r"(?:\s{0,3}(?:[:=]{1,2}|=>)\s{0,2}|\s{1,3}(?:is|was|ist|es|est|é)\s|(?<=bearer)\s)[\"'`]?\Z"
)  # fmt: skip
# Where a value may begin, by the characters before it: cheaper to rule out than the whole context.
_VALUE = (
    "(?:" + "|".join(
        rf"(?<={before})"
        for before in (
            r"[:=>\"'`]", r"[:=>]\s", r"[:=>]\s\s",
            r"\s(?:is|es)\s", r"\s(?:was|ist|est)\s", r"\sé\s",
            r"[bB](?:earer|EARER)\s",
        )
    ) + r")(?=[^\s:=>\"'`,;])"
)  # fmt: skip


def _password(text: str) -> tuple[int, int] | None:
    if text.startswith(("${", "{", "<", "%(")):  # a place for one
        return None
    text = text.rstrip(".:)]}>")
    classes = sum(
        re.search(kind, text) is not None for kind in ("[a-z]", "[A-Z]", "[0-9]", r"[^\w\s]")
    )
    mixed = re.search(r"[0-9]|[^\w\s\-./:]", text) is not None
    return (0, len(text)) if len(text) >= 6 and classes > 1 and mixed and (
        _entropy(text) >= 2.5
    ) else None  # fmt: skip


SHAPES = (
    *(
        Shape(
            "api-key",
            _KEY,
            re.escape(prefix) + body,
            whole(_random),
            after=r"(?![A-Za-z0-9])",
        )
        for prefix, body in _KEYS
    ),
    Shape(
        "jwt",
        starts("e", rf"\Z|{prefixes('yJ')}"),
        rf"eyJ{_ANY}{{10,1000}}\.{_ANY}{{10,4000}}\.{_ANY}{{0,1000}}",
        whole(_jwt),
        after="",
    ),
    Shape(
        "private-key",
        starts("-", rf"\Z|{prefixes('----BEGIN ')}", before="-"),
        _PEM,
        _pem,
        after="",
    ),
    Shape(
        "password",
        _VALUE,
        r"[^\s\"'`,;]{6,200}",
        _password,
        _ANNOUNCES,
        after="",
    ),
)
"""Shapes of the kinds in the group ``secret``."""
