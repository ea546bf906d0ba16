"""Checks of the task loaders, on public samples where they lie beside the checkout."""

import json

import pytest

from heartloop.errors import EpisodeFailure, InvalidInput, RecordError
from heartloop.policy.loops.tasks import load, prompt, recorded
from heartloop.rewards.verifiers import verifier
from tests.paths import data


@pytest.mark.parametrize(
    ("name", "rows", "verifiers"),
    [
        ("gsm8k_recorded", 200, {"numeric"}),
        ("simpleqa", 150, {"fact"}),
        ("olympiadbench_oe_to_maths_en", 78, {"maths"}),
        ("olymmath_en_easy", 40, {"maths"}),
        ("instruction_induction", 176, {"exact", "token_f1", "contains", "exact_set"}),
        ("bbh_subset", 80, {"choice", "exact"}),
    ],
)
def test_every_public_sample_loads_with_the_verifier_it_needs(name, rows, verifiers):
    questions = load(data(f"testtime/{name}.jsonl"))
    assert len(questions) == rows
    assert {q.verifier for q in questions} == verifiers


@pytest.mark.parametrize("name", ["gsm8k_recorded", "bbh_subset", "simpleqa",
                                  "instruction_induction"])  # fmt: skip
def test_the_accepted_answer_of_every_task_is_right(name):
    for question in load(data(f"testtime/{name}.jsonl")):
        check, gold = verifier(question.verifier), " ".join(question.answers[0].split())
        assert check(question, f"Work.\nA: {gold}").value == 1, question


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_file_of_ones_own_needs_a_question_and_an_answer(tmp_path):
    path = write(
        tmp_path / "own.jsonl",
        {"question": "2+2?", "answer": 4, "verifier": "numeric", "tolerance": 0.5},
        {"id": "b", "question": "Colour?", "answers": ["red", "blue"]},
        {"question": "Work?", "answer": "3+4=7\n#### 7"},
    )
    first, second, third = load(path)
    assert (first.answers, first.verifier, first.tolerance) == (("4",), "numeric", 0.5)
    assert (second.id, second.answers, second.verifier) == ("b", ("red", "blue"), "exact")
    assert (third.answers, third.verifier) == (("7",), "numeric")
    assert len({first.id, second.id, third.id}) == 3


def test_names_of_fields_that_the_publishers_use_are_understood(tmp_path):
    path = write(
        tmp_path / "published.jsonl",
        {"question": "How long?", "final_answer": ["2.5"], "error": "0.1"},
        {"problem": "Who?", "answer": "Ada", "verifier": "fact"},
    )
    first, second = load(path)
    assert (first.answers, first.verifier, first.tolerance) == (("2.5",), "maths", 0.1)
    assert (second.text, second.verifier) == ("Who?", "fact")


def test_one_answer_needs_no_list_and_a_number_is_an_id(tmp_path):
    path = write(
        tmp_path / "own.jsonl",
        {"id": 0, "question": "Where?", "answers": "Paris"},
        {"id": "", "question": "How long?", "final_answer": "2.5"},
        {"instruction": "Shout.", "input": "hey", "outputs": "HEY", "metric": "exact"},
    )
    found = load(path)
    assert [q.answers for q in found] == [("Paris",), ("2.5",), ("HEY",)]
    assert found[0].id == "0"
    assert len(found[1].id) == 12


@pytest.mark.parametrize(
    ("row", "reason"), [({"question": "2+2?"}, "answer"), ([1], "object"),
                        ({"question": "a", "answers": []}, "answers")]
)  # fmt: skip
def test_a_broken_line_is_named(tmp_path, row, reason):
    path = write(tmp_path / "own.jsonl", {"question": "Fine?", "answer": "yes"}, row)
    with pytest.raises(RecordError, match=rf"own\.jsonl:2: .*{reason}"):
        load(path)


def test_an_empty_or_missing_file_and_a_repeated_id_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="cannot read"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(InvalidInput, match="no task"):
        load(write(tmp_path / "empty.jsonl"))
    twice = {"id": "a", "question": "?", "answer": "1"}
    with pytest.raises(RecordError, match="'a' was used before"):
        load(write(tmp_path / "twice.jsonl", twice, twice))


def test_a_task_has_its_own_seed_in_each_run(tmp_path):
    rows = [{"question": f"{n}?", "answer": "1"} for n in range(3)]
    questions = load(write(tmp_path / "own.jsonl", *rows))
    seeds = {prompt(q, seed).seed for q in questions for seed in range(3)}
    assert len(seeds) == 9
    assert prompt(questions[0], 1) == prompt(questions[0], 1)


def test_a_recorded_policy_gives_its_answers_in_turn_and_then_fails(tmp_path):
    attempts = [{"policy": p, "text": f"A: {n}"} for n, p in enumerate("xy")]
    path = write(tmp_path / "r.jsonl", {"question": "2+2?", "answer": "1", "attempts": attempts})
    (question,) = load(path)
    asked = prompt(question, 0)
    assert recorded(path)([asked])[0].text == "A: 0"
    assert recorded(path, "y")([asked])[0].text == "A: 1"
    assert isinstance(recorded(path, "y")([prompt(question.model_copy(
        update={"text": "other"}), 0)])[0], EpisodeFailure)  # fmt: skip
    with pytest.raises(RecordError, match="expected attempts"):
        recorded(path, "z")
