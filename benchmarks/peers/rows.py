"""The products that go through the suite, and how each is started.

``{bin}`` is the folder of the programs of the product's own environment, ``{here}`` this folder,
``{port}`` where to listen and ``{upstream}`` the scripted engine's address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_KEY = "sk-conform-0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Peer:
    """One product."""

    name: str
    environment: str
    """Also the name of the file of requirements."""
    command: tuple[str, ...]
    ready: str
    environ: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    path: str = ""
    """In front of the API's routes."""


def _shim(module: str) -> tuple[str, ...]:
    return (
        "{bin}/python", "-m", "uvicorn", f"{module}:app", "--app-dir", "{here}",
        "--host", "127.0.0.1", "--port", "{port}", "--log-level", "info",
    )  # fmt: skip


def _nemo(folder: str) -> Peer:
    return Peer(
        folder,
        "nemoguardrails",
        (
            "{bin}/nemoguardrails", "server", "--config", f"{{here}}/{folder}",
            "--default-config-id", folder, "--port", "{port}", "--disable-chat-ui",
        ),
        "/",
        {"MAIN_MODEL_BASE_URL": "{upstream}/v1", "OPENAI_API_KEY": "unused"},
    )  # fmt: skip


PEERS = (
    Peer(
        "litellm",
        "litellm",
        (
            "{bin}/litellm", "--config", "{here}/litellm.yaml",
            "--host", "127.0.0.1", "--port", "{port}",
        ),
        "/health/liveliness",
        {"LITELLM_MASTER_KEY": _KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True",
         "UPSTREAM_V1": "{upstream}/v1"},
        ("--api-key", _KEY),
    ),
    _nemo("nemo"),
    _nemo("nemo_default"),
    Peer(
        "openai-guardrails",
        "openai-guardrails",
        _shim("openai_guardrails_server"),
        "/v1/models",
        {"UPSTREAM_V1": "{upstream}/v1"},
    ),
    Peer(
        "guardrails-ai",
        "guardrails-ai",
        (
            "{bin}/guardrails-api", "start", "--config", "{here}/guardrails_ai_config.py",
            "--port", "{port}",
        ),
        "/health-check",
        # Its home says that no metrics are to be sent: without a network they hold answers up.
        {"OPENAI_API_BASE": "{upstream}/v1", "OPENAI_API_KEY": "unused",
         "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": "{here}/guardrails_ai_home"},
        ("--model", "openai/conform"),
        path="/guards/house/openai",
    ),
)  # fmt: skip
