"""The key ``guard`` of ``prism.yaml``: which model judges, where it runs, how long it may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field

from prism.classify.guard.llm import GuardLimits, LlmGuard
from prism.classify.guard.types import Backend, Format, GuardError
from prism.documents import Document, Model, Problem, custom_error

FormatName = Literal[
    "llama-guard-3",
    "llama-guard-4",
    "qwen3guard-gen",
    "shieldgemma",
    "granite-guardian-3",
    "granite-guardian-3.3",
    "wildguard",
    "gpt-oss-safeguard",
]

# By name, and from this table only: the policy engine imports no inference engine (docs/adr/0011).
_ENGINES = {
    "llamacpp": ("llamacpp_prism.guard_backend", "LlamaCppBackend"),
    "vllm": ("vllm_prism.guard_backend", "VllmBackend"),
}
_PLACES = ("url", "llamacpp", "vllm")


def _url(value: str) -> str:
    host = r"(?:[\w.-]+|\[[0-9A-Fa-f:]+\])"
    if not re.fullmatch(rf"https?://(?:[^/\s@]*@)?{host}(?::\d{{1,5}})?(?:/[\w./~%-]*)?", value):
        raise custom_error(f"{value[:80]!r} is not an address", "write `http://HOST:PORT`")
    if "@" in value.split("/")[2]:
        raise custom_error("must not hold a password", "use `api_key_env`")
    return value


class GuardFile(Model):
    """``guard`` in ``prism.yaml``. One of ``url``, ``llamacpp`` and ``vllm`` says where it runs."""

    format: FormatName = Field(examples=["format: llama-guard-3"])
    url: Annotated[str, AfterValidator(_url)] | None = Field(
        None, examples=["url: http://127.0.0.1:8001"]
    )
    model: str | None = Field(None, min_length=1, examples=["model: meta-llama/Llama-Guard-3-8B"])
    api_key_env: str | None = Field(None, min_length=1, examples=["api_key_env: GUARD_API_KEY"])
    llamacpp: str | None = Field(None, min_length=1, examples=["llamacpp: guard.gguf"])
    vllm: str | None = Field(None, min_length=1, examples=["vllm: models/Llama-Guard-3-8B"])
    context: int = Field(8192, ge=512, examples=["context: 8192"])
    threads: int | None = Field(None, ge=1, examples=["threads: 4"])
    gpu_layers: int = Field(0, ge=-1, examples=["gpu_layers: -1"])
    deadline_ms: int = Field(2000, ge=1, le=600_000, examples=["deadline_ms: 2000"])
    batch: int = Field(8, ge=1, le=256, examples=["batch: 8"])
    cache: int = Field(10_000, ge=0, le=10_000_000, examples=["cache: 10000"])
    window: int = Field(6_000, ge=200, examples=["window: 6000"])
    controversial: float | None = Field(None, ge=0, le=1, examples=["controversial: 0.5"])
    effort: Literal["low", "medium", "high"] | None = Field(None, examples=["effort: low"])


@dataclass(frozen=True)
class GuardSettings:
    """A guard as configured; :meth:`open` makes it. ``api_key`` is in no representation."""

    file: GuardFile
    here: Path
    api_key: Mapping[str, str]

    def __repr__(self) -> str:
        return f"GuardSettings({self.file.format!r})"

    @property
    def format(self) -> Format:
        """The format, with its options."""
        from prism.classify.guard.formats import FORMATS
        from prism.classify.guard.formats.qwen3guard import Qwen3Guard
        from prism.classify.guard.formats.safeguard import GptOssSafeguard

        if self.file.controversial is not None:
            return Qwen3Guard(self.file.controversial)
        if self.file.effort is not None:
            return GptOssSafeguard(self.file.effort)
        return FORMATS[self.file.format]

    @property
    def takes_rules(self) -> bool:
        """Whether plain-language rules can be put to it."""
        return self.format.takes_rules

    @property
    def deadline(self) -> float:
        """Seconds that one judgement may take."""
        return self.file.deadline_ms / 1000

    def open(self) -> LlmGuard:
        """Load the model, or get ready to ask its server. Raises ``GuardError``."""
        file = self.file
        limits = GuardLimits(self.deadline, file.cache, file.window)
        return LlmGuard(self.format, self._backend(), limits)

    def _backend(self) -> Backend:
        file = self.file
        if file.url is not None:
            from prism.classify.guard.remote import OpenAIBackend

            key = self.api_key.get("key")
            return OpenAIBackend(file.url, file.model or "", api_key=key, batch=file.batch)
        options: dict[str, Any] = {"context": file.context}
        if file.llamacpp is not None:
            options |= {"threads": file.threads, "gpu_layers": file.gpu_layers}
            return engine("llamacpp", self.here / file.llamacpp, **options)
        assert file.vllm is not None
        local = self.here / file.vllm
        return engine("vllm", local if local.exists() else file.vllm, batch=file.batch, **options)


def engine(name: Literal["llamacpp", "vllm"], model: Path | str, **options: Any) -> Backend:
    """Load a guard model into this process. Raises ``GuardError`` where it can't be."""
    module, attribute = _ENGINES[name]
    try:
        make = getattr(import_module(module), attribute)
    except ImportError as error:
        raise GuardError(
            f"the guard needs {name}, and {error.name} is missing: "
            f"`pip install '.[{name}]'` in a clone of PRISM"
        ) from error
    return cast("Backend", make(str(model), **options))


def check_guard(
    document: Document, file: GuardFile, here: Path, environ: Mapping[str, str]
) -> tuple[GuardSettings | None, list[Problem]]:
    """Return the guard that ``document`` configures under ``guard``, or what is wrong with it."""
    problems: list[Problem] = []

    def wrong(key: str, message: str, fix: str, *, of_key: bool = True) -> None:
        path = ("guard", key) if key else ("guard",)
        problems.append(document.problem(path, message, fix, of_key=of_key))

    given = [place for place in _PLACES if getattr(file, place) is not None]
    if not given:
        wrong("", "does not say where the model runs", "add `url`, `llamacpp` or `vllm`")
    for extra in given[1:]:
        wrong(extra, f"the guard already runs at `{given[0]}`", "remove one of them")
    place = given[0] if given else ""
    if file.url is not None and file.model is None:
        wrong("url", "the server has to be told which model", "add `model`, as the server names it")
    written = file.model_fields_set
    for key, needs in _NEEDS.items():
        if key in written and place and place not in needs:
            fix = f"remove it; it is for {' and '.join(f'`{n}`' for n in needs)}"
            wrong(key, f"has no effect with `{place}`", fix)
    for key, form in _OF_FORMAT.items():
        if key in written and file.format != form:
            wrong(key, f"has no effect with {file.format}", f"remove it; it is for {form}")
    if file.llamacpp is not None and not (here / file.llamacpp).is_file():
        fix = "check the path, relative to this file"
        wrong("llamacpp", f"no such file: {file.llamacpp}", fix, of_key=False)
    secret: dict[str, str] = {}
    if file.api_key_env is not None:
        if environ.get(file.api_key_env):
            secret["key"] = environ[file.api_key_env]
        else:
            fix = "set it, or remove the line where the server wants no key"
            message = f"the environment has no {file.api_key_env}"
            wrong("api_key_env", message, fix, of_key=False)
    return (None if problems else GuardSettings(file, here, secret)), problems


_NEEDS = {
    "model": ("url",),
    "api_key_env": ("url",),
    "context": ("llamacpp", "vllm"),
    "threads": ("llamacpp",),
    "gpu_layers": ("llamacpp",),
    "batch": ("url", "vllm"),
}
_OF_FORMAT = {"controversial": "qwen3guard-gen", "effort": "gpt-oss-safeguard"}
