"""``prism conform`` against a real engine behind the proxy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PRISM = Path(sys.executable).with_name("prism")


def conform(url: str, *options: str) -> dict[str, dict[str, Any]]:
    """Run the suite as a user does and return its checks by name; none failed."""
    asked = [str(PRISM), "conform", url, "--json", "--patience", "180", *options]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["checks"]}
    assert {row["outcome"] for row in rows.values()} == {"passed", "not applicable"}
    return rows


def passed(rows: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, row in rows.items() if row["outcome"] == "passed"}
