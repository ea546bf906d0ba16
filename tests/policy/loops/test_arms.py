"""Checks of loops side by side, as a function and as a command."""

import json

import pytest
from aiohttp import web

from heartloop.cli import main
from heartloop.errors import UnknownName
from heartloop.policy.loops import Budget
from heartloop.policy.loops.arms import solve_arms
from heartloop.policy.loops.solve import read
from heartloop.rewards.answers import Question
from tests.faults import FaultServer
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


@pytest.mark.parametrize(
    ("limit", "most", "made"), [("--samples", 2, 2), ("--tokens", 4, 2), ("--seconds", 1e-6, 1)]
)
def test_the_command_takes_limits_and_draws_each_arm(tmp_path, limit, most, made):
    pytest.importorskip("matplotlib")
    tasks, out = tmp_path / "tasks.jsonl", tmp_path / "run"
    tasks.write_text(json.dumps({"id": "a", "question": "One or two?", "answer": "2"}), "utf-8")
    with FaultServer(lambda body: "A: 1") as server:
        policy = f"openai:two-words@{server.base_url}"
        words = ["--policy", policy, "--loop", "neutral", "--loop", "demand", limit, str(most)]
        assert main(["solve", str(tasks), *words, "--out", str(out)]) == 0
    (trace,) = read(out / "neutral.jsonl")
    assert (trace.samples, trace.tokens) == (made, 2 * made)
    drawn = (out / "accuracy.svg").read_text("utf-8")
    assert ">neutral<" in drawn and ">demand<" in drawn


def test_tokens_of_a_policy_that_counts_none_cannot_be_limited(tmp_path, capsys):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"id": "a", "question": "1 + 1?", "answer": "2"}), "utf-8")
    words = ["--policy", "echo", "--loop", "heart", "--tokens", "100"]
    assert main(["solve", str(tasks), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "limit samples or seconds" in line


def test_the_tokens_of_an_endpoint_that_counts_none_are_limited_by_an_estimate(tmp_path):
    def silent(body):
        return web.json_response({"choices": [{"message": {"content": "A: Rome, I think"}}]})

    out = tmp_path / "run"
    with FaultServer(silent) as server:
        words = ["solve", str(facts(tmp_path)), "--policy", f"openai:solver@{server.base_url}"]
        assert main([*words, "--loop", "heart", "--tokens", "5", "--out", str(out)]) == 0
    assert [(t.tokens, t.stopped) for t in read(out / "heart.jsonl")] == [(8, "tokens")] * 3


def facts(tmp_path):
    path = tmp_path / "facts.jsonl"
    rows = [{"id": f"{n}", "question": f"Capital? {n}", "answer": "Rome"} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_model_grades_the_facts_of_any_file_from_the_command_line(tmp_path):
    def say(body):
        asked = body["messages"][-1]["content"]
        if body["model"] == "grader":
            return "incorrect" if "Capital? 1" in asked else "Correct."
        return "A: The Eternal City"

    out = tmp_path / "run"
    with FaultServer(say) as server:
        solver, grader = (f"openai:{name}@{server.base_url}" for name in ("solver", "grader"))
        words = ["solve", str(facts(tmp_path)), "--policy", solver, "--loop", "single"]
        assert main([*words, "--verifier", f"fact:{grader}", "--out", str(out)]) == 0
        assert main([*words, "--out", str(out), "--resume"]) == 2  # graded by another verifier
    traces = {trace.task: trace for trace in read(out / "single.jsonl")}
    assert {task: t.report.value for task, t in traces.items()} == {"0": 1, "1": 0, "2": 1}
    assert {t.verifier for t in traces.values()} == {f"fact-judge/1.1:0+{grader}"}


def test_cues_of_ones_own_are_said_from_the_command_line(tmp_path):
    mine, out = tmp_path / "mine.toml", tmp_path / "run"
    mine.write_text(
        "[bank.neutral]\ntexts = ['Once more, please.']\n"
        "[[stimuli]]\nid = 'M1'\ntext = 'All hangs on it.'\ndemand = false\n", "utf-8"
    )  # fmt: skip
    with FaultServer(lambda body: "A: Rome") as server:
        words = ["solve", str(facts(tmp_path)), "--policy", f"openai:solver@{server.base_url}"]
        words += ["--loop", "neutral", "--loop", "emotion-prompt:M1", "--out", str(out)]
        assert main([*words, "--cues", str(mine)]) == 0
    said = {"neutral": "Once more, please.", "emotion-prompt-M1": "All hangs on it."}
    for name, text in said.items():
        trace = read(out / f"{name}.jsonl")[0]
        assert text in trace.attempts[-1].messages[-1].content


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (("--verifier", "numerik"), "did you mean 'numeric'"),
        (("--verifier", "fact:"), "expected a model as openai:MODEL@BASE_URL"),
        (("--verifier", "fact:openai:grader"), "expected openai:MODEL@BASE_URL"),
        (("--verifier", "no.such.module:f"), "cannot import"),
        (("--cues", "none.toml"), "cannot read none.toml"),
        (("--loop", "emotion-prompt:EP12"), "did you mean 'EP11'"),
    ],
)
def test_wrong_input_is_told_in_one_line_before_anybody_is_asked(tmp_path, capsys, option, why):
    words = ["solve", str(facts(tmp_path)), "--policy", "echo", "--loop", "heart"]
    assert main([*words, *option]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line


def test_a_run_of_which_most_stays_unscored_fails(tmp_path, capsys):
    def refuse(body):
        return "" if "Capital? 0" not in body["messages"][-1]["content"] else "A: Rome"

    with FaultServer(refuse) as server:
        words = ["solve", str(facts(tmp_path)), "--policy", f"openai:mute@{server.base_url}"]
        words += ["--loop", "single", "--max-errored"]
        assert main([*words, "0.7", "--out", str(tmp_path / "run")]) == 0
        assert main([*words, "0.6"]) == 1
    assert "2 of 3 could not be scored" in capsys.readouterr().err


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
