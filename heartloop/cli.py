"""The command line: each command checks its input, calls one function and prints what came."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from heartloop.env.play import Policy
    from heartloop.types import Scenario

_ClickError: type[Exception] = typer.BadParameter.__mro__[2]
"""Root of the errors of the option parser, which typer does not export."""
_OPTIONS: dict[str, Any] = {
    "rich_markup_mode": None, "add_completion": False, "pretty_exceptions_enable": False,
}  # fmt: skip
app = typer.Typer(help="Dialogue policies, and simulated users that feel and score.", **_OPTIONS)
scenarios_app = typer.Typer(help="Build, list, show and validate scenarios.", **_OPTIONS)
app.add_typer(scenarios_app, name="scenarios")

_Policy = Annotated[
    str,
    typer.Argument(
        help='A scripted policy, "seedling", a folder, hf:ID, openai:NAME@URL or hacker:NAME.'
    ),
]
_Source = Annotated[str, typer.Option("--scenarios", help='"train", "test" or a file.')]
_User = Annotated[
    str, typer.Option(help='Simulated user: "embedded", or "sage:" with a model (openai:NAME@URL).')
]
_Preset = Annotated[str, typer.Option(help="Rules of the dialogue.")]
_Reward = Annotated[str, typer.Option(help='Rewards, such as "final+0.2*length".')]
_Seed = Annotated[int, typer.Option(min=0, help="Same seed, same result.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_MaxErrored = Annotated[
    float, typer.Option(min=0, max=1, help="Share that may stay unscored before it exits 1.")
]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code is 2 for wrong input, 1 for a failure, 130 when stopped."""
    from heartloop.errors import HeartloopError, InvalidInput

    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if argv is None:
        sys.path.insert(0, "")  # rewards that are functions of the user's own folder
    try:
        result = typer.main.get_command(app).main(words, "heartloop", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except InvalidInput as error:
        return _complain(error, 2)
    except HeartloopError as error:
        return _complain(error, 1)
    except _ClickError as error:
        return _complain(error.format_message(), 2)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        return _complain("stopped", 130)
    except BrokenPipeError:
        # The reader has left; without this the interpreter would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _complain(problem: object, code: int) -> int:
    print("heartloop:", " ".join(str(problem).split()), file=sys.stderr)
    return code


@app.command(epilog="Example: heartloop play reflective --seed 3")
def play(
    policy: _Policy = "reflective",
    scenario: Annotated[str | None, typer.Option(help="Id; by default the seed picks one.")] = None,
    source: _Source = "test",
    user: _User = "embedded",
    preset: _Preset = "default",
    reward: _Reward = "final",
    seed: _Seed = 0,
    out: Annotated[Path | None, typer.Option(help="New file for the episode.")] = None,
) -> int:
    """Play one scored dialogue, with its emotion trace."""
    from heartloop.policy.evals import show
    from heartloop.policy.evals.evaluate import evaluate

    chosen = _scenario(scenario, [source], seed)
    actor = _make_policy(policy)
    (played,) = evaluate(
        actor, [chosen], user=user, preset=preset, reward=reward, seed=seed, out=out
    )
    _print(show.episode(played))
    return _lost(int(bool(played.error)), 1, 0)


@app.command(epilog="Example: heartloop chat seedling --mode help")
def chat(
    policy: _Policy = "seedling",
    mode: Annotated[str, typer.Option(help="talk, help, watch, replay or compare.")] = "talk",
    against: Annotated[str, typer.Option(help="Second policy of compare.")] = "reflective",
    user: _User = "embedded",
    preset: _Preset = "default",
    source: _Source = "test",
    scenario: Annotated[str, typer.Option(help="Id, or how it begins.")] = "",
    run: Annotated[Path | None, typer.Option(help="Run directory or episodes to replay.")] = None,
    number: Annotated[int | None, typer.Option(help="Stored session, or episode.")] = None,
    seed: _Seed = 0,
    data_dir: Annotated[Path | None, typer.Option(help="Where sessions are kept.")] = None,
) -> None:
    """Talk to a policy, help a simulated user, or watch, in the terminal."""
    from heartloop.chat.client import chat
    from heartloop.chat.entries import Mode
    from heartloop.errors import unknown

    if mode not in set(Mode):
        raise unknown("mode", mode, Mode)
    chat(
        policy, Mode(mode), against=against, user=user, preset=preset, source=source,
        scenario=scenario, run=run, number=number, seed=seed, folder=data_dir,
    )  # fmt: skip


@app.command(epilog="Example: heartloop train configs/seedling.toml --set grpo.steps=20")
def train(
    config: Annotated[Path, typer.Argument(help="TOML file of settings.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: section.key=value.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.")] = None,
    resume: _Resume = False,
) -> None:
    """Train a policy against simulated users."""
    from heartloop.config import load
    from heartloop.policy.train.run import train

    folder = [f"run.out={json.dumps(str(out))}"] if out else []
    train(load(config, [*(settings or []), *folder]), resume=resume)


@app.command(epilog="Example: heartloop warmup --out runs/warm")
def warmup(
    out: Annotated[Path, typer.Option(help="Folder of the model; must not hold files.")],
    seed: _Seed = 7,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 2050,
    batch: Annotated[int, typer.Option(min=1, help="Dialogues a step.")] = 8,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long.")] = None,
    resume: _Resume = False,
) -> None:
    """Rebuild the seedling, the built-in small policy, from nothing."""
    from heartloop.policy.seedling.warmup import warmup

    warmup(out, seed, steps, batch=batch, minutes=minutes, resume=resume, report=_row)
    print(out)


def _row(row: dict[str, float]) -> None:
    print("  ".join(f"{name} {value:g}" for name, value in row.items()), file=sys.stderr)


@app.command(epilog="Example: heartloop evaluate seedling --number 50 --out seedling.jsonl")
def evaluate(
    policy: _Policy,
    source: _Source = "test",
    number: Annotated[int, typer.Option(min=1, help="Scenarios, from the first.")] = 100,
    user: _User = "embedded",
    preset: _Preset = "default",
    reward: _Reward = "final",
    seed: _Seed = 0,
    out: Annotated[Path | None, typer.Option(help="New file for the episodes.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Most dialogues at a time; 64 where users wait.")
    ] = None,
    max_errored: _MaxErrored = 0.1,
    as_json: _Json = False,
) -> int:
    """Measure a policy on many scenarios."""
    from heartloop.policy.evals import show
    from heartloop.policy.evals.evaluate import evaluate, summary

    people = _scenarios(source)[:number]
    actor = _make_policy(policy)
    found = summary(evaluate(
        actor, people, user=user, preset=preset, reward=reward, seed=seed, out=out, batch=batch,
    ))  # fmt: skip
    if as_json:
        print(json.dumps(found.model_dump(mode="json") | {"usage": _usage()}, indent=2))
    else:
        _print([*show.summary(policy, found), *show.usage()])
    return _lost(found.errored, found.episodes, max_errored)


def _lost(errored: int, number: int, most: float) -> int:
    """Exit code of a run of which a part could not be scored."""
    if errored <= most * number:
        return 0
    return _complain(f"{errored} of {number} could not be scored, more than {most:.0%}", 1)


def _usage() -> Any:
    from heartloop.llm import LEDGER

    return LEDGER.record()


_Episodes = Annotated[list[Path], typer.Argument(help="Files of episodes.")]
_NewJsonl = Annotated[Path | None, typer.Option(help="New file for the results.")]


@app.command(epilog="Example: heartloop rescore runs/seedling/eval-after.jsonl --user embedded")
def rescore(
    files: _Episodes,
    user: Annotated[str | None, typer.Option(help="Simulated user that scores.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Rules of the dialogue; default: as recorded.")
    ] = None,
    reward: Annotated[str | None, typer.Option(help="Reward that scores.")] = None,
    out: _NewJsonl = None,
    max_errored: _MaxErrored = 0.1,
    as_json: _Json = False,
) -> int:
    """Score stored dialogues again with another user or reward; no policy is called."""
    from heartloop.env.record import read
    from heartloop.errors import InvalidInput
    from heartloop.policy.evals import show
    from heartloop.policy.evals.rescore import agreement, rescore_files

    if user is None and reward is None:
        raise InvalidInput("nothing to score with: give --user, --reward or both")
    episodes = (episode for path in files for _, episode in read(path))
    found = agreement(rescore_files(episodes, user, preset, reward, out))
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        _print([*show.agreement(found), *show.usage()])
    return _lost(found.errored, found.dialogues, max_errored)


@app.command(epilog="Example: heartloop repeatability run.jsonl --user sage:openai:NAME@URL")
def repeatability(
    files: _Episodes,
    user: Annotated[str, typer.Option(help='"sage:" with a model.')],
    preset: _Preset = "default",
    number: Annotated[int, typer.Option(min=1, help="Replies, from the first.")] = 100,
    times: Annotated[int, typer.Option(min=2, help="Scorings of each.")] = 5,
    seed: _Seed = 0,
    out: Annotated[Path | None, typer.Option(help="New file for the figures.")] = None,
    max_errored: _MaxErrored = 0.1,
) -> int:
    """Score the same replies several times: how often do signs flip, how far do they spread?"""
    from heartloop.env.record import read
    from heartloop.errors import InvalidInput
    from heartloop.policy.evals.repeatability import repeatability, save
    from heartloop.simusers.registry import make_user
    from heartloop.simusers.sage import SageUser

    judge = make_user(user, preset)
    if not isinstance(judge, SageUser):
        raise InvalidInput(f"expected a user that a model plays, got {user!r}: its rules repeat")
    episodes = (episode for path in files for _, episode in read(path))
    found = repeatability(judge, episodes, number, times, seed)
    if out:
        save(found, out)
    print(found.model_dump_json(indent=2, exclude={"changes"}))
    return _lost(found.errored, found.contexts, max_errored)


@app.command(
    epilog="Example: heartloop solve tasks.jsonl --policy hf:PATH --loop heart --loop neutral"
)
def solve(
    tasks: Annotated[Path, typer.Argument(help="File of questions with answers.")],
    policy: Annotated[str, typer.Option(help="Who answers, as in evaluate.")],
    loop: Annotated[list[str], typer.Option(help="Test-time loop; each is an arm.")],
    control: Annotated[str | None, typer.Option(help="The arm others are compared to.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Calls of the policy for a task.")] = 5,
    oracle: Annotated[bool, typer.Option("--oracle", help="Let the verifier stop loops.")] = False,
    at_once: Annotated[int, typer.Option(min=1, help="Tasks under way at a time.")] = 8,
    seed: _Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder; each arm is a file in it.")] = None,
    resume: _Resume = False,
    as_json: _Json = False,
) -> None:
    """Answer questions with test-time loops, side by side."""
    from heartloop.policy.loops.arms import solve_arms
    from heartloop.policy.loops.summary import table
    from heartloop.policy.loops.tasks import load

    rows = solve_arms(
        loop, _make_policy(policy), load(tasks), samples=samples, control=control, oracle=oracle,
        at_once=at_once, seed=seed, out=out, resume=resume,
    )  # fmt: skip
    if as_json:
        print(json.dumps([row.model_dump(mode="json") for row in rows], indent=2))
    else:
        _print([table(rows)])


@app.command(epilog="Example: heartloop serve embedded reflective brain --port 8000")
def serve(
    models: Annotated[
        list[str], typer.Argument(help='"embedded", "brain" (a scripted SAGE user), policies.')
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    public: Annotated[
        bool, typer.Option("--public", help="Allow a host that others can reach.")
    ] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Answer with the appraisal.")] = False,
    preset: _Preset = "default",
) -> None:
    """Offer simulated users and policies as an OpenAI-compatible endpoint."""
    from heartloop.policy.serve.app import serve

    serve(models, host, port, public, reveal, preset)


@app.command(epilog="Example: heartloop stress --policy seedling --number 50")
def stress(
    policy: Annotated[list[str] | None, typer.Option(help="Another one to compare.")] = None,
    source: _Source = "test",
    number: Annotated[int, typer.Option("--number", "--n", min=1, help="Scenarios.")] = 100,
    user: _User = "embedded",
    preset: _Preset = "default",
    seed: _Seed = 0,
    as_json: _Json = False,
) -> int:
    """Can the users be gamed? Exits 1 when a hacker does."""
    from heartloop.policy.evals.stress import COMPARED, stress, table

    people = _scenarios(source)[:number]
    compared = [_make_policy(name) for name in dict.fromkeys((*COMPARED, *(policy or [])))]
    result = stress(people, compared, user=user, preset=preset, seed=seed)
    if as_json:
        print(json.dumps(result.record(), indent=2))
    else:
        _print([table(result)])
    over = [row.policy for row in result.rows if not row.passed]
    return _complain(f"over their bound: {', '.join(over)}", 1) if over else 0


@app.command(epilog="Example: heartloop verify runs/seedling/eval-after.jsonl")
def verify(
    files: Annotated[list[Path], typer.Argument(help="Files of episodes.")],
    functions: Annotated[
        bool, typer.Option("--functions", help="Import rewards that are Python functions.")
    ] = False,
) -> int:
    """Recompute recorded scores; exits 1 on any mismatch, 2 when lines are no episodes."""
    from heartloop.env.record import scan
    from heartloop.env.verify import check
    from heartloop.errors import InvalidInput

    lines, wrong = 0, Counter[str]()
    for path in files:
        before = lines
        for line, row in scan(path):
            lines += 1
            for found in check(row, line, functions=functions):
                wrong[found.kind] += 1
                print(f"{path}:{line}: {found.text}")
        if lines == before:
            raise InvalidInput(f"{path} holds no episode")
    if wrong:
        found_all = _count(wrong.total(), "mismatch", "es")
        return _complain(f"{found_all} in {_count(lines, 'line')}", 2 if wrong["broken"] else 1)
    print(_count(lines, "episode"), "verified")
    return 0


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


@scenarios_app.command("build", epilog="Example: heartloop scenarios build train --out more.jsonl")
def build(
    split: Annotated[str, typer.Argument(help='"train" or "test", which share no person.')],
    out: Annotated[Path, typer.Option(help="New file.")],
    number: Annotated[int | None, typer.Option(min=1, help="Default: as shipped.")] = None,
    seed: _Seed = 2026,
) -> None:
    """Compose scenarios from the authored parts."""
    from heartloop.simusers.compose import PACK, compose
    from heartloop.simusers.scenario import save

    made = compose(split, number or PACK.get(split, 1), seed)
    save(out, made)
    print(f"{out}: {_count(len(made), 'scenario')}")


@scenarios_app.command("list", epilog="Example: heartloop scenarios list test")
def list_scenarios(
    source: Annotated[str, typer.Argument(help='"train", "test" or a file.')] = "test",
) -> None:
    """List scenarios, one a line."""
    from heartloop.policy.evals.show import plain

    for s in _scenarios(source):
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
    print(_scenario(name, source or ["test", "train"], 0).model_dump_json(indent=2))


@scenarios_app.command("validate", epilog="Example: heartloop scenarios validate mine.jsonl")
def validate(files: Annotated[list[Path], typer.Argument(help="Files of scenarios.")]) -> None:
    """Check files of scenarios; the first broken line is named with its reason."""
    from heartloop.simusers.scenario import load

    for path in files:
        print(f"{path}: {_count(len(load(path)), 'scenario')}, all valid")


@app.command(epilog="Example: heartloop report runs/seedling --out again.html")
def report(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path | None, typer.Option(help="New file; default RUN/report.html.")] = None,
) -> None:
    """Write the HTML report of a training run."""
    from heartloop.policy.evals.report import write_report

    print(write_report(run, out))


@app.command(epilog="Example: heartloop version")
def version() -> None:
    """Print the versions that scores depend on."""
    from importlib.metadata import version

    from heartloop.simusers.registry import STYLES, make_user
    from heartloop.simusers.sage_record import reader

    print("heartloop", version("heartloop"))
    for user in (make_user("embedded").id, *map(reader, STYLES.values())):
        print(user)


def _make_policy(spec: str) -> Policy:
    from heartloop.policy.base import make_policy
    from heartloop.policy.evals.hackers import hacker

    kind, _, name = spec.partition(":")
    return hacker(name) if kind == "hacker" else make_policy(spec)


def _scenarios(source: str) -> Sequence[Scenario]:
    from heartloop.simusers.scenario import scenarios

    return scenarios(source)


def _scenario(name: str | None, sources: Sequence[str], seed: int) -> Scenario:
    """The scenario of that id, or of an id that begins so; without a name the seed picks one."""
    from difflib import get_close_matches

    from heartloop.errors import UnknownName

    known = {s.id: s for source in sources for s in _scenarios(source)}
    if name is None:
        return list(known.values())[seed % len(known)]
    started = [i for i in known if i.startswith(name)]
    if name in known or len(started) == 1:
        return known[name if name in known else started[0]]
    near = started[:3] or get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "see: heartloop scenarios list"
    raise UnknownName(f"no scenario called {name!r} in {', '.join(sources)}; {hint}")


def _print(renderables: Iterable[Any]) -> None:
    from heartloop.policy.evals.show import console

    console().print(*renderables, sep="\n")
