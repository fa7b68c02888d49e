"""Taking the text out of a request of OpenAI's Responses API."""

from __future__ import annotations

from typing import Any

from prism.http import prompts
from prism.http.errors import BadRequest
from prism.http.family import Call, Json, Reading

_REFUSED = {
    "background": "an answer fetched later has passed nobody",
    "request_id": "it would name a stored response, perhaps another's",
    "prompt": "a prompt kept elsewhere can't be judged",
    "conversation": "a conversation kept elsewhere can't be judged",
    "previous_input_messages": "earlier turns are judged as items of 'input'",
}
_TOOLS = frozenset({"function", "custom", "namespace"})
_KNOWN = frozenset({"input", "instructions", "previous_response_id", "include", "truncation"})
_IDS = frozenset({"id", "call_id", "type", "status"})
_LOGPROBS = "message.output_text.logprobs"


def read(body: Json, reading: Reading) -> Call:
    """Check the request and take its text out."""
    prompts.refuse_unsafe(body, reading.engine)
    for key, why in _REFUSED.items():
        if body.get(key) not in (None, False):
            raise _unavailable(key, why)
    for key in ("n", "n_cmpl", "best_of"):
        prompts.integer(body, key, 1, 1, 1)
    _check_tools(body.get("tools"))
    prompts.flag(body, "store")
    found = prompts.Messages()
    instructions = body.get("instructions")
    if instructions is not None:
        if not isinstance(instructions, str):
            raise BadRequest(
                "instructions must be a string", param="instructions", code="invalid_type"
            )
        found.say("system", instructions)
    _read_input(body.get("input"), found)
    said = found.flat
    messages = said + prompts.context(body, _KNOWN, said)
    call = prompts.as_call(body, messages, reading, found.unread)
    call.previous = prompts.text(body, "previous_response_id") or None
    return call


def wants_logprobs(body: Json) -> bool:
    """Whether the client asked for log-probabilities."""
    asked = body.get("include")
    return isinstance(asked, list) and _LOGPROBS in asked


def _check_tools(tools: Any) -> None:
    if tools is None:
        return
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRequest("tools must be a list of objects", param="tools", code="invalid_type")
    for number, tool in enumerate(tools):
        if tool.get("type") not in _TOOLS:
            raise BadRequest(
                f"tools of type {str(tool.get('type'))[:64]!r} are not available on a moderated "
                "server: what they bring the model is not judged",
                param=f"tools[{number}]",
                code="not_moderated",
            )


def _read_input(value: Any, found: prompts.Messages) -> None:
    if isinstance(value, str):
        found.say("user", value)
        return
    if not isinstance(value, list):
        raise BadRequest(
            "input must be a string or a list of items", param="input", code="invalid_type"
        )
    for number, item in enumerate(value):
        _read_item(item, f"input[{number}]", found)


def _read_item(item: Any, where: str, found: prompts.Messages) -> None:
    if not isinstance(item, dict):
        raise BadRequest(f"{where} must be an object", param=where, code="invalid_type")
    kind = item.get("type", "message")
    if kind == "message":
        found.add({key: below for key, below in item.items() if key != "type"}, where)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        rest = {key: below for key, below in item.items() if key not in _IDS | {"output"}}
        found.add({"role": "tool", "content": item.get("output"), **rest}, where)
    elif kind in ("function_call", "custom_tool_call"):
        told = [below for key, below in item.items() if key not in _IDS]
        found.say("assistant", "\n".join(text for below in told for text in prompts.strings(below)))
        found.beside(prompts.decoded(item))
        found.orders({key: below for key, below in item.items() if key != "type"})
    elif kind == "reasoning":
        for name in ("content", "summary"):
            found.say("assistant", *filter(None, map(_text, _list(item.get(name)))))
        found.beside(prompts.strings({k: below for k, below in item.items() if k not in _IDS}))
    else:
        raise BadRequest(
            f"items of type {str(kind)[:64]!r} are not moderated, so not accepted",
            param=where,
            code="not_moderated",
        )
    found.beside(text for key in ("id", "call_id") for text in prompts.strings(item.get(key)))


def _unavailable(key: str, why: str) -> BadRequest:
    return BadRequest(
        f"{key!r} is not available on a moderated server: {why}", param=key, code="not_moderated"
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""
