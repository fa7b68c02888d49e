"""API families: one small module each, behind one protocol."""

from __future__ import annotations

from prism.http.families.anthropic_messages import COUNT_TOKENS, MESSAGES
from prism.http.families.audio import AUDIO
from prism.http.families.cohere_chat import COHERE_CHAT
from prism.http.families.llamacpp_native import NATIVE
from prism.http.families.ollama import CHAT as OLLAMA_CHAT
from prism.http.families.ollama import GENERATE as OLLAMA_GENERATE
from prism.http.families.openai_chat import CHAT
from prism.http.families.openai_completions import COMPLETIONS
from prism.http.families.pooling import POOLING
from prism.http.families.responses import RESPONSES
from prism.http.families.vllm_batch import BATCH_CHAT
from prism.http.families.vllm_generate import GENERATE
from prism.http.families.vllm_invocations import INVOCATIONS
from prism.http.families.vllm_render import RENDERING
from prism.http.family import Family

FAMILIES: tuple[Family, ...] = (
    CHAT,
    COMPLETIONS,
    MESSAGES,
    COUNT_TOKENS,
    RESPONSES,
    NATIVE,
    OLLAMA_CHAT,
    OLLAMA_GENERATE,
    COHERE_CHAT,
    BATCH_CHAT,
    INVOCATIONS,
    GENERATE,
    *RENDERING,
    *POOLING,
    AUDIO,
)

__all__ = ["FAMILIES", "Family"]
