"""Checks of traces as training data."""

import pytest

from heartloop.errors import InvalidInput
from heartloop.policy.data import grpo_prompts, preferences, sft
from heartloop.policy.loops import Budget, make_loop
from heartloop.policy.loops.cues import EKMAN, bank, leaked
from heartloop.policy.loops.solve import solve
from heartloop.rewards.answers import Question
from tests.policy.loops.fakes import Drafter

QUESTIONS = [
    Question(id=f"q{n}", text=f"What is {n} and 1?", answers=(str(n + 1),), verifier="numeric")
    for n in range(4)
]


def late(prompt, seen):
    """Right on the second draft, but for the last question, which is solved at once."""
    number = int(prompt.history[0].content.split()[2])
    return f"A: {number + 1}" if seen == 1 or number == 3 else f"A: {seen + 50}"


def traces(**options):
    loop = make_loop("heart", Drafter(late), mode="all", budget=Budget(samples=3))
    return solve(loop, QUESTIONS, at_once=1, **options)


def cue_free(messages):
    cues = bank().cues(*EKMAN)
    return not any(leaked(cue.text, m["content"]) for m in messages for cue in cues)


def test_answers_are_attached_to_the_task_without_its_cue():
    data = sft(traces())
    assert data["task"] == ["q0", "q1", "q2", "q3"]
    for row, question in zip(data, QUESTIONS, strict=True):
        assert [m["role"] for m in row["prompt"]] == ["user"]
        assert cue_free(row["prompt"])
        assert row["completion"][0]["content"] == f"A: {question.answers[0]}"


def test_only_what_the_first_attempt_did_not_solve_is_new():
    assert sft(traces(), new_only=True)["task"] == ["q0", "q1", "q2"]


def test_a_task_gives_one_row_however_often_it_was_run():
    assert len(sft([*traces(), *traces()])) == 4


def test_pairs_hold_a_right_and_a_wrong_attempt_under_the_plain_prompt():
    data = preferences(traces())
    assert data["task"] == ["q0", "q1", "q2"]
    for row in data:
        assert cue_free(row["prompt"]) and len(row["prompt"]) == 1
        number = int(row["task"][1:])
        assert row["chosen"][0]["content"] == f"A: {number + 1}" != row["rejected"][0]["content"]
        assert row["chosen_cue"] != row["rejected_cue"] == ""


def test_grpo_prompts_are_single_states_and_never_two_attempts_of_one_group():
    data = grpo_prompts([*traces(), *traces()], QUESTIONS)
    assert len(data) == 4 * 3
    prompts = [str(prompt) for prompt in data["prompt"]]
    assert len(set(prompts)) == len(prompts)
    assert "completion" not in data.column_names
    assert all(row["prompt"][-1]["role"] == "user" for row in data)
    assert Question.model_validate_json(data[0]["question"]) == QUESTIONS[0]


def test_nothing_to_export_is_said():
    wrong = make_loop("heart", Drafter(lambda p, n: "A: 99"), budget=Budget(samples=2))
    found = solve(wrong, QUESTIONS[:1])
    for export in (sft, preferences):
        with pytest.raises(InvalidInput, match="nothing to export"):
            export(found)
