"""``python -m llamacpp_prism``: ``python -m llama_cpp.server``, moderated."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
import yaml  # type: ignore[import-untyped]
from llama_cpp.server import settings as upstream
from llama_cpp.server.app import create_app as create_upstream_app
from llama_cpp.server.cli import add_args_from_model, parse_model_from_args
from llama_cpp.server.model import LlamaProxy
from pydantic import Field

from llamacpp_prism import answers
from llamacpp_prism.errors import UnsupportedModelError
from llamacpp_prism.layer import TokenLayer
from prism.config import Settings
from prism.documents import ProblemsError
from prism.http import PrismMiddleware

_LOGITS_ALL = Field(
    default=False,
    description="Whether to keep the logits of every position, which logprobs need: about 2 GB at "
    "n_ctx 2048 with a 262k vocabulary. llama_cpp.server defaults to True.",
)
_INTERRUPT = Field(
    default=False,
    description="Whether a new request ends the one that is running, another client's included. "
    "llama_cpp.server defaults to True.",
)
_load_unguarded = LlamaProxy.load_llama_from_model_settings


class ServerSettings(upstream.ServerSettings):  # type: ignore[misc]
    """The server's settings, with a default that lets every client finish."""

    interrupt_requests: bool = _INTERRUPT


class ModelSettings(upstream.ModelSettings):  # type: ignore[misc]
    """A model's settings, with the one default that PRISM changes."""

    logits_all: bool = _LOGITS_ALL


class ServerOptions(upstream.Settings):  # type: ignore[misc]
    """What the command line takes: every option of ``llama_cpp.server``."""

    interrupt_requests: bool = _INTERRUPT
    logits_all: bool = _LOGITS_ALL


class ConfigFile(upstream.ConfigFileSettings):  # type: ignore[misc]
    """The file that ``--config_file`` names."""

    interrupt_requests: bool = _INTERRUPT
    models: list[ModelSettings] = Field(default=[], description="Model configs")


def parse(argv: Sequence[str]) -> tuple[Settings, Any, list[ModelSettings]]:
    """Return PRISM's settings, the server's and each model's. Raises on bad configuration."""
    # Apart from upstream's parser, so that each abbreviation it accepts stays unambiguous.
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group = own.add_argument_group("moderation")
    group.add_argument(
        "--policy",
        metavar="FILE|NAME",
        help="Policy file, or the name of a shipped policy. (default: $PRISM_POLICY, or 'default')",
    )
    group.add_argument(
        "--prism-config",
        metavar="FILE",
        help="PRISM configuration: policy, floor, limits. (default: $PRISM_CONFIG)",
    )
    theirs = argparse.ArgumentParser(
        prog="python -m llamacpp_prism",
        description="llama_cpp.server, moderated by PRISM. Every option of llama_cpp.server works.",
        epilog="moderation:\n" + own.format_help().split("moderation:\n", 1)[-1],
        formatter_class=_Help,
    )
    add_args_from_model(theirs, ServerOptions)
    theirs.add_argument("--config_file", type=str, help="Path to a config file to load.")
    ours, rest = own.parse_known_args(argv)
    args = theirs.parse_args(rest)
    server, models = _read_options(args)
    for model in models:
        if model.draft_model is not None:
            raise UnsupportedModelError(
                f"draft_model: speculative decoding is not moderated; remove it ({model.model})"
            )
    return _read_settings(ours), server, models


def create_app(settings: Settings, server: Any, models: list[ModelSettings]) -> PrismMiddleware:
    """Load the first model and return the moderated application."""
    layer = TokenLayer(settings)

    def load(model: Any) -> Any:
        return layer.attach(_load_unguarded(model))

    LlamaProxy.load_llama_from_model_settings = staticmethod(load)
    answers.install()
    # create_app reads this file again, with upstream's defaults.
    config_file = os.environ.pop("CONFIG_FILE", None)
    try:
        app = create_upstream_app(server_settings=server, model_settings=models)
    finally:
        if config_file is not None:
            os.environ["CONFIG_FILE"] = config_file
    return PrismMiddleware(
        app,
        settings=settings,
        layers=("text", "token"),
        engine="llamacpp",
        processed_logprobs=True,  # the gate takes from them what it masks
        api_keys=[server.api_key] if server.api_key else (),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until stopped; exit 2, with the port never opened, if anything is misconfigured."""
    try:
        settings, server, models = parse(sys.argv[1:] if argv is None else argv)
        app = create_app(settings, server, models)
    except (ProblemsError, RuntimeError, ValueError, AssertionError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    uvicorn.run(
        app,
        host=os.getenv("HOST", server.host),
        port=int(os.getenv("PORT", server.port)),
        ssl_keyfile=server.ssl_keyfile,
        ssl_certfile=server.ssl_certfile,
    )


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the epilog's lines, which are a formatted help text already."""


def _read_options(args: argparse.Namespace) -> tuple[Any, list[ModelSettings]]:
    name = os.environ.get("CONFIG_FILE", args.config_file)
    if not name:
        server = parse_model_from_args(ServerSettings, args)
        return server, [parse_model_from_args(ModelSettings, args)]
    text = Path(name).read_text(encoding="utf-8")
    try:
        document = yaml.safe_load(text) if name.endswith((".yaml", ".yml")) else json.loads(text)
        config = ConfigFile.model_validate_json(json.dumps(document))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{name}: {error}") from error
    if not config.models:
        raise ValueError(f"{name}: models: there is none; add one with its path as 'model'")
    return ServerSettings(**config.model_dump(exclude={"models"})), config.models


def _read_settings(ours: argparse.Namespace) -> Settings:
    given = {"PRISM_POLICY": ours.policy, "PRISM_CONFIG": ours.prism_config}
    return Settings.from_env({**os.environ, **{name: ref for name, ref in given.items() if ref}})
