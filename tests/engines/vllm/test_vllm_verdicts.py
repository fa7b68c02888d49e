"""The same prompts as on every other engine, moderated and not: the same verdicts."""

import httpx
import pytest
from engine_texts import SAME_EVERYWHERE
from verdicts import verdicts

from prism.moderator import Moderator

pytestmark = pytest.mark.engine

OPTIONS = {"model": "gemma", "max_tokens": 16, "temperature": 0}


def test_verdicts_are_those_of_every_engine(server, bare_vllm, engine_policy):
    def asked(client, prompt):
        reply = client.post("/v1/completions", json={**OPTIONS, "prompt": prompt})
        choice = reply.json()["choices"][0]
        return choice["text"], choice["finish_reason"]

    with server.client() as client, httpx.Client(base_url=bare_vllm.url, timeout=180) as bare:
        table = verdicts(
            Moderator.from_policy(engine_policy),
            lambda prompt: asked(bare, prompt)[0],
            lambda prompt: asked(client, prompt),
        )
    assert table == SAME_EVERYWHERE
