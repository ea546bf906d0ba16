"""Commands that train, and their report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from heartloop.cli.options import Resume, Seed, app, complain


@app.command(epilog="Example: heartloop train configs/seedling.toml --set rl.steps=20")
def train(
    config: Annotated[Path, typer.Argument(help="TOML file of settings.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: section.key=value.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.")] = None,
    resume: Resume = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Check all of it, say what it will take, and end.")
    ] = False,
) -> None:
    """Train a policy against simulated users."""
    from heartloop.config import load
    from heartloop.policy.train.run import dry_run, train

    folder = [f"run.out={json.dumps(str(out))}"] if out else []
    chosen = load(config, [*(settings or []), *folder])
    if dry:
        for name, number in dry_run(chosen).items():
            print(f"{number:>15,}  {name}")
    else:
        train(chosen, resume=resume)


@app.command(epilog="Example: heartloop submit configs/seedling.toml --out runs/first")
def submit(
    config: Annotated[Path, typer.Argument(help="TOML file of settings, in this folder.")],
    address: Annotated[
        str,
        typer.Option(
            envvar="RAY_API_SERVER_ADDRESS", show_envvar=False, help="Dashboard of the Ray head."
        ),
    ] = "http://127.0.0.1:8265",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: section.key=value.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory, on the cluster.")] = None,
    resume: Resume = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id and end.")] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow another machine without a token.")
    ] = False,
) -> int:
    """Train on a Ray cluster, follow the log and end as the run does."""
    from heartloop.policy.submit import Job, check_address, entrypoint

    check_address(address, insecure)
    folder = Path.cwd()
    job = Job(address, entrypoint(config, settings or [], out, folder, resume), folder)
    if no_wait:
        print(job.id)
        return 0
    print(f"heartloop: job {job.id}", file=sys.stderr)
    try:
        return job.follow(lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        job.stop()
        return complain(f"stopped job {job.id}", 130)


@app.command(epilog="Example: heartloop warmup --out runs/warm")
def warmup(
    out: Annotated[Path, typer.Option(help="Folder of the model; must not hold files.")],
    seed: Seed = 7,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 2050,
    batch: Annotated[int, typer.Option(min=1, help="Dialogues a step.")] = 8,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long.")] = None,
    resume: Resume = False,
) -> None:
    """Rebuild the seedling, the built-in small policy, from nothing."""
    from heartloop.policy.seedling.warmup import warmup

    warmup(out, seed, steps, batch=batch, minutes=minutes, resume=resume, report=_row)
    print(out)


def _row(row: dict[str, float]) -> None:
    print("  ".join(f"{name} {value:g}" for name, value in row.items()), file=sys.stderr)


@app.command(epilog="Example: heartloop report runs/seedling --out again.html")
def report(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path | None, typer.Option(help="New file; default RUN/report.html.")] = None,
) -> None:
    """Write the HTML report of a training run."""
    from heartloop.policy.evals.report import write_report

    print(write_report(run, out))
