"""Checks of solving many tasks, and of what is summed up from it."""

import json
import threading
import time
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from heartloop.errors import EndpointFailure, InvalidInput, OutputRefused, RecordError, UnknownName
from heartloop.llm import ScriptedModel
from heartloop.policy.base import make_policy
from heartloop.policy.loops import Budget, bank, make_loop
from heartloop.policy.loops.solve import read, solve
from heartloop.policy.loops.summary import elimination, plot, resampling, summary, table
from heartloop.policy.loops.tasks import load, recorded
from heartloop.rewards.answers import VERIFIERS, Question
from heartloop.rewards.fact_judge import FactJudge
from heartloop.types import Score
from tests.faults import FaultServer
from tests.paths import data
from tests.policy.loops.fakes import Drafter, Guesser
from tests.policy.loops.test_loop import timeless

QUESTIONS = [
    Question(id=f"q{n}", text=f"Number {n}?", answers=(str(1 + n % 9),), verifier="numeric")
    for n in range(24)
]
SOLVERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def gsm8k():
    path = data("testtime/gsm8k_recorded.jsonl")
    loop = make_loop("resample", recorded(path, *SOLVERS), mode="all", budget=Budget(samples=4))
    return path, loop, load(path)


def test_the_tables_of_the_recorded_solvers_come_out_again():
    path, loop, questions = gsm8k()
    golden = json.loads((path.parent / "FIGURES.json").read_text("utf-8"))
    for name, share in golden["single_policy_accuracy"].items():
        single = solve(make_loop("single", recorded(path, name)), questions)
        assert summary(single).accuracy.mean == pytest.approx(100 * share)
    voted = summary(solve(loop, questions))
    assert voted.accuracy.mean == pytest.approx(100 * golden["majority_ties_to_last"])
    oracle = [100 * share for share in golden["oracle_cumulative_after_k_attempts"]]
    assert voted.any == pytest.approx(oracle)
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    flags = [[a["is_correct"] for a in row["attempts"]] for row in rows]
    flips = [pair for row in flags for pair in pairwise(row)]
    assert voted.right_to_wrong == flips.count((True, False)) > 0
    assert voted.wrong_to_right == flips.count((False, True)) > 0


def test_an_oracle_picks_what_any_attempt_offers_and_is_stamped():
    _, loop, questions = gsm8k()
    found = summary(solve(loop, questions, oracle=True))
    assert found.oracle_assisted
    assert found.accuracy.mean == pytest.approx(69.5)
    assert found.any[-1] == pytest.approx(69.5)
    assert found.resampling[0] == found.first == pytest.approx(24)


@dataclass(frozen=True)
class Judging:
    """Likes every reply alike."""

    name: str
    kind: str = "proxy"
    passes: float | None = None

    def __call__(self, prompt, reply):
        return Score(value=0.5)


def test_threads_give_the_traces_of_a_serial_run_in_order():
    loop = make_loop("heart", Guesser())
    runs = [solve(loop, QUESTIONS, oracle=True, at_once=n) for n in (1, 8)]
    assert list(map(timeless, runs[0])) == list(map(timeless, runs[1]))
    assert [t.task for t in runs[0]] == [q.id for q in QUESTIONS]


def test_as_many_tasks_are_under_way_as_allowed():
    under_way, most, lock, company = set(), [0], threading.Lock(), threading.Barrier(6)

    def in_company(prompt, seen):
        with lock:
            under_way.add(threading.get_ident())
            most[0] = max(most[0], len(under_way))
        company.wait(60)  # fewer than six would wait in vain
        with lock:
            under_way.discard(threading.get_ident())
        return "A: 1"

    solve(make_loop("single", Drafter(in_company)), QUESTIONS, at_once=6)
    assert most[0] == 6


def test_many_tasks_wait_for_a_slow_endpoint_together():
    with FaultServer(lambda body: "A: 1") as server:
        policy = make_policy(f"openai:slow@{server.base_url}?timeout=30&patience=30")
        loop = make_loop("heart", policy, budget=Budget(samples=2))
        tasks = [q.model_copy(update={"id": f"{q.id}-{n}"}) for n in range(3) for q in QUESTIONS]
        solve(loop, tasks)  # an endpoint that keeps up is asked for more at a time
        server.together = 64  # no answer to fewer
        traces = solve(loop, tasks[:64], at_once=64)
    assert {t.samples for t in traces} == {2}
    assert server.most == 64


def test_a_dead_endpoint_ends_the_run_within_one_patience_and_is_named(tmp_path):
    policy = make_policy("openai:dead@http://127.0.0.1:9/v1?patience=1&timeout=0.3&retries=99")
    asked = []

    def call(prompt, seen):
        asked.append(prompt)
        return policy([prompt])[0]

    out = tmp_path / "traces.jsonl"
    with pytest.raises(EndpointFailure, match=r"127\.0\.0\.1:9.* answered nothing usable for \d\."):
        solve(make_loop("heart", Drafter(call)), QUESTIONS, out=out, at_once=len(QUESTIONS))
    assert len(asked) <= len(QUESTIONS)  # all are told at once, none goes on
    assert read(out) == []


def test_the_loop_itself_takes_next_to_no_time():
    # Of its own thread: what other processes take of the machine is none of its doing.
    begun, ended = [], []

    def waiting(prompt, seen):
        begun.append(time.thread_time())
        time.sleep(0.2)
        ended.append(time.thread_time())
        return "A: 1"

    traces = solve(make_loop("heart", Drafter(waiting)), QUESTIONS[:4], at_once=1)
    assert len(begun) == 20
    loop = sum(later - earlier for earlier, later in zip(ended, begun[1:], strict=False))
    assert loop / sum(t.seconds for t in traces) < 0.05


def test_a_report_steers_nothing_and_reaches_no_prompt():
    policy = Drafter(lambda p, n: "A: 5")
    traces = solve(make_loop("heart", policy), QUESTIONS[:9], at_once=1)
    assert {len(t.attempts) for t in traces} == {5}
    assert not any(t.oracle_assisted for t in traces)
    assert [t.report.value for t in traces] == [float(n == 4) for n in range(9)]
    assert all(a.score is None and a.report is not None for t in traces for a in t.attempts)


def test_a_resumed_run_does_nothing_twice_and_equals_a_whole_one(tmp_path):
    out, policy = tmp_path / "traces.jsonl", Drafter(lambda p, n: f"A: {p.seed % 9}")
    loop = make_loop("heart", policy, budget=Budget(samples=2))
    solve(loop, QUESTIONS[:10], out=out)
    before = len(policy.seen)
    with out.open("ab") as file:
        file.write(b'{"loop": "heart", "cut sho')
    traces = solve(loop, QUESTIONS, out=out, resume=True)
    assert len(policy.seen) - before == 14 * 2
    assert sorted(t.task for t in read(out)) == sorted(q.id for q in QUESTIONS)
    assert list(map(timeless, traces)) == list(map(timeless, solve(loop, QUESTIONS)))


def test_traces_from_before_tokens_were_counted_are_read_and_gone_on_with(tmp_path):
    out, loop = tmp_path / "traces.jsonl", make_loop("self-refine", Guesser())
    solve(loop, QUESTIONS[:2], out=out)
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    for part in (part for row in rows for part in (*row["attempts"], *row["asides"])):
        del part["tokens"]
        part["words"] = 2
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert [t.tokens for t in read(out)] == [None, None]
    traces = solve(loop, QUESTIONS[:4], out=out, resume=True)
    assert list(map(timeless, traces)) == list(map(timeless, solve(loop, QUESTIONS[:4])))


def test_a_run_that_breaks_keeps_what_it_finished(tmp_path):
    count = iter(range(99))

    def dying(prompt, seen):
        if next(count) >= 5:
            raise EndpointFailure("the endpoint http://nowhere is gone")
        return "A: 1"

    out = tmp_path / "traces.jsonl"
    with pytest.raises(EndpointFailure, match="nowhere"):
        solve(make_loop("single", Drafter(dying)), QUESTIONS, out=out, at_once=1)
    assert len(read(out)) == 5


def test_a_file_of_another_run_is_refused(tmp_path):
    out = tmp_path / "traces.jsonl"
    solve(make_loop("heart", Guesser()), QUESTIONS[:2], out=out)
    with pytest.raises(OutputRefused, match="exists already"):
        solve(make_loop("heart", Guesser()), QUESTIONS[:2], out=out)
    for other in ({"seed": 1}, {"oracle": True}):
        with pytest.raises(InvalidInput, match="another run"):
            solve(make_loop("heart", Guesser()), QUESTIONS, out=out, resume=True, **other)
    with pytest.raises(InvalidInput, match="another run"):
        solve(make_loop("neutral", Guesser()), QUESTIONS, out=out, resume=True)
    out.write_text("{}\n")
    with pytest.raises(RecordError, match=":1: expected a trace"):
        read(out)
    with pytest.raises(InvalidInput, match="at_once"):
        solve(make_loop("heart", Guesser()), QUESTIONS, at_once=0)


@pytest.mark.parametrize("oracle", [True, False])
def test_a_run_with_other_limits_or_another_selector_is_not_gone_on_with(tmp_path, oracle):
    out = tmp_path / "traces.jsonl"
    loop = make_loop("heart", Guesser())
    solve(loop, QUESTIONS[:2], out=out, oracle=oracle)
    assert len(solve(loop, QUESTIONS, out=out, oracle=oracle, resume=True)) == len(QUESTIONS)
    mine = tmp_path / "mine.toml"
    mine.write_text("[bank.joy]\ntexts = ['What a pleasure.', 'How good.']", "utf-8")
    others = [make_loop("heart", Guesser(), budget=Budget(samples=3)),
              make_loop("heart", Guesser(), cues=bank(mine)),
              make_loop("heart", Guesser(), mode="all")]  # fmt: skip
    if not oracle:  # an oracle chooses whatever the selector
        others.append(make_loop("heart", Guesser(), selector="last"))
    for other in others:
        with pytest.raises(InvalidInput, match="another run"):
            solve(other, QUESTIONS, out=out, oracle=oracle, resume=True)


def test_a_run_that_another_judge_steered_is_not_gone_on_with(tmp_path):
    out = tmp_path / "traces.jsonl"

    def loop(name):
        judge = Judging(name)
        return make_loop("heart", Guesser(), judge=judge, selector="best_reward")

    solve(loop("taste/1"), QUESTIONS[:2], out=out)
    assert len(solve(loop("taste/1"), QUESTIONS[:4], out=out, resume=True)) == 4
    with pytest.raises(InvalidInput, match=r"another run: .*taste/1.* expected .*taste/2"):
        solve(loop("taste/2"), QUESTIONS, out=out, resume=True)


def test_every_score_names_the_version_of_the_verifier_that_made_it(tmp_path, monkeypatch):
    out, loop = tmp_path / "traces.jsonl", make_loop("heart", Guesser())
    (trace,) = solve(loop, QUESTIONS[:1], out=out, oracle=True)
    assert (trace.judge, trace.verifier) == ("numeric/1.0", "numeric/1.0")
    assert [read(out)[0].verifier] == ["numeric/1.0"]
    (by_judge,) = solve(loop, QUESTIONS[:1], verifier=FactJudge(ScriptedModel(["C"] * 9)))
    assert by_judge.verifier.startswith("fact-judge/")
    newer = replace(VERIFIERS["numeric"], version="1.1")
    monkeypatch.setitem(VERIFIERS, "numeric", newer)
    with pytest.raises(
        InvalidInput, match=r"another run: .*numeric/1\.0.* expected .*numeric/1\.1"
    ):
        solve(loop, QUESTIONS, out=out, oracle=True, resume=True)


def test_an_unknown_verifier_is_named_before_the_policy_is_asked():
    policy = Drafter(lambda p, n: "A: 1")
    odd = QUESTIONS[0].model_copy(update={"id": "odd", "verifier": "numerik"})
    with pytest.raises(UnknownName, match="did you mean 'numeric'"):
        solve(make_loop("single", policy), [*QUESTIONS, odd])
    assert policy.calls == 0


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"verifier": "numeric", "answers": ("many",)}, "'odd' expects a number"),
        ({"verifier": "choice"}, "no option of question 'odd'"),
        ({"verifier": "regex", "answers": ("(",)}, "'odd' expects a pattern"),
    ],
)
def test_a_question_that_is_not_for_its_verifier_is_named_before_the_policy_is_asked(fields, why):
    policy = Drafter(lambda p, n: "A: 1")
    odd = QUESTIONS[0].model_copy(update={"id": "odd", **fields})
    with pytest.raises(InvalidInput, match=why):
        solve(make_loop("single", policy), [*QUESTIONS, odd])
    assert policy.calls == 0


def test_a_broken_line_is_counted_with_the_blank_ones_before_it(tmp_path):
    path = tmp_path / "traces.jsonl"
    solve(make_loop("single", Guesser()), QUESTIONS[:1], out=path)
    path.write_text(path.read_text("utf-8") + "\n \n{}\n", "utf-8")
    with pytest.raises(RecordError, match=":4: expected a trace"):
        read(path)


def test_a_path_that_cannot_be_gone_on_with_is_named(tmp_path):
    with pytest.raises(OutputRefused, match="cannot go on with"):
        solve(make_loop("single", Guesser()), QUESTIONS[:1], out=tmp_path, resume=True)


def test_what_cannot_be_given_counts_for_no_oracle_and_what_is_unknown_is_not_zero():
    (trace,) = solve(make_loop("single", Drafter(lambda p, n: "A: 1")), QUESTIONS[:1])
    assert summary([trace]).any == (100,)
    leaked = trace.attempts[0].model_copy(update={"error": "the cue leaked"})
    lost = trace.model_copy(update={"attempts": (leaked,), "report": None})
    found = summary([lost])
    assert (found.first, found.any, found.resampling) == (None, (None,), ())
    assert "-" in _text(table([found]))


def test_elimination_and_resampling_follow_their_formulas():
    assert elimination(60, 4, 4) == pytest.approx((60, 73.33, 86.67, 100), abs=0.01)
    assert elimination(60, 6, 4)[-1] == 100
    assert resampling(50, 3) == pytest.approx((50, 75, 87.5))


def test_an_oracle_on_choices_is_shown_beside_mere_elimination():
    questions = [
        Question(id=f"c{n}", text=f"Pick {n}.", answers=("(A)",), verifier="choice",
                 choices=("one", "two", "three", "four")) for n in range(12)
    ]  # fmt: skip
    policy = Drafter(lambda p, n: "A: " + "ABCD"[p.seed % 4])
    loop = make_loop("heart", policy, budget=Budget(samples=3))
    helped = summary(solve(loop, questions, oracle=True), questions)
    assert len(helped.elimination) == 3
    assert helped.elimination[0] == helped.first
    shown = _text(table([helped, summary(solve(loop, questions), questions)]))
    assert shown.count("(oracle-assisted)") == 1
    assert shown.count("resampling alone") == shown.count("elimination alone") == 1


def test_no_word_of_the_table_is_cut_in_a_terminal_of_80_columns():
    traces = solve(make_loop("emotion-prompt", Guesser()), QUESTIONS, oracle=True)
    row = summary(traces, QUESTIONS, control=traces).model_copy(update={"tokens": 1234.5})
    shown = _text(table([row, row.model_copy(update={"arm": "self-consistency"})]), width=80)
    for word in ("emotion-prompt", "(oracle-assisted)", "control", "samples,", "tokens", "1234.5"):
        assert word in shown


def _text(renderable, width=140):
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_two_arms_are_compared_task_by_task():
    loop, control = make_loop("heart", Guesser()), make_loop("neutral", Guesser())
    traces, against = solve(loop, QUESTIONS), solve(control, QUESTIONS)
    found = summary(traces, control=against)
    assert (found.over_control.mean, found.over_control.low, found.over_control.high) == (0, 0, 0)
    worse = [t.model_copy(update={"report": Score(value=0.0)}) for t in against]
    assert summary(traces, control=worse).over_control.mean == found.accuracy.mean


def test_tokens_are_told_for_a_task_where_all_are_known():
    talker = Drafter(lambda p, n: "A: 1" if n else "well then A: 1", counts=True)
    traces = solve(make_loop("heart", talker, budget=Budget(samples=3)), QUESTIONS[:4])
    assert summary(traces).tokens == 8
    assert {"3.0,", "8.0"} <= set(_text(table([summary(traces)])).split())
    (silent,) = solve(make_loop("single", Guesser()), QUESTIONS[:1])
    assert summary([*traces, silent]).tokens is None


def test_answers_that_were_withheld_are_told_where_facts_are_checked():
    asked = [Question(id=f"f{n}", text=f"Where? {n}", answers=("Rome",), verifier="fact")
             for n in range(4)]  # fmt: skip
    said = iter(["A: Rome", "A: I do not know", "A: I cannot say", "A: Oslo"])
    found = summary(solve(make_loop("single", Drafter(lambda p, n: next(said))), asked, at_once=1))
    assert (found.accuracy.mean, found.not_attempted) == (25, 50)
    assert "not attempted" in _text(table([found]))
    other = summary(solve(make_loop("single", Guesser()), QUESTIONS))
    assert other.not_attempted is None
    assert "not attempted" not in _text(table([other]))


def test_what_is_unscored_is_counted_and_enters_no_mean():
    traces = solve(make_loop("single", Guesser()), QUESTIONS)
    lost = [t.model_copy(update={"report": Score(value=None, why="?")}) for t in traces[:20]]
    found = summary([*lost, *traces[20:]])
    assert (found.tasks, found.unscored, found.accuracy.n) == (24, 20, 4)
    assert summary(lost).accuracy is None
    with pytest.raises(InvalidInput, match="got none"):
        summary([])


def test_a_plot_has_a_panel_for_each_arm(tmp_path):
    pytest.importorskip("matplotlib")
    arms = {n: solve(make_loop(n, Guesser()), QUESTIONS) for n in ("heart", "neutral")}
    path = tmp_path / "plot.svg"
    plot(arms, path)
    drawn = path.read_text("utf-8")
    assert drawn.startswith("<svg") and ">heart<" in drawn and ">neutral<" in drawn
    assert "--ink:" in drawn and "oracle" not in drawn
    plot({"helped": solve(make_loop("heart", Guesser()), QUESTIONS, oracle=True)}, path)
    assert ">helped (oracle-assisted)<" in path.read_text("utf-8")
    with pytest.raises(InvalidInput, match="none to draw"):
        plot({}, path)
