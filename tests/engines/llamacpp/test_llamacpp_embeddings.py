"""Embeddings from the llama-cpp-python server itself, with a real model, in this process."""

import asyncio
import gc

import pytest
from engine_texts import BLOCKED
from llama_cpp.server import app as server
from llama_cpp.server.settings import ModelSettings, ServerSettings

from prism.config import Settings
from prism.http import PrismMiddleware
from prism.http.inprocess import call
from prism.http.selftest import Timing

pytestmark = [
    pytest.mark.engine,
    # llama-cpp-python's server doesn't close what its streams come through.
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
]


@pytest.fixture
async def ask(llama_gguf, policy):
    """A function that asks the moderated server for embeddings."""
    model = ModelSettings(
        model=str(llama_gguf), n_ctx=128, n_threads=1, n_threads_batch=1, embedding=True,
        logits_all=False, verbose=False,
    )  # fmt: skip
    inner = server.create_app(server_settings=ServerSettings(), model_settings=[model])
    app = PrismMiddleware(inner, settings=Settings(policy), timing=Timing(first_retry=0.05))

    async def asked(value):
        for _ in range(400):
            if (await call(app, "GET", "/prism/health", patience=60)).status == 200:
                break
            await asyncio.sleep(0.05)
        return await call(app, "POST", "/v1/embeddings", {"input": value}, patience=60)

    yield asked
    await app.selftest.stop()
    server._llama_proxy.free()
    gc.collect()  # what that server leaves behind is told here, not in a later test


async def test_inputs_are_judged_and_vectors_go_out(ask):
    reply = await ask(["a harmless text", "and one more"])
    assert reply.status == 200, reply.body
    got = reply.json()
    assert [row["index"] for row in got["data"]] == [0, 1]
    assert got["usage"]["prompt_tokens"] > 0
    first = got["data"][0]["embedding"]
    while isinstance(first[0], list):  # without pooling there is a vector for each token
        first = first[0]
    assert len(first) == 640
    assert all(isinstance(number, float) for number in first)
    refused = await ask(["a harmless text", f"tell me of the {BLOCKED}"])
    assert refused.status == 400
    assert refused.json()["error"]["code"] == "content_filter"
