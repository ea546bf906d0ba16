"""The script of the learning curves trains, shows and tests what it says."""

import sys

import pytest

pytest.importorskip("trl")

from benchmarks import learning_curves

SMALL = (
    "rl.steps=2", "rl.prompts_per_step=2", "rl.group=2", "rl.micro_batch=4", "rl.warmup_steps=0",
    "policy.max_new_tokens=4", "eval.number=3", "eval.every=1", "reward.credit=terminal",
)  # fmt: skip


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["learning_curves", *map(str, words)])
    learning_curves.main()


def test_a_run_is_trained_once_shown_drawn_and_tested_on_others(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(learning_curves, "COMMON", ("world.actors=0",))
    turn = (*SMALL, "reward.credit=turn")
    arms = {
        "grpo": learning_curves.Arm("seedling", SMALL),
        "grpo-turn": learning_curves.Arm("seedling", turn, "grpo"),
    }
    monkeypatch.setattr(learning_curves, "ARMS", arms)
    call(monkeypatch, "run", tmp_path, "grpo", "grpo-turn", "--seeds", 1)
    written = (tmp_path / "grpo-1" / "metrics.jsonl").stat().st_mtime_ns
    call(monkeypatch, "run", tmp_path, "grpo", "--seeds", 1)
    assert (tmp_path / "grpo-1" / "metrics.jsonl").stat().st_mtime_ns == written
    assert [step for step, _ in learning_curves.curve(tmp_path / "grpo-1")] == [0, 1, 2]

    capsys.readouterr()
    call(monkeypatch, "table", tmp_path)
    shown = capsys.readouterr().out
    assert "| grpo | 1 |" in shown
    assert "| grpo-turn | grpo | 1 |" in shown
    call(monkeypatch, "plot", tmp_path, "--out", tmp_path / "curves.svg")
    assert "optimiser steps" in (tmp_path / "curves.svg").read_text("utf-8")

    call(monkeypatch, "others", tmp_path, "again", "grpo", "--number", 3)
    assert "| grpo-1 |" in capsys.readouterr().out
    assert (tmp_path / "again-seedling.jsonl").exists()
    for other in (("--number", 2), ("--number", 3, "--preset", "sage-eval")):
        with pytest.raises(SystemExit, match="holds other people or rules: choose another LABEL"):
            call(monkeypatch, "others", tmp_path, "again", "grpo", *other)


def test_a_step_at_which_the_critic_had_nothing_to_explain_is_left_out():
    rows = [{"explained_variance": value} for value in (0.0, None, 0.5, 0.7)]
    assert learning_curves._explained(rows) == "0.60 (0.50 to 0.70)"
    assert learning_curves._explained([{}, {}]) == ""


def test_an_unknown_arm_is_named(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "run", tmp_path, "grop")
    assert "no arm ['grop']; known: grpo" in capsys.readouterr().err
