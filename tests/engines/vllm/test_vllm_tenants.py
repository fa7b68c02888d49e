"""What PRISM asks of vLLM to keep tenants' caches apart, held against vLLM's own classes."""

from __future__ import annotations

from typing import Any

import pytest
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import (
    BatchChatCompletionRequest,
    ChatCompletionRequest,
)
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest
from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys
from vllm.v1.request import Request

from prism.tenants import Pepper

pytestmark = pytest.mark.engine

ASK = [{"role": "user", "content": "hello"}]
REQUESTS: dict[type[Any], dict[str, Any]] = {
    ChatCompletionRequest: {"messages": ASK},
    BatchChatCompletionRequest: {"messages": [ASK]},
    CompletionRequest: {"prompt": "hello"},
    ResponsesRequest: {"input": "hello"},
    AnthropicMessagesRequest: {"messages": ASK, "max_tokens": 5},
    GenerateRequest: {"token_ids": [1], "sampling_params": {}},
}


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_every_kind_of_request_takes_the_salt(kind: type[Any]) -> None:
    salt = Pepper.random().derive("cache_salt", "acme", "the client's own @/\\\x00")
    made = kind.model_validate({"model": "m", "cache_salt": salt, **REQUESTS[kind]})
    assert made.cache_salt == salt


def test_another_salt_is_another_place_in_the_cache() -> None:
    pepper = Pepper.random()
    keys = set()
    for tenant in ("red", "blue", "red"):
        request = Request(
            request_id=tenant,
            prompt_token_ids=[1, 2, 3],
            sampling_params=SamplingParams(),
            pooling_params=None,
            cache_salt=pepper.derive("cache_salt", tenant),
        )
        keys.add(generate_block_hash_extra_keys(request, 0, 3, 0)[0])
    assert len(keys) == 2
