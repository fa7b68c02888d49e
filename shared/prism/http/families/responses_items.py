"""The items of a response: what they are, what of them went out, how they look."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prism.http.family import Json
from prism.http.logprobs import Queue


@dataclass(frozen=True, slots=True)
class Form:
    """How a kind of part comes in pieces."""

    kind: str
    event: str  # "response.<event>.delta" and ".done"
    key: str  # of the whole text, in the part and in the event that ends it
    channel: str
    place: str = ""  # the event's key for the part's number
    frame: str = ""  # "response.<frame>.added" and ".done" around it


TEXT = Form("output_text", "output_text", "text", "text", "content_index", "content_part")
REFUSAL = Form("refusal", "refusal", "refusal", "refusal", "content_index", "content_part")
REASONING = Form(
    "reasoning_text", "reasoning_text", "text", "reasoning", "content_index", "content_part"
)
SUMMARY = Form(
    "summary_text", "reasoning_summary_text", "text", "summary", "summary_index",
    "reasoning_summary_part",
)  # fmt: skip
ARGUMENTS = Form("arguments", "function_call_arguments", "arguments", "arguments")
INPUT = Form("input", "custom_tool_call_input", "input", "arguments")
FORMS = (TEXT, REFUSAL, REASONING, SUMMARY, ARGUMENTS, INPUT)

CALLS = {"function_call": ARGUMENTS, "custom_tool_call": INPUT}
KINDS = frozenset({"message", "reasoning", *CALLS})
LISTS: dict[str, dict[str, tuple[Form, ...]]] = {
    "message": {"content": (TEXT, REFUSAL)},
    "reasoning": {"content": (REASONING,), "summary": (SUMMARY,)},
}
"""Where an item's parts are."""


@dataclass(slots=True)
class Part:
    """One text of an item."""

    form: Form
    number: int
    channel: str
    raw: list[str] = field(default_factory=list)  # the engine's
    text: list[str] = field(default_factory=list)  # the client's
    queue: Queue | None = None
    logprobs: list[Json] = field(default_factory=list)
    shown: bool = False
    over: bool = False

    @property
    def said(self) -> str:
        """All of it that went out."""
        return "".join(self.text)

    def body(self) -> Json:
        """Return the part as a client sees it."""
        shown: Json = {"type": self.form.kind, self.form.key: self.said}
        if self.form is TEXT:
            shown |= {"annotations": [], "logprobs": self.logprobs}
        return shown


@dataclass(slots=True)
class Item:
    """One item of the output."""

    kind: str
    head: Json
    base: str  # of its channels' names
    index: int | None = None  # the client's, once the item was announced
    parts: dict[tuple[Form, int], Part] = field(default_factory=dict)
    over: bool = False
    status: str = "in_progress"

    def part(self, form: Form, number: int) -> Part:
        """Return a part, made on its first mention."""
        if (form, number) not in self.parts:
            channel = f"{self.base}.{form.kind}.{number}.{form.channel}"
            self.parts[form, number] = Part(form, number, channel)
        return self.parts[form, number]

    def body(self, status: str, *, empty: bool = False) -> Json:
        """Return the item as a client sees it."""
        parts = [] if empty else [part for part in self.parts.values() if part.shown]
        shown = {"type": self.kind, **self.head, "status": status}
        if self.kind in CALLS:
            shown[CALLS[self.kind].key] = "".join(part.said for part in parts)
            return shown
        for name, forms in LISTS[self.kind].items():
            shown[name] = [part.body() for part in parts if part.form in forms]
        if self.kind == "message":
            shown["role"] = "assistant"
        return shown


def texts_of(output: list[Json]) -> list[str]:
    """Return what the items of a response say, without their names and marks."""
    found: list[str] = []
    for item in output:
        for name, forms in LISTS.get(item["type"], {}).items():
            keys = {form.kind: form.key for form in forms}
            found += [part[keys[part["type"]]] for part in item.get(name, ())]
        found += [item[key] for key in ("name", "arguments", "input") if key in item]
    return found


def keys_of(body: Json, item: Json) -> list[tuple[str, Any]]:
    """Return the names that an engine may call an item by.

    vLLM counts items; llama-server names them by id, or a call by its ``call_id``.
    """
    named: list[tuple[str, Any]] = []
    index = body.get("output_index")
    if isinstance(index, int) and not isinstance(index, bool):
        named.append(("output_index", index))
    for value in (body.get("item_id"), item.get("id"), item.get("call_id")):
        if isinstance(value, str) and value and ("id", value) not in named:
            named.append(("id", value))
    return named
