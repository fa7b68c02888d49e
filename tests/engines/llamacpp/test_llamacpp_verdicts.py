"""The same prompts as on every other engine, moderated and not: the same verdicts."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from engine_texts import SAME_EVERYWHERE
from llama_cpp import Llama
from verdicts import verdicts

from prism.moderator import Moderator

pytestmark = pytest.mark.engine


def test_verdicts_are_those_of_every_engine(
    server: Any, plain: Llama, moderator: Moderator
) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

    def unmoderated(prompt: str) -> str:
        plain.reset()
        return str(plain(prompt, max_tokens=16, temperature=0.0)["choices"][0]["text"])

    def moderated(prompt: str) -> tuple[str, str]:
        reply = client.completions.create(
            model="gemma", prompt=prompt, max_tokens=16, temperature=0
        )
        return reply.choices[0].text, str(reply.choices[0].finish_reason)

    with client:
        assert verdicts(moderator, unmoderated, moderated) == SAME_EVERYWHERE
