"""Which policy the token layer holds a request of the server to."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_texts import BLOCKED
from llama_cpp.server.settings import ServerSettings

from llamacpp_prism.layer import TokenLayer
from llamacpp_prism.server import ModelSettings, create_app
from prism.config import Settings
from prism.policy import load_policy
from prism.policy.compiled import CompiledPolicy
from prism.steer.stamp import Stamp, current

pytestmark = pytest.mark.engine

OTHERS = "velvet harbour"


@pytest.fixture(scope="module")
def settings(policy: CompiledPolicy, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two policies: only ``other`` blocks ``OTHERS``."""
    path = tmp_path_factory.mktemp("other") / "other.yaml"
    path.write_text(
        "prism: 1\nid: other\nextends: default\nrules:\n  - id: others\n    category: prv\n"
        f"    stages: [prompt, output]\n    phrases: ['{OTHERS}']\n    action: block\n"
    )
    return Settings(policy, others=(load_policy(path),))


def test_the_stamped_policy_applies_or_else_the_strictest(
    make_llama: Any, settings: Settings
) -> None:
    llama = TokenLayer(settings).attach(make_llama(n_ctx=128, n_batch=64))
    own, other = settings.policies
    refusals = [policy.message() for policy in settings.policies.values()]

    def verdicts(stamp: Stamp | None) -> list[bool]:
        """Return whether ``BLOCKED`` and ``OTHERS`` are refused."""
        token = current.set(stamp)
        try:
            answers = [llama(f"About {text}", max_tokens=8) for text in (BLOCKED, OTHERS)]
        finally:
            current.reset(token)
        said = [answer["choices"][0]["text"].strip() for answer in answers]
        return [any(message.startswith(text) for message in refusals) for text in said]

    assert verdicts(None) == [True, True]
    assert verdicts(Stamp(own)) == [True, False]
    assert verdicts(Stamp(other)) == [False, True]
    assert verdicts(Stamp("0" * 64)) == [True, True]  # a policy that nobody here knows


# llama_cpp.server never closes the receiving end of a stream's channel.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_middlewares_stamp_reaches_the_engines_threads(
    settings: Settings, llama_gguf: Path
) -> None:
    """Had it been lost on the way, the strictest policy would refuse ``OTHERS``."""
    model = ModelSettings(model=str(llama_gguf), n_ctx=256, n_batch=64, n_threads=1, verbose=False)
    app = create_app(settings, ServerSettings(), [model])
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=120) as http:
        for _ in range(600):
            if (await http.get("/prism/health")).status_code == 200:
                break
        for stream in (False, True):
            body = {"prompt": f"About {OTHERS}", "max_tokens": 8, "stream": stream}
            answer = await http.post("/v1/completions", json=body)
            assert answer.status_code == 200
            assert "content_filter" not in answer.text
            answer = await http.post("/v1/completions", json={**body, "prompt": BLOCKED})
            assert "content_filter" in answer.text
    await app.selftest.stop()
    gc.collect()  # here, and not in some other test
