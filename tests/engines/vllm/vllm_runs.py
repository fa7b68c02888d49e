"""How the vLLM tests run other processes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
API_KEY = "key-of-the-tests"
ADMIN_KEY = "operators-key-of-the-tests"


def result_of(script: str, *args: str, env: dict[str, str], timeout: float = 1200) -> Any:
    """Run a script of this folder and return the JSON it prints."""
    run = subprocess.run(
        [sys.executable, str(HERE / script), *args],
        capture_output=True,
        text=True,
        env=env,
        timeout=timeout,
        check=False,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, f"exit {run.returncode}\n{run.stdout[-2000:]}\n{run.stderr[-6000:]}"
    return json.loads(lines[-1].removeprefix("RESULT "))


@dataclass
class Server:
    """A running API server. ``seen``: what its health route answered until it was healthy."""

    url: str
    seen: list[int]
    log: Path

    def client(self, **options: Any) -> httpx.Client:
        """Return a client with the right key."""
        headers = {"authorization": f"Bearer {API_KEY}", **options.pop("headers", {})}
        return httpx.Client(base_url=self.url, headers=headers, timeout=180, **options)
