"""Check a document against a pydantic model; every error gets its position and a way out."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from prism.documents.problems import Problem, ProblemsError, did_you_mean
from prism.documents.tree import Document, NodePath, dotted, kind, walk


class Model(BaseModel):
    """Base of every model of a file: frozen, no coercion, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


M = TypeVar("M", bound=BaseModel)


def custom_error(message: str, fix: str) -> PydanticCustomError:
    """Return what a validator raises: ``message`` says what is wrong, ``fix`` what is right."""
    return PydanticCustomError("prism", "{message}", {"message": message, "fix": fix})


def validate(document: Document, model: type[M]) -> M:
    """Return ``document`` as a ``model``. Raises ``ProblemsError`` with all that is wrong."""
    empty = {path for path, node in walk(document.root) if node.value is None}
    problems = [
        *document.problems,
        *(_empty(document, model, path) for path in sorted(empty, key=str)),
    ]
    try:
        checked = model.model_validate(document.root.data())
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [_problem(document, model, d) for d in details if d["loc"] not in empty]
    if problems:
        raise ProblemsError(problems)
    return checked


def _empty(document: Document, model: type[BaseModel], path: NodePath) -> Problem:
    field = _at(model, path)[1]
    fix = f"for example `{field.examples[0]}`" if field and field.examples else "give it a value"
    return document.problem(path, "is empty", f"{fix}, or remove it", of_key=True)


def _problem(document: Document, model: type[BaseModel], detail: ErrorDetails) -> Problem:
    path: NodePath = tuple(detail["loc"])
    code, context = detail["type"], detail.get("ctx", {})
    owner, field = _at(model, path)
    name = str(path[-1]) if path else ""
    example = f"for example `{field.examples[0]}`" if field and field.examples else ""
    if code == "missing":
        line, column = document.position(path[:-1])
        fix = f"add it, {example}" if example else f"add `{name}: …`"
        return Problem(document.file, line, column, dotted(path), "is missing", fix)
    if code == "extra_forbidden":
        known = list(owner.model_fields) if owner else []
        fix = did_you_mean(name, known, f"the keys here are {', '.join(known)}")
        return document.problem(path, "is not a known key", fix, of_key=True)
    value, fix = detail["input"], example
    if code == "prism":
        message, fix = str(context["message"]), str(context["fix"])
    elif code in ("literal_error", "enum"):
        choices = _choices(context)
        message = f"{_shown(value)} is not a choice here"
        fix = did_you_mean(str(value), choices) if choices else example
    elif code in _EXPECTED:
        message = f"must be {_EXPECTED[code]}, not {kind(value)}"
        fix = _type_fix(code, value) or example or f"write {_EXPECTED[code]}"
    elif code == "string_pattern_mismatch":
        message = f"{_shown(value)} is not a valid name"
    elif code in ("string_too_short", "too_short"):
        message, fix = "must not be empty", example or "write it, or leave the key out"
    elif code in ("string_too_long", "too_long"):
        message, fix = f"is too long (at most {context['max_length']})", "shorten it"
    elif code == "string_unicode":
        message, fix = "holds half a surrogate pair, which is no character", "remove the escape"
    elif code in ("less_than_equal", "greater_than_equal", "less_than", "greater_than"):
        message = detail["msg"].lower().replace("input should be", "must be")
    else:
        message = detail["msg"][:1].lower() + detail["msg"][1:]
    return document.problem(_existing(document, path), message, fix)


_EXPECTED = {
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
}


def _type_fix(code: str, value: Any) -> str:
    if code == "list_type" and isinstance(value, str):
        return f"write it as a list: [{_shown(value)}]"
    if code == "string_type" and isinstance(value, dict):
        return "put text that holds a colon in quotes"
    if code == "string_type" and isinstance(value, bool | int | float):
        return f'put it in quotes: "{str(value).lower()}"'
    return ""


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= 60 else text[:57] + "…")


def _existing(document: Document, path: NodePath) -> NodePath:
    """Cut ``path`` to what stands in the file: a validator may have filled in the rest."""
    node = document.root
    for length, step in enumerate(path):
        child = node.child(step)
        if child is None:
            return path[:length]
        node = child
    return path


def _at(model: type[BaseModel], path: NodePath) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """Return the model that owns the last step of ``path``, and that step's field."""
    owner: type[BaseModel] | None = model
    annotation: Any = model
    field: FieldInfo | None = None
    for step in path:
        annotation = _inner(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            owner, field = annotation, annotation.model_fields.get(str(step))
            annotation = field.annotation if field else None
        elif get_origin(annotation) in (list, tuple):
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
    return owner, field


def _inner(annotation: Any) -> Any:
    """Strip ``Annotated`` and ``| None``."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next(a for a in get_args(annotation) if a is not type(None))
        else:
            return annotation


def _choices(context: Mapping[str, Any]) -> list[str]:
    expected = str(context.get("expected", ""))
    names = expected.replace(" or ", ", ").split(", ")
    return [name.strip("'\"") for name in names if name.strip()]
