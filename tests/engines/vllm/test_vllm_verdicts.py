"""The same prompts as on every other engine, moderated and not: the same verdicts."""

import pytest
from engine_texts import POLICY, SAME_EVERYWHERE
from verdicts import verdicts
from vllm_runs import result_of

from prism.moderator import Moderator

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def bare(vllm_model, vllm_env, tmp_path_factory):
    watching = tmp_path_factory.mktemp("policy") / "watching.yaml"
    watching.write_text(POLICY.replace("id: engines", "id: watching\nmode: monitor"))
    return result_of(
        "unmoderated_run.py", vllm_model, env=vllm_env | {"PRISM_POLICY": str(watching)}
    )


def test_verdicts_are_those_of_every_engine(server, bare, engine_policy):
    with server.client() as client:

        def moderated(prompt):
            body = {"model": "gemma", "prompt": prompt, "max_tokens": 16, "temperature": 0}
            choice = client.post("/v1/completions", json=body).json()["choices"][0]
            return choice["text"], choice["finish_reason"]

        moderator = Moderator.from_policy(engine_policy)
        assert verdicts(moderator, bare.__getitem__, moderated) == SAME_EVERYWHERE
