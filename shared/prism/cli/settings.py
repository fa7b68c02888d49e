"""Which configuration a server's command was asked for: its options, then the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prism.cli.output import print_json, reporting

if TYPE_CHECKING:
    from prism.classify.models import Models
    from prism.config import Settings

ServedPolicy = Annotated[
    str | None,
    typer.Option("--policy", help="A policy file or a shipped name [default: `default`]."),
]
Config = Annotated[str | None, typer.Option("--config", help="A prism.yaml.")]
Host = Annotated[str, typer.Option("--host", help="Where to listen.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print where it listens, or what is wrong, as JSON.")
]
"""The options of every command that serves."""


def server_models() -> Models:
    """Return the score models as a server here would have them: ``PRISM_CONFIG`` names a guard.

    Raises ``ProblemsError``.
    """
    from prism.classify.models import Models

    if os.environ.get("PRISM_CONFIG"):
        from prism.config import Settings

        return Settings.from_env().models
    return Models.shared()


def given_settings(
    policy: str | None, config: str | None, as_json: bool
) -> tuple[dict[str, str], Settings]:
    """Check everything as a server will, name the policy, and return it all.

    The first item is what tells another process where to look.
    """
    from prism.config import Settings
    from prism.policy.store import locate

    with reporting(as_json):
        given: dict[str, str] = {}
        if config is not None:
            given["PRISM_CONFIG"] = str(Path(config).resolve())
        if policy is not None:  # absolute: the engine may change its working directory
            given["PRISM_POLICY"] = str(locate(policy).resolve())
        settings = Settings.from_env({**os.environ, **given})
    typer.echo(
        f"prism: policy {settings.policy.id} ({settings.policy.digest[:12]}), "
        f"{len(settings.policy.rules)} rules",
        err=True,
    )
    return given, settings


def starting(settings: Settings, address: str, **more: str) -> None:
    """Print as JSON what is about to serve at ``address`` (``HOST:PORT``), for ``--json``.

    A program that started it need not read the lines for people, and learns a free port's number.
    """
    here = f"http://{address}"
    policy = {"id": settings.policy.id, "digest": settings.policy.digest}
    print_json({"url": here, "health": f"{here}/prism/health", **more, "policy": policy})
