"""A YAML file as a tree of nodes that know their line and column.

The subset is what configuration needs: mappings with text keys, lists, and the scalars of YAML
1.2's core schema. Anchors, aliases, tags and several documents in one file are refused: they buy
little here, an alias can blow a small file up to gigabytes, and a value that stands in one place
only is what lets ``prism policy show`` say where it came from.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from prism.documents.problems import Problem, ProblemsError

MAX_BYTES = 2 * 1024 * 1024
MAX_DEPTH = 24

NodePath = tuple[str | int, ...]
"""Where a value stands: ``("rules", 0, "phrases", 2)``."""

_NULL = re.compile(r"(?:~|null|Null|NULL)?\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]{1,18}\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,4})?\Z")
_BINARY = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its position. ``keys`` has the position of each key of a mapping."""

    value: Any  # a scalar, list[Node] or dict[str, Node]
    line: int
    column: int
    keys: dict[str, tuple[int, int]] | None = None

    def child(self, step: str | int) -> Node | None:
        """Return what stands one ``step`` inside, if anything does."""
        found: Node | None = None
        if isinstance(self.value, dict):
            found = self.value.get(step)
        elif isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            found = self.value[step]
        return found

    def data(self) -> Any:
        """Return the value as plain Python data."""
        if isinstance(self.value, list):
            return [item.data() for item in self.value]
        if isinstance(self.value, dict):
            return {key: item.data() for key, item in self.value.items()}
        return self.value


@dataclass(frozen=True, slots=True)
class Document:
    """A file that was read, with its tree. ``problems``: what is wrong but let the rest be read."""

    file: str
    root: Node
    problems: tuple[Problem, ...] = ()

    def position(self, path: NodePath, *, of_key: bool = False) -> tuple[int, int]:
        """Return line and column of the value at ``path``, or of what is nearest above it.

        ``of_key``: of the key it stands under instead.
        """
        node, where = self.root, (self.root.line, self.root.column)
        for step in path:
            child = node.child(step)
            if child is None:
                break
            where = (child.line, child.column)
            if of_key and node.keys is not None:
                where = node.keys[str(step)]
            node = child
        return where

    def has(self, path: NodePath) -> bool:
        """Return whether something stands at ``path``."""
        node: Node | None = self.root
        for step in path:
            node = node.child(step) if node is not None else None
        return node is not None

    def problem(self, path: NodePath, message: str, fix: str, *, of_key: bool = False) -> Problem:
        """Return a problem with the value (or the key) at ``path``."""
        line, column = self.position(path, of_key=of_key)
        return Problem(self.file, line, column, dotted(path), message, fix)


def dotted(path: NodePath) -> str:
    """Return ``path`` as people write it: ``rules[0].phrases[2]``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def read(path: Path, *, name: str | None = None) -> Document:
    """Read and parse the file at ``path``. Raises ``ProblemsError``."""
    file = name or str(path)
    fix = "split it, with `extends` between"
    return parse(read_text(path, file, kind="a YAML file", most=MAX_BYTES, too_large=fix), file)


def read_text(path: Path, file: str, *, kind: str, most: int, too_large: str) -> str:
    """Return the UTF-8 text at ``path``, of at most ``most`` bytes (a multiple of a MiB).

    ``file`` is what problems call it, ``kind`` what it should be, ``too_large`` what to do about
    one that is longer. Raises ``ProblemsError``.
    """

    def fail(message: str, fix: str, line: int = 0, column: int = 0) -> ProblemsError:
        return ProblemsError([Problem(file, line, column, "", message, fix)])

    try:
        with path.open("rb") as stream:
            raw = stream.read(most + 1)  # bounded: the path may be a device
    except FileNotFoundError:
        raise fail("no such file", "check the path") from None
    except IsADirectoryError:
        raise fail("is a folder, not a file", f"name {kind}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise fail(f"can't be read: {reason}", "check the path and its permissions") from None
    if len(raw) > most:
        raise fail(f"is larger than {most // 1024 // 1024} MiB", too_large)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise fail("is UTF-16, not UTF-8", "save the file as UTF-8", 1, 1)
    if b"\x00" in raw:
        raise fail(
            f"is a binary file, not {kind.split(maxsplit=1)[1].removesuffix(' file')}",
            f"name {kind} saved as UTF-8",
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        before = raw[raw.rfind(b"\n", 0, error.start) + 1 : error.start]
        raise fail(
            f"byte 0x{raw[error.start]:02x} is not valid UTF-8",
            "save the file as UTF-8",
            line,
            len(before.decode("utf-8", "replace")) + 1,
        ) from None


def parse(text: str, file: str) -> Document:
    """Parse ``text``; ``file`` is what problems call it. Raises ``ProblemsError``."""
    if bad := _BINARY.search(text):
        line, column = _position_in(text, bad.start())
        message = f"control character U+{ord(bad[0]):04X} is not allowed in YAML"
        fix = 'remove it, or write it as an escape such as "\\u0007" in double quotes'
        raise ProblemsError([Problem(file, line, column, "", message, fix)])
    builder = _Builder(file)
    try:
        for event in YAML(typ="safe", pure=True).parse(io.StringIO(text)):
            builder.take(event)
    except MarkedYAMLError as error:
        raise ProblemsError([*builder.problems, _syntax_problem(error, file)]) from None
    except (YAMLError, ValueError, NotImplementedError) as error:
        message = f"is not valid YAML: {str(error).splitlines()[0]}"
        raise ProblemsError([Problem(file, 0, 0, "", message, "check the syntax")]) from None
    if builder.refused:
        raise ProblemsError(builder.problems)
    if builder.root is None or builder.root.value is None:
        fix = "write at least one `key: value`"
        raise ProblemsError([Problem(file, 1, 1, "", "is empty", fix)])
    if not isinstance(builder.root.value, dict):
        message = f"must hold keys and values, not {kind(builder.root.value)}"
        line = builder.root.line
        raise ProblemsError([Problem(file, line, 1, "", message, "write `key: …`")])
    return Document(file, builder.root, tuple(builder.problems))


def kind(value: Any) -> str:
    """Return what people call the type of a parsed value."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "keys and values"


class _Builder:
    """Turns the parser's events into nodes, without recursion: depth comes from the file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self.refused = False  # whether the tree is of no use: a value is missing from it
        self._documents = 0
        self._open: list[tuple[Node, list[str | None]]] = []  # containers, each with its open key

    def take(self, event: Event) -> None:
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        if isinstance(event, DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._fail(line, column, "holds more than one document", "remove this `---` line")
        elif isinstance(event, AliasEvent):
            self._note(line, column, f"alias *{event.anchor} is not allowed", "write the value out")
            self._add(Node(None, line, column))
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            self._open.pop()
        elif isinstance(event, ScalarEvent | SequenceStartEvent | MappingStartEvent):
            if event.anchor is not None:
                message = f"anchor &{event.anchor} is not allowed"
                self._note(line, column, message, "remove it and write the value out")
            if event.tag is not None:
                self._note(line, column, f"tag {event.tag} is not allowed", "remove it")
            if isinstance(event, ScalarEvent):
                self._scalar(event, line, column)
            else:
                mapping = isinstance(event, MappingStartEvent)
                node = Node({} if mapping else [], line, column, {} if mapping else None)
                self._add(node)
                if len(self._open) >= MAX_DEPTH:
                    self._fail(
                        line, column, f"is nested deeper than {MAX_DEPTH} levels", "flatten it"
                    )
                self._open.append((node, [None]))

    def _scalar(self, event: ScalarEvent, line: int, column: int) -> None:
        if self._open:
            node, key = self._open[-1]
            if node.keys is not None and key[0] is None:  # keys are text, whatever they look like
                self._key(node, key, event.value, line, column)
                return
        plain = event.style is None or event.style == ""
        value = _plain_scalar(event.value) if plain else event.value
        self._add(Node(value, line, column))

    def _key(self, node: Node, key: list[str | None], name: str, line: int, column: int) -> None:
        assert node.keys is not None
        if name in node.keys:
            first = node.keys[name][0]
            here = f"is already given on line {first}"
            self.problems.append(
                Problem(self.file, line, column, name, here, "keep one of the two")
            )
        else:
            node.keys[name] = (line, column)
        key[0] = name

    def _add(self, node: Node) -> None:
        if not self._open:
            if self.root is None:
                self.root = node
            return
        parent, key = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(node)
        elif key[0] is None:
            self._fail(node.line, node.column, "a key must be text", "write `key: …`")
        else:
            parent.value.setdefault(key[0], node)  # of two equal keys the first counts
            key[0] = None

    def _note(self, line: int, column: int, message: str, fix: str) -> None:
        self.refused = True
        self.problems.append(Problem(self.file, line, column, "", message, fix))

    def _fail(self, line: int, column: int, message: str, fix: str) -> None:
        self._note(line, column, message, fix)
        raise ProblemsError(self.problems)


def _plain_scalar(text: str) -> str | int | float | bool | None:
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text[0] in "tT"
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text) and len(text) < 64:
        return float(text)
    return text


def _syntax_problem(error: MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    if error.context == _IN_A_QUOTE and "end of stream" in str(error.problem):
        mark = error.context_mark  # where the quote begins: the file's end helps nobody
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    problem = str(error.problem or error.context or "invalid syntax")
    return Problem(file, line, column, "", f"is not valid YAML: {problem}", _syntax_fix(problem))


def _syntax_fix(problem: str) -> str:
    for sign, fix in _SYNTAX_FIXES:
        if sign in problem:
            return fix
    return "check indentation, brackets and quotes on this line and the one before"


_IN_A_QUOTE = "while scanning a quoted scalar"
_SYNTAX_FIXES = (
    ("unknown escape character", "in double quotes \\ begins an escape: use single quotes"),
    ("'\\t'", "indent with spaces, not tabs"),
    ("mapping values are not allowed", "put text that holds a colon in quotes"),
    ("unexpected end of stream", "close the quote that begins here"),
    ("expected ',' or", "close the bracket, or put a comma between the items"),
    ("cannot start any token", "put the text in quotes"),
    ("expected <block end>", "give this line the same indentation as its siblings"),
    ("could not find expected ':'", "write `key: value`"),
)


def _position_in(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1


def walk(node: Node, path: NodePath = ()) -> Iterator[tuple[NodePath, Node]]:
    """Yield every node with its path, the root first."""
    yield path, node
    if isinstance(node.value, dict):
        for key, item in node.value.items():
            yield from walk(item, (*path, key))
    elif isinstance(node.value, list):
        for index, item in enumerate(node.value):
            yield from walk(item, (*path, index))
