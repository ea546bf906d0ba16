"""Checks of loops side by side, as a function and as a command."""

import json

import pytest

from heartloop.cli import main
from heartloop.errors import UnknownName
from heartloop.policy.loops import Budget
from heartloop.policy.loops.arms import solve_arms
from heartloop.policy.loops.solve import read
from heartloop.rewards.answers import Question
from tests.policy.loops.fakes import Drafter

QUESTIONS = [Question(id=f"q{n}", text=f"{n} + {n}?", answers=(str(2 * n),)) for n in range(3)]


def always_two():
    return Drafter(lambda prompt, seen: "2")


def test_each_loop_is_an_arm_and_the_control_is_compared_to_none():
    heart, neutral = solve_arms(
        ["heart", "neutral"], always_two(), QUESTIONS, control="neutral", budget=Budget(samples=3)
    )
    assert (heart.arm, neutral.arm, heart.tasks) == ("heart", "neutral", 3)
    assert heart.over_control.mean == 0
    assert neutral.over_control is None
    assert heart.samples == neutral.samples == 3


def test_a_control_that_is_no_arm_is_named():
    with pytest.raises(UnknownName, match="neutral"):
        solve_arms(["heart"], always_two(), QUESTIONS, control="neutral")


def test_the_traces_of_each_arm_are_a_file(tmp_path):
    solve_arms(
        ["single", "heart"], always_two(), QUESTIONS, out=tmp_path / "run", budget=Budget(samples=2)
    )
    assert {t.task for t in read(tmp_path / "run" / "heart.jsonl")} == {"q0", "q1", "q2"}


@pytest.mark.parametrize(("limit", "made"), [("--samples", 2), ("--words", 1), ("--seconds", 1)])
def test_the_command_takes_limits_and_draws_each_arm(tmp_path, limit, made):
    pytest.importorskip("matplotlib")
    tasks, out = tmp_path / "tasks.jsonl", tmp_path / "run"
    tasks.write_text(json.dumps({"id": "a", "question": "One or two?", "answer": "2"}), "utf-8")
    most = {"--samples": "2", "--words": "1", "--seconds": "0.000001"}[limit]
    words = ["--policy", "echo", "--loop", "neutral", "--loop", "demand", limit, most]
    assert main(["solve", str(tasks), *words, "--out", str(out)]) == 0
    (trace,) = read(out / "neutral.jsonl")
    assert trace.samples == made
    drawn = (out / "accuracy.svg").read_text("utf-8")
    assert ">neutral<" in drawn and ">demand<" in drawn


def test_the_command_prints_a_row_for_each_arm_and_refuses_a_used_folder(tmp_path, capsys):
    tasks, out = tmp_path / "tasks.jsonl", tmp_path / "run"
    tasks.write_text(json.dumps({"id": "a", "question": "1 + 1?", "answer": "2"}) + "\n", "utf-8")
    words = ["solve", str(tasks), "--policy", "echo", "--loop", "single", "--loop", "heart"]
    assert main([*words, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "single" in shown and "heart" in shown
    assert main([*words, "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, "--out", str(out), "--resume"]) == 0
    assert main([*words[:4], "--loop", "hart"]) == 2
    assert "heart" in capsys.readouterr().err
