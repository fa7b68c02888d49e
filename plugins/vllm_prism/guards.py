"""What a worker needs once: the vocabulary of its model, and a guard per policy."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from prism.config import Settings
from prism.policy import CompiledPolicy
from prism.steer.guard import TokenGuard
from prism.steer.vocabulary import Vocabulary
from vllm_prism.params import stamp_of

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams


class Guards:
    """Compiled guards of every policy the operator configured, shared by all requests."""

    def __init__(self, vllm_config: VllmConfig) -> None:
        from vllm.tokenizers import cached_tokenizer_from_config

        self.settings = Settings.from_env()
        tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
        self.vocabulary = _within(
            Vocabulary.from_tokenizer(tokenizer), vllm_config.model_config.get_vocab_size()
        )
        # The scheduler stops at this one; others of the vocabulary may be sampled and go on.
        self.eos = int(tokenizer.eos_token_id)
        self.compiled()  # now, so that no request waits for it

    @classmethod
    def of(cls, vllm_config: VllmConfig) -> Guards:
        """Return the guards of the model of ``vllm_config``, made once per process."""
        key = id(vllm_config.model_config)
        if key not in _made:
            _made[key] = cls(vllm_config)
            weakref.finalize(vllm_config.model_config, _made.pop, key, None)
        return _made[key]

    def compiled(self) -> list[TokenGuard]:
        """Return the guard of each policy that the operator configured, the strictest first."""
        policies = {
            p.digest: p for p in (self.settings.strictest, *self.settings.policies.values())
        }
        return [TokenGuard.compile(p, self.vocabulary) for p in policies.values()]

    def policy(self, params: SamplingParams) -> CompiledPolicy:
        """Return the policy a request is under: the stamped one, or else the strictest."""
        mark = stamp_of(params)
        if mark is None:
            return self.settings.strictest
        return self.settings.policies.get(mark.digest, self.settings.strictest)

    def guard(self, params: SamplingParams) -> TokenGuard:
        """Return the guard of :meth:`policy`."""
        return TokenGuard.compile(self.policy(params), self.vocabulary)


_made: dict[int, Guards] = {}


def tokens_of(vocabulary: Vocabulary) -> list[bytes | None]:
    """Return every token's bytes, ``None`` for control tokens."""
    raw, bounds = vocabulary.data.tobytes(), vocabulary.offsets.tolist()
    return [
        None if control else raw[start:end]
        for control, start, end in zip(
            vocabulary.control.tolist(), bounds[:-1], bounds[1:], strict=True
        )
    ]


def _within(vocabulary: Vocabulary, width: int) -> Vocabulary:
    """Leave out tokens that the model has no logits for, so that no mask names them."""
    if vocabulary.size <= width:
        return vocabulary
    return Vocabulary(tokens_of(vocabulary)[:width], vocabulary.eos_ids, vocabulary.encode)
