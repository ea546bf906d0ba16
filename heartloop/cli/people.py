"""Commands about scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heartloop.cli.options import OPTIONS, Seed, app, count, find_scenario, find_scenarios

scenarios_app = typer.Typer(help="Build, list, show and validate scenarios.", **OPTIONS)
app.add_typer(scenarios_app, name="scenarios")


@scenarios_app.command("build", epilog="Example: heartloop scenarios build train --out more.jsonl")
def build(
    split: Annotated[str, typer.Argument(help='"train" or "test", which share no person.')],
    out: Annotated[Path, typer.Option(help="New file.")],
    number: Annotated[int | None, typer.Option(min=1, help="Default: as shipped.")] = None,
    seed: Seed = 2026,
) -> None:
    """Compose scenarios from the authored parts."""
    from heartloop.simusers.compose import PACK, compose
    from heartloop.simusers.scenario import save

    made = compose(split, number or PACK.get(split, 1), seed)
    save(out, made)
    print(f"{out}: {count(len(made), 'scenario')}")


@scenarios_app.command("list", epilog="Example: heartloop scenarios list test")
def list_scenarios(
    source: Annotated[str, typer.Argument(help='"train", "test" or a file.')] = "test",
) -> None:
    """List scenarios, one a line."""
    from heartloop.policy.evals.show import plain

    for s in find_scenarios(source):
        print(
            f"{plain(s.id):<42} {s.goal:<10} {s.group:<9} {s.felt:<16} {plain(s.situation.title)}"
        )


@scenarios_app.command("show", epilog="Example: heartloop scenarios show test-000-friendship")
def show_scenario(
    name: Annotated[str, typer.Argument(help="Id of a scenario.")],
    source: Annotated[
        list[str] | None, typer.Option("--scenarios", help='"train", "test" or a file.')
    ] = None,
) -> None:
    """Show a scenario, the hidden parts included."""
    print(find_scenario(name, source or ["test", "train"], 0).model_dump_json(indent=2))


@scenarios_app.command("validate", epilog="Example: heartloop scenarios validate mine.jsonl")
def validate(files: Annotated[list[Path], typer.Argument(help="Files of scenarios.")]) -> None:
    """Check files of scenarios; the first broken line is named with its reason."""
    from heartloop.simusers.scenario import load

    for path in files:
        print(f"{path}: {count(len(load(path)), 'scenario')}, all valid")


@app.command(epilog="Example: heartloop version")
def version() -> None:
    """Print the versions that scores depend on."""
    from importlib.metadata import version

    from heartloop.rewards.answers import VERIFIERS
    from heartloop.rewards.fact_judge import FactJudge
    from heartloop.simusers.registry import STYLES, make_user
    from heartloop.simusers.sage_record import reader

    print("heartloop", version("heartloop"))
    for user in (make_user("embedded").id, *map(reader, STYLES.values())):
        print(user)
    for check in VERIFIERS.values():
        print(check.id)
    print(FactJudge.version)
