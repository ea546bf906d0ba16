"""Commands that measure policies and users."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from heartloop.cli.options import (
    AsJson,
    Episodes,
    MaxErrored,
    NewJsonl,
    PolicyName,
    PresetName,
    Resume,
    RewardSpec,
    Seed,
    Source,
    UserName,
    app,
    complain,
    count,
    find_scenarios,
    lost,
    show_all,
    usage,
)


@app.command(epilog="Example: heartloop evaluate seedling --number 50 --out seedling.jsonl")
def evaluate(
    policy: PolicyName,
    source: Source = "test",
    number: Annotated[int, typer.Option(min=1, help="Scenarios, from the first.")] = 100,
    user: UserName = "embedded",
    preset: PresetName = "default",
    reward: RewardSpec = "final",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="New file for the episodes.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Most dialogues at a time; 64 where users wait.")
    ] = None,
    max_errored: MaxErrored = 0.1,
    as_json: AsJson = False,
) -> int:
    """Measure a policy on many scenarios."""
    from heartloop.policy.base import make_policy
    from heartloop.policy.evals import show
    from heartloop.policy.evals.evaluate import evaluate, summary

    people = find_scenarios(source)[:number]
    actor = make_policy(policy)
    found = summary(evaluate(
        actor, people, user=user, preset=preset, reward=reward, seed=seed, out=out, batch=batch,
    ))  # fmt: skip
    if as_json:
        print(json.dumps(found.model_dump(mode="json") | {"usage": usage()}, indent=2))
    else:
        show_all([*show.summary(policy, found), *show.usage()])
    return lost(found.errored, found.episodes, max_errored)


@app.command(epilog="Example: heartloop rescore runs/seedling/eval-after.jsonl --user embedded")
def rescore(
    files: Episodes,
    user: Annotated[str | None, typer.Option(help="Simulated user that scores.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Rules of the dialogue; default: as recorded.")
    ] = None,
    reward: Annotated[str | None, typer.Option(help="Reward that scores.")] = None,
    out: NewJsonl = None,
    max_errored: MaxErrored = 0.1,
    as_json: AsJson = False,
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
        show_all([*show.agreement(found), *show.usage()])
    return lost(found.errored, found.dialogues, max_errored)


@app.command(epilog="Example: heartloop repeatability run.jsonl --user sage:openai:NAME@URL")
def repeatability(
    files: Episodes,
    user: Annotated[str, typer.Option(help='"sage:" with a model.')],
    preset: PresetName = "default",
    number: Annotated[int, typer.Option(min=1, help="Replies, from the first.")] = 100,
    times: Annotated[int, typer.Option(min=2, help="Scorings of each.")] = 5,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="New file for the figures.")] = None,
    max_errored: MaxErrored = 0.1,
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
    return lost(found.errored, found.contexts, max_errored)


@app.command(
    epilog="Example: heartloop solve tasks.jsonl --policy hf:PATH --loop heart --loop neutral"
)
def solve(
    tasks: Annotated[Path, typer.Argument(help="File of questions with answers.")],
    policy: Annotated[str, typer.Option(help="Who answers, as in evaluate.")],
    loop: Annotated[
        list[str],
        typer.Option(help="Test-time loop, an arm each; emotion-prompt:EP08 for that stimulus."),
    ],
    control: Annotated[str | None, typer.Option(help="The arm others are compared to.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Calls of the policy for a task.")] = 5,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens the policy samples for a task.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Most waiting for a task.")] = None,
    verifier: Annotated[
        str | None,
        typer.Option(
            help="What checks all answers, in place of what each task says: a name, fact:MODEL for "
            "a model that grades, MODULE:FUNCTION."
        ),
    ] = None,
    cues: Annotated[
        Path | None, typer.Option(help="TOML or JSON file of cues in place of heartloop's own.")
    ] = None,
    oracle: Annotated[bool, typer.Option("--oracle", help="Let the verifier stop loops.")] = False,
    at_once: Annotated[int, typer.Option(min=1, help="Tasks under way at a time.")] = 8,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for a file of each arm and a plot.")
    ] = None,
    resume: Resume = False,
    max_errored: MaxErrored = 0.1,
    as_json: AsJson = False,
) -> int:
    """Answer questions with test-time loops, side by side."""
    from heartloop.policy.base import make_policy
    from heartloop.policy.loops import Budget, bank
    from heartloop.policy.loops.arms import draw, solve_arms
    from heartloop.policy.loops.summary import table
    from heartloop.policy.loops.tasks import load
    from heartloop.rewards.verifiers import verifier as read_verifier

    budget = Budget(samples=samples, tokens=tokens, seconds=seconds)
    rows = solve_arms(
        loop, make_policy(policy), load(tasks), budget=budget, cues=bank(cues),
        verifier=read_verifier(verifier) if verifier else None, control=control, oracle=oracle,
        at_once=at_once, seed=seed, out=out, resume=resume,
    )  # fmt: skip
    if as_json:
        print(json.dumps([row.model_dump(mode="json") for row in rows], indent=2))
    else:
        show_all([table(rows)])
    if out and any(share is not None for row in rows for share in row.refine):
        draw(loop, out)
    return lost(sum(r.unscored for r in rows), sum(r.tasks for r in rows), max_errored)


@app.command(epilog="Example: heartloop stress --policy seedling --number 50")
def stress(
    policy: Annotated[list[str] | None, typer.Option(help="Another one to compare.")] = None,
    source: Source = "test",
    number: Annotated[int, typer.Option("--number", "--n", min=1, help="Scenarios.")] = 100,
    user: UserName = "embedded",
    preset: PresetName = "default",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> int:
    """Can the users be gamed? Exits 1 when a hacker does."""
    from heartloop.policy.base import make_policy
    from heartloop.policy.evals.stress import COMPARED, stress, table

    people = find_scenarios(source)[:number]
    compared = [make_policy(name) for name in dict.fromkeys((*COMPARED, *(policy or [])))]
    result = stress(people, compared, user=user, preset=preset, seed=seed)
    if as_json:
        print(json.dumps(result.record(), indent=2))
    else:
        show_all([table(result)])
    over = [row.policy for row in result.rows if not row.passed]
    return complain(f"over their bound: {', '.join(over)}", 1) if over else 0


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
        found_all = count(wrong.total(), "mismatch", "es")
        return complain(f"{found_all} in {count(lines, 'line')}", 2 if wrong["broken"] else 1)
    print(count(lines, "episode"), "verified")
    return 0
