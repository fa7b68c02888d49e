"""Taking the text out of a request, whatever shape it comes in.

What is known to be a control is left out by name; every other string of the body is judged, so
that a field that an engine learns tomorrow is judged today.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prism.conversation import ASIDE, WAYS
from prism.http.errors import BadRequest, TooLarge
from prism.http.family import Call, Reading
from prism.http.templates import raw_messages

CONTROLS = frozenset(
    {
        "model", "user", "request_id", "session_id", "cache_salt", "stream", "stream_options",
        "stop", "stop_token_ids", "bad_words", "logit_bias", "allowed_token_ids", "service_tier",
        "truncation_side", "logit_bias_type", "metadata", "safety_identifier",
        "prompt_cache_key",
    }
)  # fmt: skip
"""Top-level keys whose strings never become part of a prompt."""

_EFFORTS = (None, "none", "minimal", "low", "medium", "high", "xhigh", "max")

_REFUSED = {
    "prompt_embeds": "embeddings in place of text can't be judged",
    "chat_template": "a template sent by a client can put any text together",
    "kv_transfer_params": "a prompt computed elsewhere can't be judged",
    "ec_transfer_params": "inputs encoded elsewhere can't be judged",
    "return_token_ids": "token ids would show text that is held back; ask for logprobs instead",
    "return_tokens_as_token_ids": "token ids would show text that is held back",
    "return_prompt_text": "the rendered prompt is not part of what is judged",
    "prompt_logprobs": "the engine's guesses inside the prompt are not judged",
    "extra_args": "arguments for engine extensions are the operator's to set",
}
_READ_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
_UNREAD_PARTS = {
    "image_url": "image", "input_image": "image", "image": "image",
    "audio_url": "audio", "input_audio": "audio", "video_url": "video", "video": "video",
}  # fmt: skip
_MEDIA = ("data:image/", "data:audio/", "data:video/")
_ROLES = frozenset(
    {"user", "assistant", "system", "developer", "tool", "function", "model", "chatbot"}
)
_HEAD = 256  # characters that stand right behind a role


def refuse_unsafe(body: dict[str, Any], engine: str) -> None:
    """Raise :class:`BadRequest` if the request asks for what moderation can't cover."""
    for prefix, place in _places(body):
        for key, why in _REFUSED.items():
            if _asked(place, key):
                raise BadRequest(
                    f"{prefix + key!r} is not available on a moderated server: {why}",
                    param=prefix + key,
                    code="not_moderated",
                )
    if _asked(body, "use_beam_search"):
        raise BadRequest(
            "beam search is not available on a moderated server: it bypasses the token layer",
            param="use_beam_search",
            code="not_moderated",
        )
    _refuse_policy_choice(body)
    if engine == "vllm":
        _refuse_for_vllm(body)
    if engine != "vllm":
        _refuse_llguidance(body)


def _places(body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return where a request can ask for something: vLLM's own arguments become ``extra_args``."""
    below = body.get("vllm_xargs")
    return [("", body), *([("vllm_xargs.", below)] if isinstance(below, dict) else [])]


def _asked(body: dict[str, Any], key: str) -> bool:
    value = body.get(key)
    return value is not None and value is not False  # 0 asks for something


def _refuse_for_vllm(body: dict[str, Any]) -> None:
    # vLLM's own objections come too late for a status: a stream has begun with 200 by then.
    budget = body.get("thinking_token_budget")
    if budget is not None and budget != -1:
        raise BadRequest(
            "'thinking_token_budget' is not available on a moderated server: it forces tokens "
            "after the policy was applied",
            param="thinking_token_budget",
            code="not_moderated",
        )
    asked = body.get("logprobs")
    if body.get("echo") is True and "prompt" in body and isinstance(asked, int) and asked > 0:
        raise BadRequest(
            "'echo' with alternatives in 'logprobs' is not available on a moderated server: it "
            "shows the engine's guesses inside the prompt; logprobs: 0 is",
            param="logprobs",
            code="not_moderated",
        )


def _refuse_policy_choice(body: dict[str, Any]) -> None:
    for prefix, place in _places(body):
        for key in place:
            if key.strip().lower().replace("-", "_").startswith("prism"):
                raise BadRequest(
                    f"{prefix}{key[:64]} can't be set by a client: the operator chooses the policy",
                    param=prefix + key[:64],
                    code="policy_not_yours",
                )


def _refuse_llguidance(body: dict[str, Any]) -> None:
    # A llama.cpp server built without llguidance aborts on such a grammar, with every request
    # that it is serving.
    for key, value in body.items():
        if "grammar" in key or key in ("response_format", "structured_outputs"):
            for text in strings(value):
                if "%llguidance" in text:
                    raise BadRequest(
                        "grammars for llguidance are not accepted here",
                        param=key,
                        code="unsupported_grammar",
                    )


def strings(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, keys included, in reading order."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            if node:
                yield node
        elif isinstance(node, list):
            stack.extend(reversed(node))
        elif isinstance(node, dict):
            for key, below in reversed(node.items()):
                stack.append(below)
                stack.append(key)


def context(body: dict[str, Any], known: frozenset[str]) -> list[dict[str, str]]:
    """Return all text outside ``known`` keys and controls as one message: tools, schemas, more."""
    texts = [
        text
        for key, value in body.items()
        if key not in known and key not in CONTROLS
        if key != "reasoning_effort" or value not in _EFFORTS  # which templates may write out
        for text in strings(value)
    ]
    return [{"role": "context", "content": "\n".join(texts)}] if texts else []


class Messages:
    """Reads a chat's messages into flat role-and-text pairs.

    What a message says beside its text stands behind all messages: a name, or a mark on a part,
    that stood between two texts would hide that the model reads them as one.
    """

    def __init__(self) -> None:
        self.unread: set[str] = set()
        self._said: list[dict[str, str]] = []
        self._asides: list[dict[str, str]] = []

    @property
    def flat(self) -> list[dict[str, str]]:
        """What p(x) judges."""
        return self._said + self._asides

    def add_all(self, value: Any, where: str) -> None:
        """Read a conversation. Raises :class:`BadRequest` that names the place."""
        if not isinstance(value, list):
            raise BadRequest(f"{where} must be a list", param=where, code="invalid_type")
        for number, message in enumerate(value):
            self.add(message, f"{where}[{number}]")

    def add(self, value: Any, where: str) -> None:
        """Read one message. Raises :class:`BadRequest` that names the place."""
        if not isinstance(value, dict):
            raise BadRequest(f"{where} must be an object", param=where, code="invalid_type")
        role = value.get("role")
        if not isinstance(role, str):
            raise BadRequest(f"{where}.role must be a string", param=where, code="invalid_type")
        texts = self._content(value.get("content"), f"{where}.content")
        self.say(role, *texts)
        self.beside(
            text
            for key, below in value.items()
            if key not in ("role", "content")
            for text in (*strings(below), *decoded(below))
        )

    def say(self, role: str, *texts: str, alike: Sequence[str] = ()) -> None:
        """Add a message. Templates differ in what they put between texts, a line break or nothing.

        ``alike``: those of its texts that some engines put together without the others.
        """
        content, joined, apart = "\n".join(texts), "".join(texts), "".join(alike)
        if role not in _ROLES:  # templates write out any role, in front of what it says
            self.beside([f"{role}\n{content[:_HEAD]}"])
        if not content:
            return
        first, *turns = raw_messages(content, role)
        for way, text in zip(WAYS, (joined, apart), strict=True):
            if text not in ("", content, first.get(WAYS[0])):
                first[way], *more = (message["content"] for message in raw_messages(text, role))
                turns += [{"role": role, "content": turn} for turn in more]
        self._said += [first, *turns]

    def beside(self, texts: Iterable[str]) -> None:
        """Add what is no part of the conversation's text, and may be read with it."""
        text = "\n".join(text for text in texts if text)
        if text:
            self._asides.append({"role": ASIDE, "content": text})

    def _content(self, content: Any, where: str) -> list[str]:
        if content is None:
            return []
        if isinstance(content, str):
            return [content]
        if not isinstance(content, list):
            raise BadRequest(
                f"{where} must be a string, a list of parts or null",
                param=where,
                code="invalid_type",
            )
        texts: list[str] = []
        for number, part in enumerate(content):
            text = self._part(part, f"{where}[{number}]")
            if text:
                texts.append(text)
        return texts

    def _part(self, part: Any, where: str) -> str | None:
        """Return the text of a part, if it is one, and note what else it says."""
        if isinstance(part, str):
            return part
        if not isinstance(part, dict):
            raise BadRequest(f"{where} must be an object", param=where, code="invalid_type")
        kind = part.get("type")
        if not isinstance(kind, str):
            raise BadRequest(f"{where}.type must be a string", param=where, code="invalid_type")
        field = None
        if kind in _READ_PARTS:
            field = kind if kind in ("refusal", "thinking") else "text"
            if not isinstance(part.get(field), str):
                raise BadRequest(
                    f"{where}.{field} must be a string", param=where, code="invalid_type"
                )
        elif kind in _UNREAD_PARTS:
            self.unread.add(_UNREAD_PARTS[kind])
        else:
            raise BadRequest(
                f"content parts of type {kind[:64]!r} are not moderated, so not accepted",
                param=where,
                code="not_moderated",
            )
        self.beside(
            text
            for key, value in part.items()
            if key not in ("type", field)
            for text in strings(value)
            if not _is_media(kind, key, text)
        )
        return part[field] if field is not None else None


def _is_media(kind: str, key: str, text: str) -> bool:
    """Whether a string of a part is the picture, the sound or the film itself."""
    return key == kind and (kind == "input_audio" or text.startswith(_MEDIA))


def decoded(value: Any) -> Iterator[str]:
    """Yield the strings in the JSON of calls' arguments: a line break is written as letters there.

    ``value`` is a call, or what holds calls at any depth.
    """
    if isinstance(value, list):
        for item in value:
            yield from decoded(item)
    elif isinstance(value, dict):
        for key, below in value.items():
            if key == "arguments" and isinstance(below, str):
                try:
                    yield from strings(json.loads(below))
                except (ValueError, RecursionError):
                    continue
            elif isinstance(below, dict | list):
                yield from decoded(below)


def flag(body: dict[str, Any], key: str, default: bool = False) -> bool:
    """Return a JSON boolean. A string such as "true" would mean one thing here, another there."""
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"{key} must be true or false", param=key, code="invalid_type")
    return value


def integer(body: dict[str, Any], key: str, default: int, low: int, high: int) -> int:
    """Return a JSON integer within bounds."""
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f"{key} must be an integer", param=key, code="invalid_type")
    if not low <= value <= high:
        raise BadRequest(f"{key} must be between {low} and {high}", param=key, code="out_of_range")
    return value


def text(body: dict[str, Any], key: str) -> str:
    """Return a string or ``""``."""
    value = body.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{key} must be a string", param=key, code="invalid_type")
    return value


def stop_strings(body: dict[str, Any]) -> frozenset[str]:
    """Return the request's stop strings."""
    value = body.get("stop")
    if value is None:
        return frozenset()
    if isinstance(value, str):
        return frozenset({value})
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return frozenset(value)
    raise BadRequest(
        "stop must be a string or a list of strings", param="stop", code="invalid_type"
    )


def stream_options(body: dict[str, Any]) -> tuple[bool, bool]:
    """Return (include_usage, continuous_usage_stats)."""
    value = body.get("stream_options")
    if value is None:
        return False, False
    if not isinstance(value, dict):
        raise BadRequest(
            "stream_options must be an object", param="stream_options", code="invalid_type"
        )
    return flag(value, "include_usage"), flag(value, "continuous_usage_stats")


def as_call(
    body: dict[str, Any],
    messages: list[dict[str, str]],
    reading: Reading,
    unread: Iterable[str] = (),
    *,
    choices: int = 1,
    streams: bool = False,
) -> Call:
    """Return what most APIs make of a request whose text, ``messages``, has been taken out.

    ``unread``: the kinds of content that nobody here reads. ``streams``: what leaving ``stream``
    out means in this API. Raises :class:`TooLarge`, or :class:`BadRequest` for a wrong type.
    """
    check_length(messages, reading.max_prompt_chars)
    return Call(
        body=body,
        messages=messages,
        stream=flag(body, "stream", streams),
        choices=choices,
        model=text(body, "model"),
        unread=tuple(sorted(unread)),
    )


def ask_for_usage(call: Call, engine: str) -> None:
    """Note what the client wants to know of usage, and see to it that a cut stream can tell.

    vLLM counts along when asked, so the figures are exact even if the engine is stopped early.
    """
    call.include_usage, per_chunk = stream_options(call.body)
    if engine == "vllm" and call.stream and call.include_usage and not per_chunk:
        options = {**call.body["stream_options"], "continuous_usage_stats": True}
        call.body = {**call.body, "stream_options": options}
        call.usage_injected = True


def check_length(messages: list[dict[str, str]], limit: int) -> None:
    """Raise :class:`TooLarge` when the prompt is over the limit."""
    if sum(len(message["content"]) for message in messages) > limit:
        raise TooLarge(
            f"the prompt is over the limit of {limit} characters", code="prompt_too_long"
        )
