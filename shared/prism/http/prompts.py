"""Taking the text out of a request, whatever shape it comes in.

What is known to be a control is left out by name; every other string of the body is judged, so
that a field that an engine learns tomorrow is judged today.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prism.conversation import ASIDE, WAYS
from prism.http.errors import BadRequest, TooLarge
from prism.http.family import Call, Reading
from prism.http.refused import refuse_unsafe as refuse_unsafe
from prism.http.templates import raw_messages
from prism.http.written import apart, loaded, neighbours, seams, written
from prism.http.written import strings as strings

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

BILLING = "x-anthropic-billing-header"
"""What begins with it vLLM leaves out of a system prompt, and its neighbours then meet."""
_READ_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking"})
_UNREAD_PARTS = {
    "image_url": "image", "input_image": "image", "image": "image",
    "audio_url": "audio", "input_audio": "audio", "video_url": "video", "video": "video",
}  # fmt: skip
_EMBEDDED = ("uuid", "prompt_embeds", "image_embeds", "audio_embeds", "video_embeds", "image_pil")
_OTHER_MEDIA = (*_EMBEDDED, *_UNREAD_PARTS)
"""Fields by which vLLM tells what a part is, whatever its type says, where it has a ``uuid``: the
name of media in a cache that all clients share."""
_MEDIA = ("data:image/", "data:audio/", "data:video/")
_ROLES = frozenset(
    {"user", "assistant", "system", "developer", "tool", "function", "model", "chatbot"}
)
_HEAD = 256  # characters that stand right behind a role


def context(
    body: dict[str, Any], known: frozenset[str], said: Sequence[dict[str, str]] = ()
) -> list[dict[str, str]]:
    """Return all text outside ``known`` keys and controls: tools, schemas, documents, more.

    One message has it in the client's order. What engines may make of it, beside the messages
    ``said``, stands apart.
    """
    fields = {
        key: value
        for key, value in body.items()
        if key not in known and key not in CONTROLS
        if key != "reasoning_effort" or value not in _EFFORTS  # which templates may write out
    }
    texts = [text for value in fields.values() for text in strings(value)]
    if not texts:
        return []
    ways, ends = written(fields)
    others = apart([*ways, *seams(ends, neighbours(said))])
    return [{"role": "context", "content": "\n".join(texts)}, *others]


class Messages:
    """Reads a chat's messages into flat role-and-text pairs.

    What a message says beside its text stands behind all messages: a name, or a mark on a part,
    that stood between two texts would hide that the model reads them as one.
    """

    def __init__(self) -> None:
        self.unread: set[str] = set()
        self._said: list[dict[str, str]] = []
        self._asides: list[dict[str, str]] = []
        self._fields: list[dict[str, Any]] = []
        self._meeting: list[str] = []

    @property
    def flat(self) -> list[dict[str, str]]:
        """What p(x) judges."""
        others = written({"": self._fields})[0] if self._fields else []
        return self._said + self._asides + apart([*others, *self._meeting])

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
        rest = {key: v for key, v in value.items() if v and key not in ("role", "content")}
        if rest:
            self.fields(rest, "\n".join(texts))

    def say(self, role: str, *texts: str, alike: Sequence[str] = ()) -> None:
        """Add a message. Templates differ in what they put between texts, a line break or nothing.

        ``alike``: those of its texts that some engines put together without the others.
        """
        content, joined, apart = "\n".join(texts), "".join(texts), "".join(alike)
        if role not in _ROLES:  # templates write out any role, in front of what it says
            self.beside([f"{role}\n{content[:_HEAD]}"])
        if not content:
            return
        left_out = role == "system" and any(text.startswith(BILLING) for text in texts)
        if left_out:
            self._meeting += [joined, apart]
            told = [_without_billing(text) for text in texts]
            joined, apart = "\n".join(told), "".join(told)
        first, *turns = raw_messages(content, role)
        if left_out and not joined:
            first[WAYS[0]] = ""
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

    def fields(self, given: dict[str, Any], content: str = "") -> None:
        """Add other fields of a message or a part, which may be written beside its ``content``."""
        self.beside(text for below in given.values() for text in (*strings(below), *decoded(below)))
        told = self.orders(given)
        if content:
            self._meeting += seams(written(told)[1], [content])

    def orders(self, given: Any) -> dict[str, Any]:
        """Have fields that are judged already judged in other orders, too; return them as read."""
        fields = given if isinstance(given, dict) else {"": given}
        told = {key: loaded(key, below) for key, below in fields.items()}
        self._fields.append(told)
        return told

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
        for key in _OTHER_MEDIA if kind in _READ_PARTS else _EMBEDDED:
            if part.get(key) is not None:
                raise BadRequest(
                    f"{where}.{key} is not available on a moderated server in a part of type "
                    f"{kind[:64]!r}: an engine could read the part as another",
                    param=f"{where}.{key}",
                    code="not_moderated",
                )
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
        said = part[field] if field is not None else None
        rest = {key: _without_media(kind, key, value) for key, value in part.items()}
        rest = {key: value for key, value in rest.items() if value and key not in ("type", field)}
        if rest:
            self.fields(rest, said or "")
        return said


def _without_billing(text: str) -> str:
    """Return a system text without the line that vLLM takes out of it."""
    return text.partition("\n")[2] if text.startswith(BILLING) else text


def _without_media(kind: str, key: str, value: Any) -> list[str]:
    """Return the strings of a part's field that are text."""
    return [text for text in strings(value) if not _is_media(kind, key, text)]


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
                if (arguments := loaded(key, below)) is not below:
                    yield from strings(arguments)
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
