"""The server under test: how it is asked, and what it can be made to say."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx

from prism.conform.answer import Answer, parse
from prism.conform.apis import APIS, CHAT, Api
from prism.conform.cards import card, request
from prism.conform.check import Failed, NotApplicable
from prism.http.errors import UpstreamShape
from prism.http.sse import Reader

Json = dict[str, Any]
_CONNECTIONS = 128
_MISSING = frozenset({401, 403, 404, 405, 501})
_MUTE = "the engine can't be made to say a given text here"
_HELLO_ROOM = 64
"""Tokens for the shortest card, even if the engine's vocabulary has hardly more than letters."""


class NoTarget(Exception):
    """The server can't be tested at all. ``str()`` says why."""


class Voice(StrEnum):
    """How an engine is made to say a text word for word."""

    SCRIPT = "script"
    """It is the scripted engine: a card is named in the prompt."""
    GRAMMAR = "grammar"
    """llama.cpp: a grammar with one sentence."""
    CHOICE = "choice"
    """vLLM: a structured output with one choice."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a user can say about the server under test.

    ``upstream`` is the scripted engine's own address, for checks that ask what reached it. ``log``
    is the server's log. Times are in seconds.
    """

    url: str
    api_key: str | None = None
    second_key: str | None = None
    model: str | None = None
    upstream: str | None = None
    log: str | None = None
    patience: float = 60.0
    latency_budget: float = 0.25


@dataclass(slots=True)
class Target:
    """Asks the server. ``claims`` are kinds of headers of answers that leaked."""

    options: Options
    client: httpx.AsyncClient
    model: str = ""
    voices: dict[tuple[str, bool], Voice | str] = field(default_factory=dict)
    """By API and whether it is streamed: how it can be made to speak, or why not."""
    leaks: int = 0
    claims: set[str] = field(default_factory=set)
    used: list[str] = field(default_factory=list)
    """The number of every request so far."""
    _finding: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def scripted(self) -> bool:
        return self.voices.get((CHAT.name, False)) is Voice.SCRIPT

    async def voice(self, api: Api, stream: bool) -> Voice:
        """Return how an API can be made to speak, which is found out when it is first asked.

        Raises :class:`NotApplicable`.
        """
        async with self._finding:
            for how in (False, True)[: 1 + stream]:
                if (api.name, how) not in self.voices:
                    self.voices[api.name, how] = await _find_voice(self, api, how)
        found = self.voices[api.name, stream]
        if not isinstance(found, Voice):
            raise NotApplicable(found)
        return found

    async def needs_script(self, api: Api = CHAT, stream: bool = False) -> None:
        """Raise :class:`NotApplicable` unless the scripted engine answers here."""
        if await self.voice(api, stream) is not Voice.SCRIPT:
            raise NotApplicable("only the scripted engine can be made to say this")

    async def ask(
        self,
        api: Api,
        name: str,
        *,
        stream: bool = False,
        voice: Voice | None = None,
        before: str = "",
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        edit: Any = None,
        **extra: Any,
    ) -> Answer:
        """Ask for a card and return the whole answer.

        ``voice`` is the API's own unless given; ``before`` stands in front of the words that name
        the card; ``key`` replaces the API key (``""``: none); ``edit`` may change the request's
        body in place, or return its bytes. Raises :class:`Failed` if the answer doesn't end.
        """
        voice = voice or await self.voice(api, stream)
        number = secrets.token_hex(6)
        said = card(name, number)
        if voice is not Voice.SCRIPT and not said.plain:
            raise NotApplicable("only the scripted engine can be made to say this")
        text = before + request(name, number)
        body = api.body(text, self.model, stream) | _spoken(voice, said.text) | extra
        content = edit(body) if edit is not None else None
        payload = content if isinstance(content, bytes) else json.dumps(body).encode()
        return await self.send(
            api, payload, number=number, expected=said.text, key=key, headers=headers
        )

    async def send(
        self,
        api: Api,
        payload: bytes,
        *,
        number: str,
        expected: str,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request as it is."""
        self.used.append(number)
        fields = {"content-type": "application/json", **self._key(key), **(headers or {})}
        try:
            async with asyncio.timeout(self.options.patience):
                return await self._read(api.path, payload, fields, number, expected)
        except TimeoutError:
            raise Failed(f"no end within {self.options.patience:g} s") from None

    async def _read(
        self, path: str, payload: bytes, fields: dict[str, str], number: str, expected: str
    ) -> Answer:
        begun = time.monotonic()
        async with self.client.stream("POST", path, content=payload, headers=fields) as reply:
            streamed = reply.headers.get("content-type", "").startswith("text/event-stream")
            answer = Answer(reply.status_code, dict(reply.headers), streamed, number, expected)
            try:
                if streamed:
                    await _events(reply, answer, begun)
                else:
                    body = (await reply.aread()).decode()
                    row = parse(body)
                    if row is not None:
                        answer.rows.append((time.monotonic() - begun, row))
                    else:
                        answer.other.append(body)
            except (httpx.RemoteProtocolError, httpx.ReadError):
                answer.broken = True
            except (UnicodeDecodeError, UpstreamShape):
                raise Failed("the answer is not UTF-8") from None
            answer.seconds = time.monotonic() - begun
            return answer

    async def reached(self, number: str) -> Json:
        """Return what the scripted engine knows of a request. Raises :class:`NotApplicable`."""
        if self.options.upstream is None or not self.scripted:
            raise NotApplicable("needs --upstream, the scripted engine's own address")
        url = f"{self.options.upstream}/conform/asked/{number}"
        reply = await self.client.get(url)
        return dict(reply.raise_for_status().json())

    def note_leak(self, answer: Answer) -> None:
        """Remember what an answer that leaked claims about having been moderated."""
        self.leaks += 1
        words = ("guardrail", "moderat", "receipt", "safety", "content-filter")
        self.claims |= {name for name in answer.headers if any(word in name for word in words)}

    def _key(self, key: str | None) -> dict[str, str]:
        given = self.options.api_key if key is None else key
        return {"authorization": f"Bearer {given}"} if given else {}


async def prepare(target: Target) -> None:
    """Learn the server's model, and whether chats can be made to speak. Raises `NoTarget`.

    The other APIs are tried when a check asks them, here only until one of them speaks.
    """
    try:
        target.model = target.options.model or await _model(target)
        spoken = [await _speaks(target, CHAT, stream) for stream in (False, True)]
        for api in APIS[1:]:
            for stream in (False, True):
                spoken.append(any(spoken) or await _speaks(target, api, stream))
    except httpx.HTTPError as error:
        raise NoTarget(
            f"{target.options.url} can't be reached: {type(error).__name__}; is the server up?"
        ) from None
    if not any(spoken):
        whys = "; ".join(sorted({str(voice) for voice in target.voices.values()}))
        raise NoTarget(
            "the engine behind the server can't be made to say a given text, so nothing can be "
            f"checked ({whys}); put the scripted engine behind it: prism conform --serve-upstream"
        )


async def _speaks(target: Target, api: Api, stream: bool) -> bool:
    try:
        await target.voice(api, stream)
    except NotApplicable:
        return False
    return True


async def _model(target: Target) -> str:
    reply = await target.client.get("/v1/models", headers=target._key(None))
    listed = parse(reply.text) if reply.status_code == 200 else None
    rows = (listed or {}).get("data") or []
    return str(rows[0]["id"]) if rows else "conform"


async def _find_voice(target: Target, api: Api, stream: bool) -> Voice | str:
    whole = target.voices.get((api.name, False)) if stream else None
    if whole == _MUTE:
        # It answered in every voice, and in its own words: streamed, too, it would only babble.
        return _MUTE
    why = _MUTE
    for voice in _likely(target):
        try:
            answer = await target.ask(api, "hello", stream=stream, voice=voice, edit=_brief(api))
        except Failed as failed:
            return f"a harmless request was not answered: {failed}"
        if answer.status in _MISSING:
            return f"the server doesn't offer {api.path} (status {answer.status})"
        if answer.expected in answer.content():
            return voice
        if not answer.ok:
            why = f"a harmless request to {api.path} was answered {answer.status}"
        elif answer.content() == "" and voice is Voice.SCRIPT:
            why = f"a harmless request to {api.path} got no text"
        if answer.ok and voice is whole:
            # It can speak, but its text doesn't come out of a stream: the checks will say so.
            return voice
    return why


def _brief(api: Api) -> Callable[[Json], None]:
    def edit(body: Json) -> None:
        body[api.room] = _HELLO_ROOM

    return edit


def _likely(target: Target) -> list[Voice]:
    """Return the voices to try, first those in which this server spoke before.

    A real engine that is asked in a voice not its own writes until there is no more room, which is
    slow on a CPU.
    """
    spoken = [voice for voice in target.voices.values() if isinstance(voice, Voice)]
    return sorted(Voice, key=lambda voice: voice not in spoken)


def _spoken(voice: Voice, text: str) -> Json:
    if voice is Voice.GRAMMAR:
        return {"grammar": f"root ::= {json.dumps(text, ensure_ascii=False)}", "temperature": 0}
    if voice is Voice.CHOICE:
        return {"structured_outputs": {"choice": [text]}, "temperature": 0}
    return {}


async def _events(reply: httpx.Response, answer: Answer, begun: float) -> None:
    reader = Reader()
    async for chunk in reply.aiter_bytes():
        for event in reader.feed(chunk):
            row = parse(event.data) if event.data is not None else None
            if row is not None:
                answer.rows.append((time.monotonic() - begun, row))
            elif event.data is not None:
                answer.other.append(event.data)


def client(options: Options) -> httpx.AsyncClient:
    """Return the client of a run."""
    limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    return httpx.AsyncClient(
        base_url=options.url,
        timeout=httpx.Timeout(options.patience, connect=5.0),
        limits=limits,
        trust_env=False,
    )
