"""A policy file as it is written: every key that may stand in it, before inheritance.

Whether a key was written matters (what is not written is inherited), so nothing here has a default
that means something; the compiler fills in what nobody wrote.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from prism.documents import Model, custom_error, did_you_mean, kind, one_of
from prism.taxonomy import HARM, SELFTEST_CATEGORY, RiskEntry, taxonomy
from prism.types import Disguise

SCHEMA_VERSION = 1
MAX_PHRASE = 500
MAX_MESSAGE = 1000
PLAIN_LANGUAGE_THRESHOLD = 0.5
"""From which answer of a guard on a rule in plain language fires that says nothing else."""

ActionName = Literal["allow", "flag", "redact", "steer", "block"]
ModeName = Literal["enforce", "monitor"]
StageName = Literal["prompt", "output"]
Text = Annotated[str, Field(min_length=1)]

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_LOCALE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*\Z")


def _slug(name: str) -> str:
    if not _SLUG.match(name):
        fix = "use up to 64 lower-case letters, digits, `-`, `_` and `.`, a letter or digit first"
        raise custom_error(f"{name[:60]!r} is not a valid id", fix)
    if name.startswith("prism."):
        raise custom_error("ids that begin with 'prism.' are built in", "choose another id")
    return name


def _locale(tag: str) -> str:
    if not _LOCALE.match(tag):
        raise custom_error(f"{tag[:60]!r} is not a language tag", "write it like `en` or `pt-BR`")
    return tag


def _version(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and value != SCHEMA_VERSION:
        message = f"version {value} is not one that this release reads"
        raise custom_error(message, f"write `prism: {SCHEMA_VERSION}`")
    return value


def _message(text: str) -> str:
    if not text.strip():
        raise custom_error("must not be empty", "write what the user shall read")
    return text


def _category(key: str) -> str:
    known = [c for c in taxonomy().categories if c != SELFTEST_CATEGORY]
    if key == SELFTEST_CATEGORY:
        raise custom_error(f"{key!r} is for the built-in self-test only", f"use {one_of(known)}")
    if key not in known:
        raise custom_error(f"{key[:40]!r} is not a category", did_you_mean(key, known))
    return key


def _rule_category(key: str) -> str:
    return key if key == HARM else _category(key)


def _phrase(text: str) -> str:
    # Imported late: the tables take numpy along, and `prism --help` needs neither.
    from prism.text import normalise_phrase

    if not normalise_phrase(text):
        raise custom_error(
            f"nothing of {text[:40]!r} is left after normalisation",
            "use letters or digits: punctuation, spaces and invisible characters don't count",
        )
    return text


def _pattern(pattern: str) -> str:
    from prism.match.regexes import RegexError, check_regex

    if "\b" in pattern:  # in Python as in YAML: a backspace
        raise custom_error(
            "holds a backspace: in double quotes YAML reads \\b as one, and no text has any",
            "put the pattern in single quotes: '\\border-[0-9]{6}\\b'",
        )
    try:
        check_regex(pattern)
    except RegexError as error:
        raise custom_error(str(error), error.fix) from None
    return pattern


def _regex(value: Any) -> Any:
    return {"pattern": value} if isinstance(value, str) else value


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _thresholds(value: Any) -> Any:
    if isinstance(value, bool | str):
        message = f"must be a number, or one for each stage, not {kind(value)}"
        raise custom_error(message, "write `0.8`, or `{prompt: 0.8, output: 0.7}`, without quotes")
    if isinstance(value, int | float):
        _probability(value)  # here, so that a number for both stages is complained of once
        return {"prompt": value, "output": value}
    return value


def _probability(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value <= 1:
        percent = f"did you mean {value / 100:g}?" if 2 <= value <= 100 else "write `0.8`, say"
        raise custom_error(f"{value} is not a probability, from 0 to 1", percent)
    return value


def _disguises(value: Any) -> Any:
    if value == "all":
        return [d.value for d in Disguise]
    return [] if value == "none" else value


def _pii(kind: str) -> str:
    from prism.match.pii.kinds import KNOWN  # late, as above

    if kind not in KNOWN:
        fix = did_you_mean(kind.replace("_", "-"), KNOWN)
        raise custom_error(f"{kind[:40]!r} is not a kind of personal data", fix)
    return kind


Slug = Annotated[str, AfterValidator(_slug)]
PiiKind = Annotated[str, AfterValidator(_pii)]
Locale = Annotated[str, AfterValidator(_locale)]
Message = Annotated[str, Field(max_length=MAX_MESSAGE), AfterValidator(_message)]
CategoryKey = Annotated[str, AfterValidator(_category)]
RuleCategory = Annotated[str, AfterValidator(_rule_category)]
Phrase = Annotated[str, Field(max_length=MAX_PHRASE), AfterValidator(_phrase)]
Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_probability)]
TierState = Literal["on", "off"]
DisguiseName = Literal[
    "spacing", "leet", "repeats", "rot13", "reversed", "base64", "hex", "escapes"
]


class RegexEntry(Model):
    """A regular expression; in a file also just its text."""

    pattern: Annotated[str, AfterValidator(_pattern)] = Field(
        examples=["pattern: 'order-[0-9]{6}'"]
    )
    ignore_case: bool = True


class Thresholds(Model):
    """From which probability on a rule fires; in a file also one number for both stages."""

    prompt: Score | None = Field(None, examples=["prompt: 0.8"])
    output: Score | None = Field(None, examples=["output: 0.8"])


class Tiers(Model):
    """Which score models run; the patterns always do.

    A tier that nobody mentions is on where a rule in effect needs it.
    """

    sketch: TierState | None = Field(None, examples=["sketch: off"])
    encoder: TierState | None = Field(None, examples=["encoder: off"])
    guard: TierState | None = Field(None, examples=["guard: off"])


TIERS = tuple(Tiers.model_fields)


class RuleEntry(Model):
    """A rule as written: a new one, or what changes in an inherited one of the same id."""

    id: Slug = Field(examples=["id: code-names"])
    category: RuleCategory | None = Field(None, examples=["category: prv"])
    stages: list[StageName] | None = Field(
        None, min_length=1, examples=["stages: [prompt, output]"]
    )
    action: ActionName | None = Field(None, examples=["action: block"])
    mode: ModeName | None = Field(None, examples=["mode: enforce"])
    phrases: list[Phrase] | None = Field(None, examples=['phrases: ["zephyr lantern"]'])
    phrases_from: Annotated[list[Text], BeforeValidator(_several)] | None = Field(
        None, min_length=1, examples=["phrases_from: names.txt"]
    )
    boundary: Literal["word", "none"] | None = Field(None, examples=["boundary: word"])
    disguises: Annotated[list[DisguiseName], BeforeValidator(_disguises)] | None = Field(
        None, examples=["disguises: [spacing, leet]"]
    )
    regexes: list[Annotated[RegexEntry, BeforeValidator(_regex)]] | None = Field(
        None, examples=["regexes: ['order-[0-9]{6}']"]
    )
    thresholds: Annotated[Thresholds, BeforeValidator(_thresholds)] | None = Field(
        None, examples=["thresholds: {prompt: 0.8, output: 0.7}"]
    )
    plain_language: Text | None = Field(None, examples=["plain_language: Gives legal advice."])
    pii: list[PiiKind] | None = Field(None, examples=["pii: [email, card]"])
    rationale: Text | None = Field(None, examples=["rationale: Why this rule is here."])
    dissent: Text | None = Field(None, examples=["dissent: Who disagreed, and why."])
    approvers: list[Text] | None = Field(None, examples=["approvers: [ann, bob]"])


class PolicyFile(Model):
    """A policy file."""

    prism: Annotated[int, BeforeValidator(_version)] = Field(examples=["prism: 1"])
    id: Slug = Field(examples=["id: my-policy"])
    title: Text | None = Field(None, examples=["title: House rules"])
    extends: Text | None = Field(None, examples=["extends: default"])
    mode: ModeName | None = Field(None, examples=["mode: enforce"])
    locale: Locale | None = Field(None, examples=["locale: en"])
    messages: dict[Locale, Message] | None = Field(
        None, examples=['messages: {en: "I can\'t help with that."}']
    )
    tiers: Tiers | None = Field(None, examples=["tiers: {encoder: off}"])
    on_tier_failure: Literal["close", "open"] | None = Field(
        None, examples=["on_tier_failure: close"]
    )
    unknown_language: Literal["allow", "flag", "block"] | None = Field(
        None, examples=["unknown_language: flag"]
    )
    token_scores: TierState | None = Field(None, examples=["token_scores: off"])
    watermark: Literal["required", "off"] | None = Field(None, examples=["watermark: required"])
    rationale: Text | None = Field(None, examples=["rationale: Why this policy is as it is."])
    dissent: Text | None = Field(None, examples=["dissent: Who disagreed, and why."])
    approvers: list[Text] | None = Field(None, examples=["approvers: [ann, bob]"])
    rules: list[RuleEntry] = Field([], examples=["rules: [{id: code-names, …}]"])
    marginal_risk: dict[CategoryKey, RiskEntry] | None = Field(
        None, examples=["marginal_risk: {cyb: {baseline: …}}"]
    )
