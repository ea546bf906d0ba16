"""Commands that let someone speak: one dialogue, the terminal client, the endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from heartloop.cli.options import (
    PolicyName,
    PresetName,
    RewardSpec,
    Seed,
    Source,
    UserName,
    app,
    find_scenario,
    lost,
    show_all,
)


@app.command(epilog="Example: heartloop play reflective --seed 3")
def play(
    policy: PolicyName = "reflective",
    scenario: Annotated[str | None, typer.Option(help="Id; by default the seed picks one.")] = None,
    source: Source = "test",
    user: UserName = "embedded",
    preset: PresetName = "default",
    reward: RewardSpec = "final",
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="New file for the episode.")] = None,
) -> int:
    """Play one scored dialogue, with its emotion trace."""
    from heartloop.policy.base import make_policy
    from heartloop.policy.evals import show
    from heartloop.policy.evals.evaluate import evaluate

    chosen = find_scenario(scenario, [source], seed)
    actor = make_policy(policy)
    (played,) = evaluate(
        actor, [chosen], user=user, preset=preset, reward=reward, seed=seed, out=out
    )
    show_all(show.episode(played))
    return lost(int(bool(played.error)), 1, 0)


@app.command(epilog="Example: heartloop chat seedling --mode help")
def chat(
    policy: PolicyName = "seedling",
    mode: Annotated[str, typer.Option(help="talk, help, watch, replay or compare.")] = "talk",
    against: Annotated[str, typer.Option(help="Second policy of compare.")] = "reflective",
    user: UserName = "embedded",
    preset: PresetName = "default",
    source: Source = "test",
    scenario: Annotated[str, typer.Option(help="Id, or how it begins.")] = "",
    run: Annotated[Path | None, typer.Option(help="Run directory or episodes to replay.")] = None,
    number: Annotated[int | None, typer.Option(help="Stored session, or episode.")] = None,
    seed: Seed = 0,
    folder: Annotated[Path | None, typer.Option(help="Keep sessions there instead.")] = None,
    data_dir: Annotated[
        bool, typer.Option("--data-dir", help="Say where sessions are kept, and end.")
    ] = False,
) -> None:
    """Talk to a policy, help a simulated user, or watch, in the terminal."""
    from heartloop.chat import store
    from heartloop.chat.client import chat
    from heartloop.chat.entries import Mode
    from heartloop.errors import unknown

    if data_dir:
        typer.echo(folder or store.data_dir())
        return
    if mode not in set(Mode):
        raise unknown("mode", mode, Mode)
    chat(
        policy, Mode(mode), against=against, user=user, preset=preset, source=source,
        scenario=scenario, run=run, number=number, seed=seed, folder=folder,
    )  # fmt: skip


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
    preset: PresetName = "default",
) -> None:
    """Offer simulated users and policies as an OpenAI-compatible endpoint."""
    from heartloop.policy.serve.app import serve

    serve(models, host, port, public, reveal, preset)
