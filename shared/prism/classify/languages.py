"""Which language a text is in: its script, and for Latin and Cyrillic letters its smallest words.

No model and no data file: this only has to tell the languages that the score models were measured
on from all others, on texts of any length, in microseconds. A text with too few letters to tell is
``UNDETERMINED``; one with enough letters and no language to be seen is ``UNKNOWN``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable

UNDETERMINED = "und"
UNKNOWN = "unknown"

MEASURED = frozenset({"en", "zh"})
"""Languages that the shipped models were measured on and found to work in (docs/models/)."""

_READ = 2_000  # code points that are looked at
_LEAST_LETTERS = 48
_LEAST_WORDS = 2  # of a language's function words, in a short text
_MOST_BETWEEN = 8  # words of a text for each of them

_SCRIPTS: tuple[tuple[int, int, str], ...] = (
    (0x41, 0x5A, "latin"), (0x61, 0x7A, "latin"), (0xC0, 0x24F, "latin"),
    (0x370, 0x3FF, "el"), (0x400, 0x52F, "cyrillic"), (0x530, 0x58F, "hy"), (0x590, 0x5FF, "he"),
    (0x600, 0x6FF, "arabic"), (0x750, 0x77F, "arabic"), (0x900, 0x97F, "hi"), (0x980, 0x9FF, "bn"),
    (0xA00, 0xA7F, "pa"), (0xA80, 0xAFF, "gu"), (0xB80, 0xBFF, "ta"), (0xC00, 0xC7F, "te"),
    (0xC80, 0xCFF, "kn"), (0xD00, 0xD7F, "ml"), (0xD80, 0xDFF, "si"), (0xE00, 0xE7F, "th"),
    (0xE80, 0xEFF, "lo"), (0xF00, 0xFFF, "bo"), (0x1000, 0x109F, "my"), (0x10A0, 0x10FF, "ka"),
    (0x1100, 0x11FF, "ko"), (0x1200, 0x137F, "am"), (0x1780, 0x17FF, "km"),
    (0x1E00, 0x1EFF, "latin"), (0x3040, 0x30FF, "ja"), (0x3130, 0x318F, "ko"),
    (0x3400, 0x4DBF, "han"), (0x4E00, 0x9FFF, "han"), (0xAC00, 0xD7AF, "ko"),
    (0xF900, 0xFAFF, "han"), (0xFF21, 0xFF3A, "latin"), (0xFF41, 0xFF5A, "latin"),
    (0x20000, 0x3134F, "han"),
)  # fmt: skip
_STARTS = [start for start, _, _ in _SCRIPTS]

_WORDS = {
    "en": "the of and to in is you that it for on are with as they be at this have from or not "
    "what all were we when your can there how do does my which their will would an if i me "
    "who why where should could has had was he she his her them just than some any more about "
    "make makes please tell write give get use one out up",
    "de": "der die das und ist nicht ein eine zu den mit von auf ich sie es für dem im wie auch "
    "sich des wird kann was bei sind oder aus einen du wir ihr mir mich dass wenn nach",
    "fr": "le la les des et est un une du dans que qui pour pas sur je vous nous il elle ce au "
    "avec plus par sont comment mon ma votre être cette ne aux ou mais quel",
    "es": "el los las de y es un una que en por para no con se su lo del al como más qué me mi "
    "cómo yo está son pero sus o este esta cuando muy puedo",
    "pt": "o os as de e é um uma que em por para não com se do da no na ao como mais eu meu minha "
    "você está são mas dos das ou este esta quando muito posso à",
    "it": "il lo gli le di e è un una che in per non con si del della dei al come più io mi sono "
    "questo questa ma nel alla anche quando posso ho cosa su da",
    "nl": "de het een en van is dat niet op te in zijn met voor ik je aan er maar om hoe kan wat "
    "ook als bij deze wij naar dit mijn hebben wordt",
    "sv": "och att det som en på är av för med den till inte om ett jag du kan har hur var men vi "
    "från eller min",
    "da": "og at det som en på er af for med den til ikke om et jeg du kan har hvordan var men vi "
    "fra eller min",
    "pl": "i w nie na się jest to że z do jak co o tak ale po czy dla od mnie przez są jestem moje",
    "cs": "a v se na je to že s do jak co o ale po pro jsem které nebo jsou může být tak jako",
    "tr": "ve bir bu için ile ne da de mi nasıl çok daha ben sen var olarak gibi ama değil bana",
    "vi": "và là của không có được cho một những tôi với các người trong này làm như thế nào bạn",
    "id": "yang dan di ini itu dengan untuk tidak dari dalam akan saya pada anda adalah bagaimana "
    "bisa ke apa",
    "ro": "și în de la nu este un o care cu pe pentru ce mai din cum sunt ai să eu",
    "hu": "a az és hogy nem egy is van ez de meg csak mint hogyan vagy én",
    "fi": "ja on ei se että hän oli ovat mutta kuin minä miten tai voi olen tämä",
}
_CYRILLIC = {
    "ru": "и в не на что я с он как это по но из у за от так для вы мы как ты мне бы",
    "uk": "і в не на що я з він як це та але до у за від так для ви ми ти мені або є",
    "bg": "и в не на че аз с той как това по но от за се да е са ти ми или",
}
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def _by_word(lists: dict[str, str]) -> dict[str, tuple[str, ...]]:
    words: dict[str, list[str]] = {}
    for language, text in lists.items():
        for word in text.split():
            if len(word) == 1 and word < "\u0250":
                continue  # a Latin letter by itself is as likely a spelled-out word
            words.setdefault(word, []).append(language)
    return {word: tuple(dict.fromkeys(found)) for word, found in words.items()}


_LATIN_WORDS = _by_word(_WORDS)
_CYRILLIC_WORDS = _by_word(_CYRILLIC)


def detect(text: str) -> str:
    """Return an ISO 639-1 code, ``UNKNOWN`` or ``UNDETERMINED``; the first 2,000 characters count.

    A text in several languages has the one that most of its letters are in.
    """
    head = text[:_READ]
    scripts = _scripts(head)
    letters = sum(scripts.values())
    if not letters:
        return UNDETERMINED
    script, most = scripts.most_common(1)[0]
    if scripts["ja"] and script in ("ja", "han") and scripts["ja"] * 8 >= scripts["han"]:
        return "ja"
    if script == "han":
        return "zh"
    if script == "arabic":
        return _arabic(head)
    if script not in ("latin", "cyrillic"):
        return script
    return _by_words(head, most, _LATIN_WORDS if script == "latin" else _CYRILLIC_WORDS)


def supported(language: str | None) -> bool:
    """Return whether the models were measured on it; what can't be told is held against nobody."""
    return language in MEASURED or language in (UNDETERMINED, None)


def foremost(found: Iterable[str]) -> str | None:
    """Return the language that tells most about several texts: one that isn't supported, if any."""
    known = list(found)
    known.sort(key=lambda language: (supported(language), language == UNDETERMINED))
    return known[0] if known else None


def _scripts(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for char, times in Counter(text).items():
        code = ord(char)
        place = bisect_right(_STARTS, code) - 1
        if place >= 0:
            _, end, script = _SCRIPTS[place]
            if code <= end and char.isalpha():
                # A character of Chinese says as much as several letters.
                found[script] += times * (3 if script == "han" else 1)
    return found


def _arabic(text: str) -> str:
    if any(char in text for char in "ےٹڈڑں"):
        return "ur"
    return "fa" if any(char in text for char in "پچژگ") else "ar"


def _by_words(text: str, letters: int, known: dict[str, tuple[str, ...]]) -> str:
    found: Counter[str] = Counter()
    words = _WORD.findall(text.lower())
    for word in words:
        for language in known.get(word, ()):
            found[language] += 1
    enough = letters >= _LEAST_LETTERS
    most = max(found.values(), default=0)
    # Real sentences are a third such words, and names or code fewer; gibberish has one by chance.
    if most * _MOST_BETWEEN >= len(words) and most >= (1 if enough else _LEAST_WORDS):
        # English wins a draw: it is what short texts and code are most often in.
        return "en" if found["en"] == most else found.most_common(1)[0][0]
    return UNKNOWN if enough else UNDETERMINED
