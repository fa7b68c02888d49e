"""What vLLM's token route sends, in a vocabulary of whole words, halves and single bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BOS, END = 0, 1
WORDS: dict[int, bytes] = {
    2: b"zephyr", 3: b" lantern", 4: b" lan", 5: b"tern", 6: b"fine", 7: b" walnut", 8: b" ferry",
    9: b" marzipan", 10: b" gasket", 11: b"\xf0\x9f", 12: b"\x9c\x82", 13: b" plaid", 14: b".",
    15: b" by", 16: b"\xe6\xbc", 17: b"\xa2", 18: b"This house", 19: b" does not say that.",
}  # fmt: skip
SPECIAL = {BOS: b"<bos>", END: b"<end>"}


def detokenise(ids: Sequence[int], *, special: bool = True) -> str:
    """Return ids as text. Raises ``KeyError`` for unknown ones."""
    shown = {**WORDS, **(SPECIAL if special else dict.fromkeys(SPECIAL, b""))}
    return b"".join(shown[number] for number in ids).decode("utf-8", "replace")


def usage(prompt: int, completion: int) -> dict[str, int]:
    """An engine's count."""
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def choice(
    ids: Sequence[int],
    reason: str | None = None,
    index: int = 0,
    *,
    text: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """One choice, or a piece of one, with an entry of logprobs for each id."""
    named = {"token": "?", "bytes": None} if text else {}
    entries = [
        {
            "token_id": n, "logprob": -0.5, "rank": 1,
            **({**named, "token": detokenise([n])} if text else {}),
            "top_logprobs": [
                {"token_id": n, "logprob": -0.5, "rank": 1},
                {"token_id": 2, "logprob": -3.0, "rank": 2},
            ],
        }
        for n in ids
    ]  # fmt: skip
    return {
        "index": index, "logprobs": {"content": entries}, "finish_reason": reason,
        "stop_reason": None, "token_ids": list(ids), "routed_experts": "AAAA",
        "sampling_mask": [[1]], "weight_versions": None, **more,
    }  # fmt: skip


def body(*choices: dict[str, Any], mode: str = "tokens") -> dict[str, Any]:
    """A whole answer."""
    return {
        "request_id": "r-1", "model": "small", "created": 1_700_000_000, "output_mode": mode,
        "usage": usage(2, 5), "prompt_logprobs": None, "prompt_token_ids": [2, 3],
        "kv_transfer_params": {"secret": "zephyr lantern"}, "choices": list(choices),
    }  # fmt: skip


def chunk(*choices: dict[str, Any], mode: str = "tokens", **more: Any) -> dict[str, Any]:
    """One event of a stream."""
    return {"request_id": "r-1", "output_mode": mode, "choices": list(choices), **more}
