"""A small byte-level tokenizer, as GPT-2 and Qwen have large ones, in place of a model's."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers


def byte_level(texts: Iterable[str], size: int, end: str = "<|endoftext|>") -> Tokenizer:
    """Return one of at most ``size`` tokens, trained on ``texts``; ``end`` ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class Wrapped:
    """The few attributes of a transformers tokenizer that a vocabulary is read from."""

    def __init__(self, backend: Tokenizer, end: str, special: Iterable[str] = ()) -> None:
        self.backend_tokenizer = backend
        self.eos_token_id = backend.token_to_id(end)
        self.all_special_ids = [backend.token_to_id(token) for token in special or (end,)]

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size())
