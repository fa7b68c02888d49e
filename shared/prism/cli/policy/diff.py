"""``prism policy diff``."""

from __future__ import annotations

from typing import Annotated

import typer

from prism.cli.output import DIFFERS, Json, print_json, reporting
from prism.policy.diff import Change, list_change


def diff(
    old: Annotated[str, typer.Argument(help="A policy file or a shipped name.")],
    new: Annotated[str, typer.Argument(help="A policy file or a shipped name.")],
    as_json: Json = False,
) -> None:
    """Say what two policies do differently, and whether the second is stricter or looser.

    Comments, order and how inheritance is spread over files don't count.
    Exit code 0: they do the same. 1: they differ. 2: bad input.

    \b
    Example:
      prism policy diff default house.yaml
      prism policy diff --json old.yaml new.yaml
    """
    from prism.policy.compiler import load_policy
    from prism.policy.diff import diff as compare

    with reporting(as_json):
        before, after = load_policy(old), load_policy(new)
    changes = compare(before, after)
    if as_json:
        print_json(
            {
                "same": not changes,
                "old": {"id": before.id, "digest": before.digest},
                "new": {"id": after.id, "digest": after.digest},
                "changes": [change.to_json() for change in changes],
            }
        )
    else:
        for change in changes:
            typer.echo(_line(change))
    if changes:
        raise typer.Exit(DIFFERS)


def _line(change: Change) -> str:
    subject = f"rule {change.rule}" if change.rule else "policy"
    if not change.key:
        gone = change.new is None
        rule = change.old if gone else change.new
        what = "removed" if gone else "added"
        return f"{subject}: {what} ({rule['action']}, {rule['category']})  [{change.direction}]"
    lists = list_change(change.old, change.new)
    if lists is None:
        detail = f"{_value(change.old)} -> {_value(change.new)}"
    else:
        lost, gained = lists
        detail = ", ".join([*(f"-{_value(x)}" for x in lost), *(f"+{_value(x)}" for x in gained)])
    return f"{subject}: {change.key}: {detail}  [{change.direction}]"


def _value(value: object) -> str:
    if value is None:
        return "(nothing)"
    if isinstance(value, dict) and "pattern" in value:
        return f"/{value['pattern']}/{'i' if value['ignore_case'] else ''}"
    return repr(value) if isinstance(value, str) and " " in value else str(value)
