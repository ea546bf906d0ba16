"""Checks of the verifiers of task answers, each with the traps it must not fall into."""

import json
import linecache
import re
from fractions import Fraction
from queue import Queue

import pytest

from heartloop.errors import CallFailure, InvalidInput, UnknownName
from heartloop.llm import ScriptedModel
from heartloop.rewards.answers import (
    VERIFIERS,
    Grade,
    Question,
    canonical,
    final_answer,
    graded,
)
from heartloop.rewards.fact_judge import FactJudge, read_grade
from heartloop.rewards.verifiers import verifier
from tests.faults import FaultServer
from tests.paths import data


def question(*answers: str, **fields: object) -> Question:
    return Question(id="q", text="What is it?", answers=answers, **fields)


def value(name: str, gold: str | tuple[str, ...], text: str, **fields: object) -> float | None:
    golds = (gold,) if isinstance(gold, str) else gold
    return verifier(name)(question(*golds, **fields), text).value


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("First 3.\nThen 4.\nA: 7", "7"),
        ("A: 3\nNo, wait.\nA: 7", "7"),
        ("Work.\n#### 1,200", "1,200"),
        (r"So \boxed{\frac{1}{2}} it is.", r"\frac{1}{2}"),
        ("Long work here.\nSo the answer is 42.", "42"),
        ("**Final answer:** Paris", "** Paris"),
        ("42", "42"),
        ("Some lines\nwithout any answer 5", None),
        ("", None),
        ("A dog came by.\nThen it left.", None),
        ("a = 3\nb = 4\nso both make seven", None),
        (r"\boxed{never closed", r"\boxed{never closed"),
    ],
)
def test_the_final_answer_is_found_or_missing(text, answer):
    assert final_answer(text) == answer


def test_every_recorded_gsm8k_flag_is_reproduced():
    seen = 0
    for line in data("testtime/gsm8k_recorded.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        asked = Question(id=row["id"], text=row["question"], answers=(row["answer"],))
        for attempt in row["attempts"]:
            score = VERIFIERS["numeric"](asked, attempt["text"])
            assert (score.value == 1) is attempt["is_correct"], attempt["text"]
            seen += 1
    assert seen == 800


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("118000", "A: 118,000", 1),
        ("118000", "A: $118000.00", 1),
        ("-3", "A: -3", 1),
        ("3", "A: -3", 0),
        ("0.5", "A: 1/2", 1),
        ("1200", "A: 1.2e3", 1),
        ("3", "A: 3.0000001", 0),
        ("12", "A: 3 + 9 = 12", 1),
        ("12", "A: 12 apples", 1),
        ("5", "A: five", 0),
        ("2", "A: x2", 0),
        ("0", "A: 5/0", 0),
    ],
)
def test_numbers_are_compared_by_value(gold, text, right):
    assert value("numeric", gold, text) == right


@pytest.mark.parametrize("answer", ["50", "5000", "0.5", "50%"])
def test_a_factor_of_a_hundred_is_never_forgiven(answer):
    golds = {"50": "50", "5000": "5000", "0.5": "0.5", "50%": "0.5"}
    for gold in ("50", "5000", "0.5"):
        assert value("numeric", gold, f"A: {answer}") == float(golds[answer] == gold), gold


def test_percent_are_a_mere_unit_where_percent_are_asked_for():
    assert value("numeric", "60", "A: 60%", unit="%") == 1
    assert value("numeric", "60", "A: 0.6", unit="%") == 0
    assert value("numeric", "60", "A: 60%") == 0
    assert value("numeric", "60", "A: 60 percent", unit="%") == 1
    assert value("numeric", "0.6", "A: 60 percent") == 1


def test_a_unit_may_be_left_out_and_must_not_be_another():
    assert value("numeric", "8", "A: 8", unit="min") == 1
    assert value("numeric", "8", "A: 8 mins", unit="min") == 1
    assert value("numeric", "8", "A: 8 hours", unit="min") == 0
    assert value("numeric", "8", "A: 8 minutes", unit="min") == 1
    assert value("numeric", "8", "A: 8 m", unit="min") == 0
    assert value("numeric", "8", "A: 8 cm", unit="centimeters") == 1
    assert value("numeric", "8", "A: 8 cents", unit="centimetres") == 0
    assert value("numeric", "8", "A: 8 dollars", unit="dollar") == 1


def test_tolerance_is_absolute_and_its_edge_counts():
    assert value("numeric", "1", "A: 1.25", tolerance=0.25) == 1
    assert value("numeric", "1", "A: 1.26", tolerance=0.25) == 0


def test_a_question_without_a_number_cannot_be_checked_by_number():
    with pytest.raises(InvalidInput, match="expects a number"):
        value("numeric", "many", "A: 3")


OPTIONS = ("A cat", "A dog", "Nothing")


@pytest.mark.parametrize(
    ("text", "right"),
    [("A: (B)", 1), ("A: B", 1), ("A: B.", 1), ("A: B) A dog", 1), ("A: a dog", 1), ("(B)", 1),
     ("A: A", 0), ("A: A dog and more", 0), ("A: Banana", 0), ("A: B or C", 0), ("A: (Z)", 0),
     ("A: ", 0)],
)  # fmt: skip
def test_a_choice_is_a_letter_or_the_words_of_an_option(text, right):
    assert value("choice", "(B)", text, choices=OPTIONS) == right


def test_a_gold_that_is_no_option_is_an_error_and_no_score():
    with pytest.raises(InvalidInput, match="is no option"):
        value("choice", "(E)", "A: A", choices=OPTIONS)


@pytest.mark.parametrize(
    ("name", "gold", "text", "right"),
    [
        ("exact", "Yes", "A: yes.", 1),
        ("exact", "Yes", "A: yes and no", 0),
        ("exact", "> } >", "> } >", 1),
        ("regex", r"\d{3}-\d", "A: 123-4", 1),
        ("regex", r"\d{3}", "A: 1234", 0),
        ("contains", "grand", "A: something grand indeed", 1),
        ("contains", "grand", "A: a grandmother", 0),
        ("exact_set", "eagle, bird, crocodile", "A: Bird, crocodile and eagle", 1),
        ("exact_set", "eagle, bird", "A: eagle, bird, bird", 0),
        ("token_f1", "the gas prices increased", "A: gas prices increased", 6 / 7),
        ("token_f1", "up", "A: down", 0),
    ],
)
def test_texts_are_compared_as_their_verifier_says(name, gold, text, right):
    assert value(name, gold, text) == pytest.approx(right)


@pytest.mark.parametrize(
    ("said", "grade"),
    [
        ("correct", Grade.CORRECT), ("CORRECT.", Grade.CORRECT), ("A", Grade.CORRECT),
        ("INCORRECT", Grade.INCORRECT), ("**incorrect**", Grade.INCORRECT),
        ("(B)", Grade.INCORRECT),
        ("NOT_ATTEMPTED", Grade.NOT_ATTEMPTED), ("not attempted", Grade.NOT_ATTEMPTED),
        ("C", Grade.NOT_ATTEMPTED), ("It names another year.\nGrade: incorrect", Grade.INCORRECT),
        ("This is not correct", None), ("A correct answer would be B", None), ("", None),
        ("correctly stated", None),
    ],
)  # fmt: skip
def test_a_verdict_is_a_whole_word_or_letter_or_nothing(said, grade):
    assert read_grade(said) is grade


@pytest.mark.parametrize(
    ("said", "expected"), [("NOT_ATTEMPTED", 0), ("INCORRECT", -1), ("CORRECT", 1), ("Hm.", None)]
)
def test_a_judge_grades_in_three_and_its_mumbling_is_unscored(said, expected):
    score = FactJudge(ScriptedModel([said]), wrong=-1)(question("Paris"), "Rome")
    assert score.value == expected
    assert score.why


def test_a_judge_that_does_not_answer_gives_no_score():
    def refuse(messages, decoding):
        raise CallFailure("gone")

    score = FactJudge(ScriptedModel(refuse))(question("Paris"), "Paris")
    assert (score.value, "gone" in score.why) == (None, True)


def test_a_judge_is_told_every_answer_that_counts_as_right():
    asked = []

    def grade(messages, decoding):
        asked.append(messages[-1].content)
        return "correct"

    FactJudge(ScriptedModel(grade))(question("St Petersburg", "Leningrad"), "Leningrad")
    assert "Right answer: St Petersburg or Leningrad\n" in asked[0]


def test_a_model_that_grades_facts_is_named_by_its_spec():
    with FaultServer(lambda body: "not_attempted") as server:
        judge = verifier(f"fact:openai:grader@{server.base_url}?timeout=9")
        assert judge.id == f"fact-judge/1.1:0+openai:grader@{server.base_url}"
        score = judge(question("Paris"), "Rome, perhaps.")
    assert (score.value, score.parts) == (0, {"not_attempted": 1})
    for spec, why in (("fact:", "expected a model as"), ("fact:opnai:a@http://b", "back end")):
        with pytest.raises(InvalidInput, match=why):
            verifier(spec)


def test_a_fact_is_right_wrong_or_withheld():
    assert value("fact", "Rexho Mulliqi", "It was Rexho Mulliqi.") == 1
    withheld = verifier("fact")(question("Rexho Mulliqi"), "I don't know.")
    wrong = verifier("fact")(question("Rexho Mulliqi"), "Somebody else.")
    assert (withheld.parts, wrong.parts) == ({"not_attempted": 1}, {"incorrect": 1})
    assert graded(Grade.INCORRECT, wrong=-1).value == -1


def test_no_answer_is_wrong_and_not_unscored():
    score = verifier("numeric")(question("5"), "Two lines\nwith 5 in them")
    assert (score.value, score.why) == (0, "no final answer found")


def half(asked: Question, text: str) -> float:
    return 0.5 if text == asked.answers[0] else float("nan")


def wordy(asked: Question, text: str) -> str:
    return "very good"


def broken(asked: Question, text: str) -> float:
    raise ZeroDivisionError("oh")


def test_a_function_of_ones_own_is_named_by_import_path():
    assert value("tests.rewards.test_answers:half", "x", "x") == 0.5
    assert value("tests.rewards.test_answers:half", "x", "y") is None
    with pytest.raises(InvalidInput, match=r"broken.*failed on question 'q'.*ZeroDivision"):
        value("tests.rewards.test_answers:broken", "x", "y")
    with pytest.raises(InvalidInput, match=r"wordy.*could not convert"):
        value("tests.rewards.test_answers:wordy", "x", "y")
    with pytest.raises(InvalidInput, match="no function 'lost'"):
        verifier("tests.rewards.test_answers:lost")
    with pytest.raises(InvalidInput, match="cannot import"):
        verifier("no.such.module:f")
    with pytest.raises(UnknownName, match="did you mean 'numeric'"):
        verifier("numerik")


PINNED = [
    ("12", "A: 12"), ("12", "The sum is 12"), ("12", "one\ntwo 12"), ("1,200", "A: $1200.00"),
    ("50%", "A: 0.5"), ("50", "A: 50%"), ("1/2", "A: 0.5"), ("3 km", "A: 3 miles"),
    ("Paris", "A: paris."), ("Paris", "It was in Paris, I think"), ("Paris", "I do not know"),
    ("not Paris", "A: Paris"), ("a, b and c", "A: c, b, a"), ("B", "(B) blue"), ("B", "A: Blue"),
    ("red", "A: red"), (r"\d+", "A: 77"), ("2n-2", "A: 2(n-1)"),
]  # fmt: skip
"""Answers whose verdicts belong to a version: whoever changes one gives the verifier another."""
VERDICTS = {
    "exact/1.0": "800000008000000800",
    "choice/1.0": "--0----------888--",
    "numeric/1.0": "88088088---------0",
    "regex/1.0": "800000000000000880",
    "contains/1.0": "880008008800080800",
    "exact_set/1.0": "800000008000800800",
    "token_f1/1.0": "830008048205750803",
    "fact/1.0": "880008008800080800",
}


@pytest.mark.parametrize("name", sorted(VERIFIERS.keys() - {"maths"}))  # a clock is in its verdicts
def test_verdicts_of_one_version_stay_as_they_are(name):
    check = verifier(name)
    assert verdicts(check) == VERDICTS[check.id]


def verdicts(check) -> str:
    """A character for each pinned answer: its score in eighths, or a dash where it cannot be."""
    found = []
    for gold, text in PINNED:
        asked = question(gold, choices=("red", "blue") if check.name == "choice" else ())
        try:
            score = check(asked, text).value
        except InvalidInput:
            score = None
        found.append("-" if score is None else str(round(8 * score)))
    return "".join(found)


def test_a_verifier_is_named_with_its_version_and_ones_own_with_its_code():
    assert verifier("numeric").id == "numeric/1.0"
    half, wordy = (verifier(f"tests.rewards.test_answers:{f}").id for f in ("half", "wordy"))
    assert re.fullmatch(r"tests\.rewards\.test_answers:half/[0-9a-f]{12}", half)
    assert half.partition("/")[2] != wordy.partition("/")[2]
    assert verifier("math:fsum").id == "math:fsum/unknown"
    kind, strict = (FactJudge(ScriptedModel(["C"]), wrong).id for wrong in (0, -1))
    assert (kind, strict) == ("fact-judge/1.1:0+scripted", "fact-judge/1.1:-1+scripted")


def test_a_verifier_of_ones_own_keeps_the_name_of_the_code_that_was_loaded(tmp_path, monkeypatch):
    path = tmp_path / "judging_once.py"
    path.write_text("def fair(question, text):\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = verifier("judging_once:fair")
    path.write_text("def fair(question, text):\n    return 0.0  # not what runs\n")
    linecache.checkcache()
    assert verifier("judging_once:fair").id == loaded.id
    assert loaded(question("1"), "A: 2").value == 1.0


def test_equal_answers_of_a_vote_are_equal_strings():
    same = ["A: $1,200", "A: 1200.0 dollars", "#### 1200"]
    assert {canonical(text) for text in same} == {str(Fraction(1200))}
    assert canonical("A: Paris.") == canonical("paris") != canonical("A: Rome")


def test_recorded_judgements_of_equality_are_reproduced_or_left_open():
    pytest.importorskip("math_verify")
    from heartloop.rewards.maths import equal

    open_ = 0
    for line in data("testtime/olympiadbench_judge_cases.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        for case in row["cases"]:
            limit = 2 if "10^{10" in row["gold"] else 10
            found = equal(row["gold"], case["answer"], limit)
            open_ += found is None
            assert found in (None, case["equal"]), (row["gold"], case)
    assert open_ <= 1


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [("2n-2", "2(n-1)", True), ("50", "50%", False), ("0.5", "50%", True), ("50", "0.5", False),
     ("50", "5000", False), ("(1,2)", "(2,1)", False), ("1,2,3", "3,2,1", True),
     (r"\sqrt{8}", r"2\sqrt{2}", True), ("3", "3.0000001", False)],
)  # fmt: skip
def test_expressions_are_compared_by_meaning(gold, answer, same):
    pytest.importorskip("math_verify")
    assert value("maths", gold, f"A: ${answer}$") == float(same)


def test_a_tolerance_counts_for_expressions_that_are_numbers():
    pytest.importorskip("math_verify")
    assert value("maths", "2.5", "A: 2.51", tolerance=0.02) == 1
    assert value("maths", "2.5", "A: 2.53", tolerance=0.02) == 0


def test_an_expression_without_end_is_unscored_within_its_time(monkeypatch):
    pytest.importorskip("math_verify")
    from heartloop.rewards import maths

    waits = []

    class Watched(Queue):
        def get(self, *args, timeout):
            waits.append(timeout)
            return super().get(*args, timeout=timeout)

    monkeypatch.setattr(maths, "Queue", Watched)
    monkeypatch.setattr(maths, "_WORKERS", [])
    assert maths.equal("10^{10^{10^{10}}}", "10^{10}", 1.0) is None
    assert waits == [maths.STARTING, 1.0]
    assert maths._WORKERS == []  # what takes longer is ended
    assert maths.equal("2", "4/2") is True
