"""Phrases that a policy keeps in text files beside it: long lists, one phrase a line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from prism.documents import Document, Problem, ProblemsError, read_text
from prism.policy.model import MAX_PHRASE, PolicyFile, RuleEntry
from prism.policy.store import display

MAX_LIST = 32 * 1024 * 1024
"""Bytes of a list. A YAML file is much shorter: of each of its values the place is kept."""
COMMENT = "#"
_BESIDE = "name a file beside the policy, or in a folder beside it"
_LETTER = re.compile(r"[0-9A-Za-z]")  # is always left after normalisation
_MOST_PROBLEMS = 20  # of a file that isn't a list of phrases, nobody reads more


def with_lists(
    file: PolicyFile,
    document: Document,
    folder: Path,
    before: Callable[[Path], None] = lambda _: None,
) -> PolicyFile:
    """Return ``file`` with every rule's ``phrases_from`` read into its ``phrases``.

    The names are relative to ``folder``, the policy's own, and stay inside it. ``before`` is told
    of every list just before it is read. Raises ``ProblemsError`` with all that is wrong.
    """
    problems: list[Problem] = []
    rules = []
    for index, rule in enumerate(file.rules):
        if rule.phrases_from is None:
            rules.append(rule)
            continue
        phrases = list(rule.phrases or ())
        for number, name in enumerate(rule.phrases_from):
            at = ("rules", index, "phrases_from")
            place = (*at, number) if document.has((*at, number)) else at
            try:
                path = _locate(name, folder)
                before(path)
                phrases += _read(path)
            except ValueError as error:
                problems.append(document.problem(place, str(error), _BESIDE))
            except ProblemsError as error:
                problems += [
                    p if p.line else document.problem(place, f"{p.file} {p.message}", p.fix)
                    for p in error.problems
                ]
        rules.append(_with_phrases(rule, phrases))
    if problems:
        raise ProblemsError(problems)
    return file.model_copy(update={"rules": rules})


def _locate(name: str, folder: Path) -> Path:
    base = folder.resolve()
    path = (base / name).resolve()
    # A policy that somebody else wrote must not be able to show what lies elsewhere.
    if Path(name).is_absolute() or not path.is_relative_to(base):
        raise ValueError(f"{name[:60]!r} is not inside the policy's folder")
    return path


def _read(path: Path) -> list[str]:
    # Imported late: the tables take numpy along, and `prism --help` needs neither.
    from prism.text import normalise_phrase

    file = display(path)
    text = read_text(
        path, file, kind="a text file", most=MAX_LIST, too_large="split it into several lists"
    )
    phrases: list[str] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.split("\n"), start=1):
        phrase = line.strip()
        if not phrase or phrase.startswith(COMMENT):
            continue
        if len(phrase) > MAX_PHRASE:
            message, fix = f"is longer than {MAX_PHRASE} characters", "write one phrase a line"
        elif not _LETTER.search(phrase) and not normalise_phrase(phrase):
            message = f"nothing of {phrase[:40]!r} is left after normalisation"
            fix = "use letters or digits: punctuation, spaces and invisible characters don't count"
        else:
            phrases.append(phrase)
            continue
        problems.append(Problem(file, number, 1, "", message, fix))
        if len(problems) == _MOST_PROBLEMS:
            break
    if not phrases and not problems:
        problems.append(Problem(file, 1, 1, "", "holds no phrase", "write one phrase a line"))
    if problems:
        raise ProblemsError(problems)
    return phrases


def _with_phrases(rule: RuleEntry, phrases: list[str]) -> RuleEntry:
    values = {name: getattr(rule, name) for name in rule.model_fields_set}
    del values["phrases_from"]
    return RuleEntry.model_construct(**{**values, "phrases": phrases})
