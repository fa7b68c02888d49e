"""The commands that the documents show, run as they stand there, say what the documents say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
POLICIES = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
TENANTS = (ROOT / "docs" / "tenants.md").read_text(encoding="utf-8")
VARIES = (
    r"scores: .*",  # the weights' matter
    r"with 0\.\d\d",
    r"[0-9a-f]{12}(?=\)|_| works)",  # digests and ids of keys
    r"_(…|[0-9a-f]{48}\b)",  # secrets
    r"\d{4}-\d\d-\d\dT[\d:]+Z",
)


def blocks(text: str, kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for its, block in found if its == kind]


def shown(text: str) -> list[tuple[list[str], str]]:
    """Return the commands of the console blocks, and what is printed below each."""
    found = []
    for block in blocks(text, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((shlex.split(command, comments=True), output))
    return found


def steady(text: str) -> str:
    """Return the text without what is another each time."""
    for pattern in VARIES:
        text = re.sub(pattern, "~", text)
    return text


def test_the_readmes_commands(prism, house: Path) -> None:
    (policy,) = blocks(README, "yaml")
    (house / "my.yaml").write_text(policy)
    ask = "Where is the zephyr lantern?"
    (house / "my.tests.yaml").write_text(
        f"tests:\n  - {{name: asked, stage: prompt, text: {ask}, expect: block}}\n"
    )
    rows = [f'{{"prompt": "{ask}", "label": 1}}', '{"prompt": "Good morning", "label": 0}']
    for name in ("rows.jsonl", "labelled.jsonl"):
        (house / name).write_text("\n".join(rows))
    block = next(part for part in blocks(README, "") if "prism policy lint my.yaml" in part)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert len(commands) == 7
    codes = {" ".join(command[1:3]): prism(*command[1:]).code for command in commands}
    assert codes == {
        "policy lint": 0, "policy test": 0, "policy show": 0, "policy diff": 1, "check --policy": 3,
        "scan --policy": 0, "eval --policy": 0,
    }  # fmt: skip
    assert len((house / "verdicts.jsonl").read_text().splitlines()) == 2


def test_the_readmes_way_to_tenants(prism, house: Path) -> None:
    block = next(part for part in blocks(README, "") if "prism tenant add" in part)
    make, add, check, serve = (shlex.split(line, comments=True) for line in block.splitlines())
    assert (make[0], make[2:]) == ("printf", [">", "prism.yaml"])
    (house / "prism.yaml").write_text(make[1].replace("\\n", "\n"))
    assert prism(*add[1:]).out.startswith("prism_")
    assert prism(*check[1:]).out == "1 file: 0 errors, 0 warnings\n"
    assert serve[:4] == ["prism", "serve", "--config", "prism.yaml"]


# All but the one that shows mistakes, in a file that the text describes.
ASKED = [(command, output) for command, output in shown(POLICIES) if "2 errors" not in output]


@pytest.mark.parametrize(("command", "output"), ASKED, ids=lambda value: str(value)[:60])
def test_what_the_guide_to_policies_shows(prism, house: Path, command, output) -> None:
    policy, tests = blocks(POLICIES, "yaml")[:2]
    trial = "amber quokka" in command
    if not trial:  # that one asks of a rule that the text describes
        (house / "house.yaml").write_text(policy)
        (house / "house.tests.yaml").write_text(tests)
    said = steady(prism(*command[1:]).out)
    if "…" in output:
        assert said.startswith(steady(output).partition("  …")[0])
    else:
        assert said == steady(output)


def test_the_guide_to_policies_shows_commands() -> None:
    assert len(ASKED) == 6


def test_what_the_guide_to_tenants_shows(prism, house: Path) -> None:
    (house / "prism.yaml").write_text(blocks(TENANTS, "yaml")[0])
    add, json, _, rotate = shown(TENANTS)[:4]
    for command, output in (add, rotate):
        result = prism(*command[1:])
        assert result.code == 0
        assert steady(result.err + result.out) == steady(output)
    made = prism(*json[0][1 : json[0].index(">")])
    assert made.json["tenant"] == "school"
