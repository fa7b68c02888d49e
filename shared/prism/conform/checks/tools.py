"""Tool calls, in answers and in prompts (complaint 5)."""

from __future__ import annotations

from typing import Any

from prism.conform.apis import CHAT, MESSAGES, RESPONSES, Api
from prism.conform.check import Checks, Failed
from prism.conform.checks.common import BLOCKED_PROMPT, refused, withheld
from prism.conform.target import Target
from prism.conform.texts import ASKED

CHECKS = Checks()
Json = dict[str, Any]
_FUNCTION = {
    "name": "look_up",
    "description": "Looks a note up.",
    "parameters": {"type": "object", "properties": {"note": {"type": "string"}}},
}
_CHAT_TOOL = {"type": "function", "function": _FUNCTION}
_TOOLS: dict[str, Json] = {
    CHAT.name: _CHAT_TOOL,
    RESPONSES.name: {"type": "function", **_FUNCTION},
    MESSAGES.name: {
        "name": "look_up",
        "description": "Looks a note up.",
        "input_schema": _FUNCTION["parameters"],
    },
}


def _said(api: Api, stream: bool) -> None:
    place = f"tools.{api.name}.{'stream' if stream else 'whole'}"
    how = f"{api.path}{', streamed' if stream else ''}"
    tools = [_TOOLS[api.name]]

    @CHECKS.add(f"{place}.arguments", 5, f"{how}: a blocked phrase in a tool call's arguments")
    async def in_arguments(target: Target) -> str:
        return withheld(target, await target.ask(api, "tool", stream=stream, tools=tools))

    @CHECKS.add(f"{place}.harmless", (5, 10), f"{how}: a harmless tool call comes out")
    async def harmless(target: Target) -> str:
        answer = await target.ask(api, "tool-good", stream=stream, tools=tools)
        if not answer.ok:
            raise Failed(f"a harmless tool call was answered {answer.status}")
        if answer.leak("look_up") is None or answer.leak(f"number {answer.number}") is None:
            raise Failed("a harmless tool call came out empty, or not at all")
        return "name and arguments came out"


for _api in (CHAT, RESPONSES, MESSAGES):
    for _stream in (False, True):
        _said(_api, _stream)


def _other(stream: bool) -> None:
    place = f"tools.chat.{'stream' if stream else 'whole'}"
    how = "streamed" if stream else "whole"

    @CHECKS.add(f"{place}.spelled", 5, f"arguments ({how}) that spell the phrase in JSON escapes")
    async def spelled(target: Target) -> str:
        answer = await target.ask(CHAT, "tool-spelled", stream=stream, tools=[_CHAT_TOOL])
        return withheld(target, answer)

    @CHECKS.add(f"{place}.name", 5, f"a tool call ({how}) whose name is the phrase")
    async def name(target: Target) -> str:
        return withheld(target, await target.ask(CHAT, "tool-name", stream=stream))


_other(False)
_other(True)


@CHECKS.add("tools.prompt.result", 5, "a blocked phrase in a tool's result is not read")
async def result(target: Target) -> str:
    def edit(body: Json) -> None:
        call = {"id": "call_1", "type": "function",
                "function": {"name": "look_up", "arguments": "{}"}}  # fmt: skip
        body["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": BLOCKED_PROMPT},
        ]

    return refused(target, await target.ask(CHAT, "hello", edit=edit))


@CHECKS.add("tools.prompt.arguments", 5, "a blocked phrase in an earlier tool call's arguments")
async def arguments(target: Target) -> str:
    def edit(body: Json) -> None:
        call = {"id": "call_1", "type": "function",
                "function": {"name": "look_up", "arguments": f'{{"note": "{ASKED}"}}'}}  # fmt: skip
        body["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "Nothing."},
        ]

    return refused(target, await target.ask(CHAT, "hello", edit=edit))


@CHECKS.add("tools.prompt.description", 5, "a blocked phrase in a tool's description")
async def description(target: Target) -> str:
    function = {**_FUNCTION, "description": BLOCKED_PROMPT}
    tools = [{"type": "function", "function": function}]
    return refused(target, await target.ask(CHAT, "hello", tools=tools))
