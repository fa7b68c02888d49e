"""A tool for the model to call."""

from __future__ import annotations

from typing import Any


def note_tool(longest: int) -> dict[str, Any]:
    """Return a tool with one argument, a text of at most ``longest`` characters."""
    text = {"type": "string", "maxLength": longest}
    parameters = {"type": "object", "properties": {"text": text}, "required": ["text"]}
    function = {"name": "note", "description": "Take a note", "parameters": parameters}
    return {"type": "function", "function": function}
