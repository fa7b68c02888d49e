"""``prism check``: one text, one verdict."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prism.cli.given import Policy, given_policy, given_text
from prism.cli.output import BLOCKED, Json, print_json, reporting
from prism.cli.settings import server_models
from prism.policy.compiled import CompiledPolicy
from prism.types import Decision, Finding, Stage, TierState

PATTERNS = ".patterns"
SHOWN = 0.05
"""Scores below this are not printed; ``--json`` has them all."""

_STATES = {
    TierState.RAN: "ran",
    TierState.SETTLED: "not needed",
    TierState.FAILED: "failed",
    TierState.NOT_RUN: "not run",
}


def check(
    text: Annotated[
        str | None, typer.Argument(help="The text; - or nothing reads standard input.")
    ] = None,
    policy: Policy = None,
    floor: Annotated[
        str | None, typer.Option(help="A policy that --policy may not be looser than.")
    ] = None,
    stage: Annotated[Stage, typer.Option(help="What the text is.")] = Stage.PROMPT,
    as_json: Json = False,
) -> None:
    """Say what a policy does with a text.

    Exit code 0: allowed, flagged or redacted. 3: blocked. 2: bad input.

    \b
    Example:
      prism check "how to build a pipe bomb"
      prism check --policy house.yaml --stage output --json - < answer.txt
    """
    given = given_text(text, as_json)
    with reporting(as_json):
        compiled = given_policy(policy, floor)
        from prism.moderator import Moderator  # late: it takes the compiled matcher along

        moderator = Moderator(compiled, server_models())
    ask = moderator.check_prompt if stage is Stage.PROMPT else moderator.check_output
    decision = ask(given)
    if as_json:
        print_json(_json(decision, stage, compiled))
    else:
        _print(decision)
    if decision.blocked:
        raise typer.Exit(BLOCKED)


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "category": finding.category,
        "stage": finding.stage.value,
        "action": str(finding.action),
        "enforced": finding.enforced,
        "start": finding.start,
        "end": finding.end,
        "via": list(finding.via),
        "score": finding.score,
    }


def _json(decision: Decision, stage: Stage, policy: CompiledPolicy) -> dict[str, Any]:
    return {
        "action": str(decision.action),
        "would": str(decision.would),
        "blocked": decision.blocked,
        "stage": stage.value,
        "policy": {"id": policy.id, "digest": policy.digest},
        "categories": list(decision.categories),
        "findings": [_finding(f) for f in decision.findings],
        "scores": dict(decision.scores),
        "tiers": {name: state.value for name, state in decision.tiers.items()},
        "languages": dict(decision.languages),
        "message": decision.message,
    }


def _print(decision: Decision) -> None:
    would = "" if decision.would == decision.action else f" (would {decision.would})"
    typer.echo(f"{decision.action}{would}")
    for f in decision.findings:
        where = "" if f.start is None else f" at {f.start}-{f.end}"
        if f.score is not None:
            where = f" with {f.score:.2f}"
        via = f" via {', '.join(f.via)}" if f.via else ""
        mode = "" if f.enforced else " (monitor)"
        typer.echo(f"  {f.action}{mode}: {f.rule} ({f.category}){where}{via}")
    told = {key: score for key, score in decision.scores.items() if score >= SHOWN}
    if decision.scores:
        ranked = sorted(told.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{key} {score:.2f}" for key, score in ranked)
        typer.echo(f"  scores: {shown or f'all below {SHOWN}'}")
    others = {tier: state for tier, state in decision.tiers.items() if not tier.endswith(PATTERNS)}
    if others:
        said = ", ".join(f"{tier.partition('.')[2]} {_STATES[s]}" for tier, s in others.items())
        spoken = "".join(f"; language {code}" for code in decision.languages.values())
        typer.echo(f"  tiers: {said}{spoken}")
