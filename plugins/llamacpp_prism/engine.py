"""``guard``: the token layer in a ``llama_cpp.Llama``, wherever it samples."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp import Llama
from llama_cpp.llama_tokenizer import LlamaTokenizer

from llamacpp_prism.errors import (
    InterleavedGenerationError,
    ModerationFailedError,
    RequestError,
    UnsupportedModelError,
)
from llamacpp_prism.gate import Gate, with_gate
from llamacpp_prism.grammar import GrammarState
from llamacpp_prism.printed import Printed
from llamacpp_prism.vocabulary import texts_of, vocabulary_of
from prism.config import Settings
from prism.policy import load_policy
from prism.policy.compiled import CompiledPolicy
from prism.steer.guard import TokenGuard
from prism.steer.stamp import language
from prism.steer.vocabulary import Vocabulary
from prism.steer.watermark import Sampling, Watermark, WatermarkKey

_LEAST_REPEAT_PENALTY = 1e-6
"""The engine multiplies masked logits by it: -inf times 0 is NaN, times -1 is +inf."""
_OPTIONS = tuple(inspect.signature(Llama.generate).parameters)[1:]


class GuardedLlama(Llama):  # type: ignore[misc]
    """A ``Llama`` every token of which went through a ``Gate``. Made by ``guard``."""

    n_tokens: int
    _requires_eval: bool
    _prism_guard: Callable[[], TokenGuard]
    _prism_reason: str
    _prism_key: WatermarkKey | None
    _prism_gate: Gate | None
    _prism_turn: object
    _prism_resume: bool
    _prism_kept: list[int] | None
    """Output tokens that a rewind keeps, until the engine asks for its sampler again."""
    _prism_count: int
    """Tokens that the generation has handed out."""

    def _init_sampler(
        self,
        *,
        logits_processor: Any = None,
        grammar: Any = None,
        repeat_penalty: float = 1.0,
        **options: Any,
    ) -> Any:
        """Build the engine's sampler with the gate in it and the grammar in the gate."""
        if self.draft_model is not None:
            raise UnsupportedModelError(_NO_DRAFTS)
        kept, self._prism_kept = self._prism_kept, None
        if kept is not None and self._prism_resume and self._sampler is not None:
            # The same sampler goes on: one made anew would draw the same random numbers again.
            _penalise(self._sampler, kept)
            return self._sampler
        for name, value in {"repeat_penalty": repeat_penalty, **options}.items():
            if isinstance(value, Real) and not math.isfinite(value):
                raise RequestError(f"{name} must be a finite number, not {value}")
        gate = self._prism_gate
        if gate is None or not self._prism_resume:
            state = None if grammar is None else GrammarState(self._model.vocab, grammar)
            chosen = self._prism_guard()
            sampling = {"repeat_penalty": repeat_penalty, **options}
            gate = Gate(
                chosen,
                state,
                narrowed=bool(logits_processor),
                watermark=self._watermark_of(chosen.policy, sampling),
                locale=language.get(),
            )
        self._prism_gate = gate
        self._prism_resume = True
        return super()._init_sampler(
            logits_processor=with_gate(logits_processor, gate),
            repeat_penalty=max(repeat_penalty, _LEAST_REPEAT_PENALTY),
            **options,
        )

    def _watermark_of(self, policy: CompiledPolicy, options: dict[str, Any]) -> Watermark | None:
        """Return the watermark that ``policy`` demands, sampling as the request asks."""
        if policy.watermark != "required":
            return None
        if self._prism_key is None:  # found out at the start, but a policy may be replaced
            raise UnsupportedModelError(_NO_KEY)
        names = {"temp": "temperature"}
        known = {f.name for f in fields(Sampling)}
        asked = {names.get(name, name): value for name, value in options.items()}
        given = {name: value for name, value in asked.items() if name in known}
        return Watermark(self._prism_key, Sampling(**given, last_n=self.last_n_tokens_size))

    def sample(self, *args: Any, **kwargs: Any) -> int:
        """Return the next token, as ``Llama.sample`` does, once the gate has settled it."""
        token: int = super().sample(*args, **kwargs)
        gate = self._gate
        token = gate.settle(token)
        if self._logits_all:
            gate.hide(self.scores[self.n_tokens - 1])
        return token

    def generate(self, *args: Any, **kwargs: Any) -> Generator[int, Any, None]:
        """Yield tokens as ``Llama.generate`` does, save what is taken back to be said otherwise.

        While tokens are held back, the engine is ahead of what was yielded; whoever is handed one
        finds the context as if it weren't.
        """
        turn = self._prism_turn = object()
        self._prism_resume = False
        self._prism_kept = None
        self._prism_count = 0
        request = {**dict(zip(_OPTIONS, args, strict=False)), **kwargs}
        tokens = super().generate(**request)
        token = next(tokens, None)
        begin = self.n_tokens  # the first token is not evaluated yet
        while token is not None:
            rewinder = self._gate.rewinder
            ready = rewinder.push(token)
            late = rewinder.held > 0 or len(ready) > 1
            if rewinder.held and self.n_tokens >= self._n_ctx:  # the engine can't go on to see
                ready += rewinder.stop()
            for said in ready:
                yield from self._hand_out(said, turn, begin + self._prism_count if late else None)
            if rewinder.place is not None:
                tokens.close()
                tokens = self._rewound(begin, request)
            token = next(tokens, None)
        for said in self._gate.rewinder.stop():
            yield from self._hand_out(said, turn, begin + self._prism_count)

    def _hand_out(self, token: int, turn: object, at: int | None) -> Generator[int, Any, None]:
        """Yield a token; ``at``: with a context of so many, where the engine is ahead of that."""
        context = self.n_tokens, self._requires_eval
        if at is not None and at < self.n_tokens:
            self.n_tokens, self._requires_eval = at, True
        expected = self.n_tokens
        self._prism_count += 1
        sent = yield token
        if sent is not None:
            # The engine takes them for drafts, and asks for a token in the middle of them.
            raise UnsupportedModelError("no tokens can be sent into a guarded generation")
        if self._prism_turn is not turn:
            raise InterleavedGenerationError(
                "another generation has begun on this model; finish one before the next"
            )
        if at is not None:
            if self.n_tokens != expected:
                raise InterleavedGenerationError("the context was changed within a generation")
            self.n_tokens, self._requires_eval = context

    def _rewound(self, begin: int, request: dict[str, Any]) -> Generator[int, Any, None]:
        """Return a generation that goes on where the gate goes back to."""
        at = begin + self._gate.rewind()
        context = self.input_ids[:at].tolist()
        self._prism_kept = context[begin:]
        memory = llama_cpp.llama_get_memory(self.ctx)
        lowest = max(0, at - 1 - llama_cpp.llama_model_n_swa(self.model))
        if llama_cpp.llama_memory_seq_pos_min(memory, 0) > lowest:
            # Attention looks back at what a sliding window has dropped: evaluate all again.
            self.reset()
        again: Generator[int, Any, None] = super().generate(
            **{**request, "tokens": context, "reset": True}
        )
        return again

    @property
    def _gate(self) -> Gate:
        gate = self._prism_gate
        if gate is None:
            raise ModerationFailedError("the engine sampled a token without calling the guard")
        return gate

    def _create_completion(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        if kwargs.get("echo") and kwargs.get("logprobs") is not None:
            raise RequestError(
                "echo with logprobs would show the unmoderated model: ask for one of them"
            )
        for token in kwargs.get("logit_bias") or ():
            if not str(token).isdecimal() or int(token) >= self.n_vocab():
                raise RequestError(f"logit_bias: {str(token)[:32]!r} is no token id of this model")
        prompt = kwargs.get("prompt", args[0] if args else "")
        echoed = len(prompt) if kwargs.get("echo") and not kwargs.get("stream") else 0
        printed: Printed | None = None
        for response in super()._create_completion(*args, **kwargs):
            for choice in response["choices"]:
                if choice["finish_reason"] and self._gate.refused(self._prism_count):
                    choice["finish_reason"] = self._prism_reason
            printed = printed or Printed(self._gate.guard, self._gate.locale)
            for out in printed.let_out(response, echoed, self._prism_reason):
                yield out
            if out is not response:
                return

    def detokenize(
        self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False
    ) -> bytes:
        """Return the text of ``tokens``: what ``Llama.detokenize`` does, without losing words."""
        if not isinstance(self.tokenizer_, LlamaTokenizer):
            text: bytes = super().detokenize(tokens, prev_tokens=prev_tokens, special=special)
            return text
        text = b"".join(texts_of(self._model, tokens, special=special))
        first = tokens[0] if tokens else None
        return text.removeprefix(b" ") if first == self.token_bos() else text

    def __getstate__(self) -> Any:
        raise TypeError("a guarded Llama can't be pickled or copied: guard the copy instead")


def _penalise(sampler: Any, said: list[int]) -> None:
    """Make a sampler's penalties look at ``said`` and nothing else."""
    nameless = {at for at, _ in sampler.custom_samplers}  # asked for a name, they end the process
    for i in set(range(llama_cpp.llama_sampler_chain_n(sampler.sampler))) - nameless:
        part = llama_cpp.llama_sampler_chain_get(sampler.sampler, i)
        if llama_cpp.llama_sampler_name(part) == b"penalties":
            llama_cpp.llama_sampler_reset(part)
            for token in said:
                llama_cpp.llama_sampler_accept(part, token)


_NO_KEY = (
    "the policy demands a watermark and there is no key for it: set PRISM_WATERMARK_KEY, or pass "
    "watermark_key to guard()"
)
_NO_DRAFTS = (
    "speculative decoding shows the token layer tokens that were never accepted: "
    "load the model without a draft model"
)


def guard(
    llama: Llama,
    policy: CompiledPolicy | str | Path | None = None,
    *,
    vocabulary: Vocabulary | None = None,
    watermark_key: WatermarkKey | None = None,
) -> Llama:
    """Put ``llama`` under ``policy``, in place, and return it.

    ``policy`` is a compiled policy, a policy file or the name of a shipped policy; without one,
    ``PRISM_CONFIG`` or ``PRISM_POLICY`` say which. Guarding again replaces the policy. A policy
    that demands a watermark needs ``watermark_key``, or ``PRISM_WATERMARK_KEY`` in the environment.
    """
    if policy is None:
        policy = Settings.from_env().strictest
    elif not isinstance(policy, CompiledPolicy):
        policy = load_policy(policy)
    words = vocabulary or vocabulary_of(llama)
    token_guard = TokenGuard.compile(policy, words)
    if watermark_key is None and policy.watermark == "required":
        watermark_key = WatermarkKey.from_env()
    return install(llama, lambda: token_guard, watermark_key=watermark_key)


def install(
    llama: Llama,
    choose: Callable[[], TokenGuard],
    *,
    reason: str = "content_filter",
    watermark_key: WatermarkKey | None = None,
) -> Llama:
    """Put ``llama`` under the guard that ``choose`` names at the start of each generation.

    ``reason`` is the finish_reason of completions that end in a refusal.
    """
    if llama.draft_model is not None:
        raise UnsupportedModelError(_NO_DRAFTS)
    llama._prism_guard = choose
    llama._prism_reason = reason
    llama._prism_key = watermark_key
    llama._prism_gate = None
    llama._prism_turn = None
    llama._prism_resume = False
    llama._prism_kept = None
    llama._prism_count = 0
    llama._sampler = None  # one from before the guard would go on unmasked
    base = type(llama)
    if not issubclass(base, GuardedLlama):
        # The instance changes its class: the server calls Llama's methods unbound, and scripts
        # hold references to this very object.
        llama.__class__ = (
            GuardedLlama if base is Llama else type(base.__name__, (GuardedLlama, base), {})
        )
    return llama
