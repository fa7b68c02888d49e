"""``prism bench``: what a policy costs on this machine."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prism.cli.given import Policy, given_policy, given_text
from prism.cli.output import Json, bad_input, print_json, reporting
from prism.cli.settings import server_models

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prism.assure.costs import Cost
    from prism.moderator import Moderator


def bench(
    text: Annotated[
        str | None, typer.Argument(help="The text; - reads standard input [default: a short one].")
    ] = None,
    policy: Policy = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="A tokenizer.json or a GGUF file (needs llama-cpp-python): measure the token "
            "layer with its vocabulary, too."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=4096, help="Rows that decode together.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Of each measurement.")] = 9,
    as_json: Json = False,
) -> None:
    """Measure what a policy costs here: the text layer, the models and the token layer.

    Figures are CPU time: the median over the rounds and its 95 % interval. A piece is a word with
    the space before it. No engine is run: `make bench` in a clone compares with bare engines.

    Exit code 0. 2: bad input.

    \b
    Example:
      prism bench --policy house.yaml
      prism bench --model model.gguf --rows 256 --json - < answer.txt
    """
    # Late: they take NumPy along, and `prism --help` doesn't need it.
    from prism.assure.costs import TEXT, BlockedTextError

    given = TEXT if text is None else given_text(text, as_json)
    if not given.split():
        bad_input("the text has no words: there is nothing to measure", as_json)
    with reporting(as_json):
        from prism.moderator import Moderator

        moderator = Moderator(given_policy(policy), server_models())
    costs = _measured(moderator, given, model, rows, rounds, as_json)
    about = {
        "policy": {"id": moderator.policy.id, "digest": moderator.policy.digest},
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "characters": len(given),
    }
    try:
        _show(costs, about, rounds, as_json)
    except BlockedTextError as error:
        bad_input(str(error), as_json)


def _show(costs: Iterable[Cost], about: dict[str, Any], rounds: int, as_json: bool) -> None:
    if as_json:
        print_json({**about, "costs": [_json(cost) for cost in costs]})
        return
    policy = about["policy"]
    typer.echo(
        f"policy {policy['id']} ({policy['digest'][:12]}), {about['characters']} characters, "
        f"{rounds} round{'s' if rounds > 1 else ''}; CPU time, median (95 % interval)"
    )
    for cost in costs:
        typer.echo(f"  {_told(cost)}")


def _measured(
    moderator: Moderator, text: str, model: Path | None, rows: int, rounds: int, as_json: bool
) -> Iterable[Cost]:
    """Return the costs; while a person waits at a terminal, as they are known."""
    from prism.assure.costs import check_costs, text_costs, token_costs
    from prism.assure.vocabularies import read_vocabulary
    from prism.steer.vocabulary import VocabularyError

    vocabulary = None
    if model is not None:
        try:
            vocabulary = read_vocabulary(model)
        except VocabularyError as error:
            bad_input(f"--model: {error}", as_json)

    def measured() -> Iterator[Cost]:
        yield from text_costs(moderator, text, rounds)
        yield from check_costs(moderator, text, rounds)
        if vocabulary is not None:
            ids = vocabulary.encode(text)
            yield from token_costs(moderator.policy, vocabulary, ids, rows, rounds)

    return measured()


def _json(cost: Cost) -> dict[str, Any]:
    return {"name": cost.name, "unit": cost.unit, **asdict(cost.spread)}


def _told(cost: Cost) -> str:
    found = cost.spread
    return f"{cost.name:<28} {found.median:9.3g} ({found.low:.3g} to {found.high:.3g}) {cost.unit}"
