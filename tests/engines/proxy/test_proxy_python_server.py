"""``prism proxy`` in front of llama-cpp-python's server, which echoes but in streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from engine_texts import BLOCKED, REFUSAL, STEERED

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def proxy(start_python: Any, start_proxy: Any) -> Iterator[Any]:
    with start_python() as engine, start_proxy(engine.url) as running:
        yield running


@pytest.fixture(scope="module")
def client(proxy: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_the_self_test_went_through_the_engine(proxy: Any) -> None:
    health = httpx.get(f"{proxy.url}/prism/health", timeout=60).json()
    assert health["layers"]["text.output"]["detail"] == (
        "withholds the self-test's phrase in answers "
        "(streams tried on their own: the engine does not echo prompts in them)"
    )


@pytest.mark.parametrize("stream", [False, True])
def test_both_sides_are_judged(client: openai.OpenAI, stream: bool) -> None:
    def ask(prompt: str, **more: Any) -> tuple[str, str | None]:
        answer: Any = client.completions.create(
            model="m", prompt=prompt, stream=stream, max_tokens=20, temperature=0, **more
        )
        text, reason = "", None
        for part in answer if stream else [answer]:
            text += part.choices[0].text
            reason = part.choices[0].finish_reason or reason
        return text, reason

    assert ask(f"Tell me of the {BLOCKED}.") == (REFUSAL, "content_filter")
    says = {"grammar": f'root ::= "The {STEERED}."'}
    assert ask("Hello", extra_body=says) == ("The " if stream else REFUSAL, "content_filter")
    assert ask("Hello", extra_body={"grammar": 'root ::= "Calm."'}) == ("Calm.", "stop")
