"""The seedling's model card: a text with the figures filled in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from heartloop.policy.seedling.measure import Facts, Figures
from heartloop.policy.seedling.plan import Plan
from heartloop.types import Message

PARTS = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
         "tokenizer_config.json", "chat_template.jinja", "figures.json", "README.md")  # fmt: skip
"""The files of a shipped seedling."""
LARGEST = 12_000_000
"""Bytes of all of them together."""


def write(folder: Path, plan: Plan, facts: Facts) -> Path:
    """Write README.md and figures.json beside the weights in `folder`."""
    (folder / "figures.json").write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")
    card = folder / "README.md"
    card.write_text(text(folder, plan, facts), encoding="utf-8")
    return card


def text(folder: Path, plan: Plan, facts: Facts) -> str:
    """The card of the model in `folder`."""
    shell = files("heartloop.policy.seedling").joinpath("card.md").read_text(encoding="utf-8")
    rows = "\n".join(map(_row, facts.figures))
    samples = "\n\n".join(map(_sample, facts.samples))
    known = _model(folder) | _training(folder, plan)
    return shell.format(
        rows=rows, samples=samples, loss=facts.loss, user=facts.figures[0].user,
        dialogues=facts.figures[0].dialogues, **known,
    )  # fmt: skip


def _model(folder: Path) -> dict[str, object]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = (folder / "model.safetensors").stat().st_size
    return {
        "parameters": f"{size / 2e6:.1f} million",
        "megabytes": f"{size / 1e6:.1f}",
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "vocabulary": config["vocab_size"],
    }


def _training(folder: Path, plan: Plan) -> dict[str, object]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last, recipe = json.loads(lines[-1]), plan.recipe
    return {
        "steps": last["step"],
        "tokens": f"{last['tokens'] / 1e6:.1f} million",
        "minutes": round(last["minutes"]),
        "longest": plan.longest,
        "seed": plan.seed,
        "strong": round(100 * recipe.strong),
        "middling": round(100 * recipe.middling),
        "poor": round(100 * (1 - recipe.strong - recipe.middling)),
        "exchanged": round(100 * recipe.exchanged),
        "scrambled": round(100 * recipe.scrambled),
        "echo": plan.echo,
        "drill": plan.drill,
        "overheard": plan.overheard,
    }


def _row(row: Figures) -> str:
    shares = (row.words_taken_up, row.feeling_named, row.either)
    cells = [row.policy, f"{row.final} [{row.low}, {row.high}]", *(f"{x:.0%}" for x in shares)]
    return "| " + " | ".join([*cells, f"{row.distinct_2:.2f}", f"{row.length}"]) + " |"


def _sample(messages: Sequence[Message]) -> str:
    names = {"user": "person", "assistant": "seedling"}
    return "\n".join(f"> **{names[m.role]}** {m.content}  " for m in messages)
