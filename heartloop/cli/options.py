"""What commands share: their options, and how they find people and say what came."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from heartloop.types import Scenario

OPTIONS: dict[str, Any] = {
    "rich_markup_mode": None, "add_completion": False, "pretty_exceptions_enable": False,
}  # fmt: skip
app = typer.Typer(help="Dialogue policies, and simulated users that feel and score.", **OPTIONS)
"""Where each command registers itself, in the order of the help text."""

PolicyName = Annotated[
    str,
    typer.Argument(
        help='A scripted policy, "seedling", a folder, hf:ID, openai:NAME@URL or hacker:NAME; '
        "LOOP:POLICY for one in a test-time loop."
    ),
]
Source = Annotated[str, typer.Option("--scenarios", help='"train", "test" or a file.')]
UserName = Annotated[
    str, typer.Option(help='Simulated user: "embedded", or "sage:" with a model (openai:NAME@URL).')
]
PresetName = Annotated[str, typer.Option(help="Rules of the dialogue.")]
RewardSpec = Annotated[str, typer.Option(help='Rewards, such as "final+0.2*length".')]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
MaxErrored = Annotated[
    float, typer.Option(min=0, max=1, help="Share that may stay unscored before it exits 1.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")]
Episodes = Annotated[list[Path], typer.Argument(help="Files of episodes.")]
NewJsonl = Annotated[Path | None, typer.Option(help="New file for the results.")]


def complain(problem: object, code: int) -> int:
    """Say in one line what is wrong, and return the exit code."""
    print("heartloop:", " ".join(str(problem).split()), file=sys.stderr)
    return code


def lost(errored: int, number: int, most: float) -> int:
    """Exit code of a run of which a part could not be scored."""
    if errored <= most * number:
        return 0
    return complain(f"{errored} of {number} could not be scored, more than {most:.0%}", 1)


def count(number: int, noun: str, plural: str = "s") -> str:
    """A number with its noun."""
    return f"{number} {noun}{'' if number == 1 else plural}"


def usage() -> Any:
    """What calls of language models took so far."""
    from heartloop.llm import LEDGER

    return LEDGER.record()


def find_scenarios(source: str) -> Sequence[Scenario]:
    """The scenarios of a split or a file."""
    from heartloop.simusers.scenario import scenarios

    return scenarios(source)


def find_scenario(name: str | None, sources: Sequence[str], seed: int) -> Scenario:
    """The scenario of that id, or of an id that begins so; without a name the seed picks one."""
    from difflib import get_close_matches

    from heartloop.errors import UnknownName

    known = {s.id: s for source in sources for s in find_scenarios(source)}
    if name is None:
        return list(known.values())[seed % len(known)]
    started = [i for i in known if i.startswith(name)]
    if name in known or len(started) == 1:
        return known[name if name in known else started[0]]
    near = started[:3] or get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "see: heartloop scenarios list"
    raise UnknownName(f"no scenario called {name!r} in {', '.join(sources)}; {hint}")


def show_all(renderables: Iterable[Any]) -> None:
    """Print tables and lines."""
    from heartloop.policy.evals.show import console

    console().print(*renderables, sep="\n")
