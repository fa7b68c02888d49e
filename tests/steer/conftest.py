"""Small tokenizers of both kinds, built here: byte-level BPE and SentencePiece with byte
fallback."""

from __future__ import annotations

import pytest
from tests.bytelevel import Wrapped, byte_level
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from prism.steer.vocabulary import Vocabulary

CORPUS = [
    "the zephyr lantern shone on the velvet cartographer", "a book about a lamp, a lane and a tern",
    "zephyrs blow; lanterns glow. Zephyr LANTERN! cooks took good books", "über straße привет мир",
    "I can't help with that.", "ze ph yr lan ter n z3phyr b00k 0123456789 @$!|+",
] * 20  # fmt: skip


def byte_fallback() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", "<eos>", *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.fixture(scope="session", params=["byte-level", "byte-fallback"])
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    if request.param == "byte-level":
        return Vocabulary.from_tokenizer(Wrapped(byte_level(CORPUS, 700), "<|endoftext|>"))
    backend = byte_fallback()
    # Byte tokens are text, though the trainer lists them as special.
    wrapped = Wrapped(backend, "<eos>", ["<unk>", "<eos>"])
    tokens: list[bytes | None] = [None] * len(wrapped)
    for text, index in backend.get_vocab(True).items():
        if text.startswith("<0x"):
            tokens[index] = bytes((int(text[3:5], 16),))
        elif text not in ("<unk>", "<eos>"):
            tokens[index] = text.replace("▁", " ").encode()

    def encode(text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)

    return Vocabulary(tokens, [wrapped.eos_token_id], encode)
