"""The scripted engine speaks every API so that the official clients understand every card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from running import in_thread

from prism.conform.cards import CARDS, asked_for, card, request
from prism.conform.upstream import Upstream

NUMBER = "4f2a"
SLOW = ("dawdle", "slow", "long")
NAMES = [name for name in CARDS if name not in SLOW]
every_card = pytest.mark.parametrize("name", NAMES)
streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with in_thread(Upstream().app) as base:
        yield base


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def asking(name: str) -> list[Any]:
    return [{"role": "user", "content": request(name, NUMBER)}]


@every_card
@streamed
def test_chat(client: openai.OpenAI, name: str, stream: bool) -> None:
    say = card(name, NUMBER).choices[0]
    answer: Any = client.chat.completions.create(model="m", messages=asking(name), stream=stream)
    parts = list(answer) if stream else [answer]
    held = [part.choices[0].delta if stream else part.choices[0].message for part in parts]
    assert "".join(row.content or "" for row in held) == say.text
    thought = "".join(getattr(row, "reasoning_content", None) or "" for row in held)
    assert thought == "".join(say.reasoning)
    arguments = "".join(
        call.function.arguments or "" for row in held for call in row.tool_calls or ()
    )
    assert arguments == ("".join(say.tool.arguments) if say.tool else "")
    assert parts[-1].choices[0].finish_reason == ("tool_calls" if say.tool else "stop")


@every_card
@streamed
def test_completions(client: openai.OpenAI, name: str, stream: bool) -> None:
    answer: Any = client.completions.create(
        model="m", prompt=request(name, NUMBER), stream=stream, logprobs=1
    )
    parts = list(answer) if stream else [answer]
    assert "".join(part.choices[0].text for part in parts) == card(name, NUMBER).text


@every_card
@streamed
def test_responses(client: openai.OpenAI, name: str, stream: bool) -> None:
    say = card(name, NUMBER).choices[0]
    if stream:
        events = list(client.responses.create(model="m", input=request(name, NUMBER), stream=True))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        final: Any = events[-1]
        told = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        assert told == say.text
        response = final.response
    else:
        response = client.responses.create(model="m", input=request(name, NUMBER))
    assert response.output_text == say.text
    assert response.status == "completed"


@every_card
@streamed
def test_messages(url: str, name: str, stream: bool) -> None:
    say = card(name, NUMBER).choices[0]
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        if stream:
            given: Any = {"model": "m", "max_tokens": 9, "messages": asking(name)}
            with client.messages.stream(**given) as events:
                message = events.get_final_message()
        else:
            message = client.messages.create(model="m", max_tokens=9, messages=asking(name))
    blocks: dict[str, Any] = {block.type: block for block in message.content}
    assert (blocks["text"].text if "text" in blocks else "") == say.text
    assert ("tool_use" in blocks) is (say.tool is not None)
    assert message.stop_reason == ("tool_use" if say.tool else "end_turn")


def test_choices_are_streamed_in_turn(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="m", messages=asking("choices"), stream=True, n=2)
    order = [part.choices[0].index for part in stream if part.choices[0].delta.content]
    assert order[:4] == [0, 1, 0, 1]


def test_it_tells_what_reached_it(url: str) -> None:
    said = [{"role": "user", "content": request("split", "cafe")}]
    for stream in (True, False, True):
        httpx.post(
            f"{url}/v1/chat/completions", json={"messages": said, "stream": stream}, timeout=60
        )
    told = httpx.get(f"{url}/conform/asked/cafe", timeout=60).json()
    assert (told["requests"], told["ended"]) == (3, 3)
    assert told["pieces"] == 2 * told["total"]
    none = httpx.get(f"{url}/conform/asked/0000", timeout=60).json()
    assert (none["requests"], none["ended"]) == (0, 0)


def test_a_client_that_leaves_ends_its_answer(url: str) -> None:
    body = {"messages": [{"role": "user", "content": request("dawdle", "beef")}], "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as reply:
        next(reply.iter_bytes())
    assert httpx.get(f"{url}/conform/asked/beef", timeout=60).json()["ended"] == 0


def test_without_a_card_it_answers_like_a_small_engine(url: str) -> None:
    assert httpx.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"] == "conform"
    body = {"prompt": "Say it.", "echo": True}
    got = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
    assert got["choices"][0]["text"] == "Say it.fine"


def test_the_last_card_named_is_meant() -> None:
    texts = [request("hello", "01"), {"deep": [request("split", "02")]}, "card none #03"]
    found = asked_for({"messages": texts})
    assert found is not None
    assert (found.name, found.number) == ("split", "02")
    assert asked_for({"messages": "no card"}) is None
