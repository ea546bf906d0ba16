"""Checks of the loop itself, with policies that draft by rule."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from heartloop.errors import EpisodeFailure, InvalidInput, UnknownName
from heartloop.policy.loops import LOOPS, Budget, make_loop
from heartloop.policy.loops import loop as loops
from heartloop.policy.loops.base import Trace
from heartloop.policy.loops.coaches import AGAIN, FAILED
from heartloop.policy.loops.cues import bank
from heartloop.policy.loops.judges import Answered
from heartloop.rewards.verifiers import verifier
from heartloop.types import Message
from tests.contracts import check_policy
from tests.fakes import toy_scenario
from tests.policy.loops.fakes import QUESTION, Drafter, Guesser, Longest, ask, in_turn

ORACLE = Answered(QUESTION, verifier("numeric"))
SEQUENTIAL = ["heart", "neutral", "demand", "random", "self-refine", "reflexion"]


def timeless(trace: Trace) -> dict:
    row = trace.model_dump()
    for part in (*row["attempts"], *row["asides"]):
        del part["seconds"]
    return row


def right_on(number: int) -> Drafter:
    """Gives a wrong answer until draft number `number` (from 0)."""
    return Drafter(lambda prompt, seen: "A: 7" if seen == number else f"A: {seen + 10}")


@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("name", ["heart", "neutral", "demand", "random"])
def test_a_policy_right_on_attempt_j_stops_at_j(name, number):
    trace = make_loop(name, right_on(number), judge=ORACLE, mode="all").run(ask())
    assert (trace.chosen, len(trace.attempts), trace.stopped) == (number, number + 1, "passed")
    assert trace.reply.text == "A: 7"
    assert trace.oracle_assisted


def test_without_a_judge_nothing_stops_it_and_nothing_is_called_wrong():
    policy = right_on(0)
    trace = make_loop("heart", policy).run(ask())
    assert (len(trace.attempts), trace.stopped, trace.oracle_assisted) == (5, "samples", False)
    assert not any(FAILED in m.content for p in policy.seen for m in p.history)


def test_with_an_oracle_the_policy_is_told_of_the_failure_and_never_of_the_gold():
    policy = right_on(9)
    make_loop("heart", policy, judge=ORACLE).run(ask())
    notes = [p.history[-1].content for p in policy.seen[1:]]
    assert all(note.startswith(FAILED) for note in notes)
    assert not any("7" in note for note in notes)


@pytest.mark.parametrize("arm", ["demand", "random", "heart", "heart-six", "heart-shuffled"])
@pytest.mark.parametrize("judge", [None, ORACLE])
def test_a_policy_that_ignores_cues_scores_the_same_under_every_cue(arm, judge):
    for seed in range(20):
        runs = [make_loop(n, Guesser(), judge=judge).run(ask(seed=seed)) for n in (arm, "neutral")]
        replies = [[a.reply.text for a in run.attempts] for run in runs]
        assert replies[0] == replies[1]
        assert (runs[0].reply, runs[0].chosen) == (runs[1].reply, runs[1].chosen)


def test_the_first_attempt_is_what_the_plain_policy_says():
    plain = Guesser()([ask()])[0]
    for name in ("single", "heart", "best-of-n", "self-refine"):
        assert make_loop(name, Guesser()).run(ask()).attempts[0].reply == plain


def test_valences_alternate_and_no_cue_returns_before_its_others_were_used():
    loop = make_loop("heart", Guesser(), budget=Budget(samples=9))
    trace = loop.run(ask())
    valences = ["", "negative", "positive", "negative", "positive"]
    assert [a.valence for a in trace.attempts[:5]] == valences
    used = [a.cue for a in trace.attempts[1:]]
    assert sorted(used) == sorted(c.id for c in bank().cues("joy", "surprise", "sadness", "anger"))
    others = [[a.cue for a in loop.run(ask(seed=s)).attempts[1:]] for s in range(5)]
    assert len({tuple(o) for o in others}) > 1


def test_a_static_arm_keeps_its_emotion_and_six_add_fear_and_disgust():
    static = make_loop("heart-anger", Guesser()).run(ask())
    assert {a.emotion for a in static.attempts[1:]} == {"anger"}
    six = make_loop("heart-six", Guesser(), budget=Budget(samples=13)).run(ask())
    assert {"fear", "disgust"} < {a.emotion for a in six.attempts}


@pytest.mark.parametrize(
    ("mode", "shown"),
    [("none", ["Q 2"]), ("last", ["Q", "draft 1. A: 11", "note"]),
     ("answers", ["Q", "10", "11", "note"]),
     ("all", ["Q", "draft 0. A: 10", "draft 1. A: 11", "note"])],
)  # fmt: skip
def test_each_mode_shows_the_drafts_it_names(mode, shown):
    policy = in_turn("draft 0. A: 10", "draft 1. A: 11", "draft 2. A: 12")
    loop = make_loop("neutral", policy, mode=mode, budget=Budget(samples=3))
    loop.run(ask("Q"))
    found = [m.content for m in policy.seen[-1].history]
    if mode == "none":
        assert len(found) == 1 and found[0].startswith("Q\n")
    else:
        assert found[:-1] == shown[:-1]
        assert policy.seen[-1].history[-1].role == "user"


def test_a_stimulus_stands_where_it_is_placed():
    cue = bank().stimulus("EP08")
    wanted = {"after": f"Q {cue.text}", "line": f"Q\n{cue.text}", "before": f"{cue.text}\nQ"}
    for placement, text in wanted.items():
        policy = in_turn("A: 1")
        trace = make_loop("emotion-prompt:EP08", policy, placement=placement).run(ask("Q"))
        assert [m.content for m in policy.seen[0].history] == [text]
        assert (trace.loop, trace.attempts[0].cue, len(trace.attempts)) == (
            "emotion-prompt:EP08", "EP08", 1)  # fmt: skip


def test_a_loop_says_the_cues_it_is_given_and_its_traces_tell_them_from_others(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[bank.joy]\ntexts = ['What a pleasure.']", "utf-8")
    loop = make_loop("heart-joy", Guesser(), cues=bank(path))
    trace = loop.run(ask())
    assert all("What a pleasure." in a.messages[-1].content for a in trace.attempts[1:])
    own = make_loop("heart-joy", Guesser())
    assert (trace.loop, trace.settings) == (own.label, loop.settings)
    assert loop.settings.startswith(f"{own.settings}, cues ")
    untouched = make_loop("heart-anger", Guesser(), cues=bank(path))
    assert untouched.settings == make_loop("heart-anger", Guesser()).settings


def test_braces_in_a_task_are_left_as_they_are():
    policy = in_turn("A: 1")
    make_loop("emotion-prompt", policy).run(ask("Sum {note} and {task}?"))
    assert policy.seen[0].history[0].content.startswith("Sum {note} and {task}?\n")


def test_a_reply_that_repeats_its_cue_is_kept_in_the_trace_and_never_chosen():
    leak = Drafter(lambda p, n: p.history[-1].content if n else "A: 1")
    trace = make_loop("heart", leak, selector="last").run(ask())
    assert all("leaked" in a.error for a in trace.attempts[1:])
    assert (trace.chosen, trace.reply.text) == (0, "A: 1")


def test_a_cue_that_is_repeated_rounds_later_is_found_too():
    kept = []

    def say(prompt, seen):
        kept.append(prompt.history[-1].content)
        return kept[1] if len(kept) == 4 else "A: 1"

    trace = make_loop("heart", Drafter(say), budget=Budget(samples=4)).run(ask())
    assert ["leaked" in a.error for a in trace.attempts] == [False, False, False, True]


@pytest.mark.parametrize("name", ["heart", "self-refine", "reflexion", "probe-and-refine"])
def test_a_reply_that_repeats_how_it_was_asked_is_never_chosen(name):
    parrot = Drafter(lambda p, n: AGAIN if AGAIN in p.history[-1].content else "A: 1")
    trace = make_loop(name, parrot, selector="last", budget=Budget(samples=6)).run(ask())
    assert all("leaked" in a.error for a in trace.attempts[1:])
    assert trace.reply.text == "A: 1"


def test_where_no_answer_was_had_none_is_called_refused():
    policy = in_turn(EpisodeFailure("lost"), "A: 3", "A: 4")
    loop = make_loop("heart", policy, judge=ORACLE, budget=Budget(samples=3))
    found = [a.messages[-1].content for a in loop.run(ask()).attempts]
    assert [FAILED in text for text in found] == [False, False, True]


def test_failed_attempts_stay_in_the_trace():
    policy = in_turn(EpisodeFailure("lost"), "A: 3", EpisodeFailure("lost too"))
    trace = make_loop("resample", policy, budget=Budget(samples=3)).run(ask())
    assert [a.error for a in trace.attempts] == ["lost", "", "lost too"]
    assert (trace.chosen, trace.error) == (1, "")


def test_where_all_fail_there_is_an_error_and_no_reply():
    policy = Drafter(lambda p, n: EpisodeFailure("endpoint busy"))
    loop = make_loop("heart", policy)
    trace = loop.run(ask())
    assert (trace.reply, trace.chosen, len(trace.attempts)) == (None, None, 5)
    assert "all 5 attempts failed" in trace.error and "endpoint busy" in trace.error
    (answer,) = loop([ask()])
    assert isinstance(answer, EpisodeFailure)


@pytest.mark.parametrize("samples", [0, 1, 2, 5])
@pytest.mark.parametrize("name", sorted(LOOPS))
def test_no_loop_draws_more_than_its_budget(name, samples):
    policy = Drafter(lambda p, n: f"A: {p.seed % 7}")
    trace = make_loop(name, policy, budget=Budget(samples=samples)).run(ask())
    assert trace.samples == len(policy.seen) <= samples
    assert (trace.reply is None) == (samples == 0)
    assert bool(trace.error) == (samples == 0)


@pytest.mark.parametrize("selector", ["pairwise", "select", "synthesise"])
@pytest.mark.parametrize("samples", [2, 3, 6])
def test_a_selector_that_asks_stays_within_the_budget_too(selector, samples):
    policy = Drafter(lambda p, n: f"A: {p.seed % 7}")
    for name in ("resample", "heart"):
        loop = make_loop(name, policy, selector=selector, budget=Budget(samples=samples))
        trace = loop.run(ask())
        assert trace.samples <= samples
        assert trace.asides or samples == 2


@pytest.fixture
def clock(monkeypatch):
    """What the loops take for the time: it passes where a test says so, and nowhere else."""
    now = [0.0]

    def passes(seconds):
        now[0] += seconds

    monkeypatch.setattr(loops, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return passes


def test_tokens_and_seconds_are_limits_too(clock):
    talker = Drafter(lambda p, n: "one two three four", counts=True)
    few = make_loop("heart", talker, budget=Budget(samples=9, tokens=8)).run(ask())
    assert (len(few.attempts), few.stopped, few.tokens) == (2, "tokens", 8)

    def slow(prompt, seen):
        clock(3)
        return "A: 1"

    short = make_loop("heart", Drafter(slow), budget=Budget(samples=9, seconds=5)).run(ask())
    assert (len(short.attempts), short.stopped, short.seconds) == (2, "seconds", 6)


@pytest.mark.parametrize("name", ["resample", "best-of-n", "heart"])
def test_independent_drafts_stop_at_a_limit_of_tokens_too(name):
    talker = Drafter(lambda p, n: "one two three four", counts=True)
    trace = make_loop(name, talker, budget=Budget(samples=9, tokens=8)).run(ask())
    assert (len(trace.attempts), trace.stopped) == (2, "tokens")


def test_what_a_policy_says_about_its_drafts_counts_and_what_it_thinks_does():
    def say(prompt, seen):
        asked = prompt.history[-1].content
        return "Too short by far." if "strictest reader" in asked else "<think>so so</think> A: 1"

    talker = Drafter(say, counts=True)
    trace = make_loop("self-refine", talker, budget=Budget(samples=9, tokens=9)).run(ask())
    assert [a.tokens for a in trace.attempts] == [4, 4]
    assert [a.tokens for a in trace.asides] == [4]
    assert (trace.stopped, trace.tokens) == ("tokens", 12)


def test_a_call_that_failed_counts_with_what_it_reports():
    spent = EpisodeFailure("nothing but thoughts")
    spent.tokens = 6
    policy = Drafter(in_turn(spent, EpisodeFailure("busy"), "A: 3").say, counts=True)
    trace = make_loop("heart", policy, budget=Budget(samples=9, tokens=7)).run(ask())
    assert [a.tokens for a in trace.attempts] == [6, None, 2]
    assert (trace.stopped, trace.tokens) == ("tokens", 8)


@pytest.mark.parametrize("name", ["single", "heart", "self-refine"])
def test_tokens_that_nobody_counts_are_unknown_and_cannot_be_limited(name):
    assert make_loop(name, Guesser()).run(ask()).tokens is None
    with pytest.raises(InvalidInput, match="limit samples or seconds instead"):
        make_loop(name, Guesser(), budget=Budget(tokens=1000)).run(ask())


def test_a_leaked_draft_without_a_count_leaves_the_sum_unknown():
    leak = Drafter(lambda p, n: p.history[-1].content if n else "A: 1")
    trace = make_loop("heart", leak, budget=Budget(samples=2)).run(ask())
    first = trace.attempts[0].model_copy(update={"tokens": 2})
    assert "leaked" in trace.attempts[1].error
    assert trace.model_copy(update={"attempts": (first, trace.attempts[1])}).tokens is None


def test_runs_in_step_wait_for_the_policy_and_not_for_each_others_judges(clock):
    class Slow(Longest):
        def __call__(self, prompt, reply):
            clock(1000)
            return super().__call__(prompt, reply)

    def thinks(prompt, seen):
        clock(1)
        return "A: 1"

    loop = make_loop("resample", Drafter(thinks), judge=Slow(),
                     budget=Budget(samples=2, seconds=99))  # fmt: skip
    traces = loop.run_many([ask(seed=s) for s in range(6)])
    assert [t.seconds for t in traces] == [12] * 6  # two rounds of six drafts, and no judging


def test_a_missing_score_is_not_a_low_one():
    policy = in_turn("hm", "raise", "x", "hm")
    loop = make_loop("resample", policy, judge=Longest(), budget=Budget(samples=4))
    trace = loop.run(ask())
    assert trace.chosen == 2
    assert [a.score.value for a in trace.attempts] == [None, None, 0.01, None]
    assert trace.attempts[1].score.why == "no score to be had"


def test_where_nothing_could_be_scored_the_first_is_taken_and_it_is_said():
    loop = make_loop("resample", in_turn("hm", "hm"), judge=Longest(), budget=Budget(samples=2))
    trace = loop.run(ask())
    assert (trace.chosen, "none could be scored" in trace.how) == (0, True)


def test_independent_drafts_are_asked_for_at_once_and_sequential_ones_are_not():
    by_turns = right_on(99)
    policy = Drafter(lambda p, n: "A: 1")
    make_loop("self-consistency", policy).run(ask())
    assert (policy.calls, len(policy.seen)) == (1, 5)
    make_loop("heart", by_turns).run(ask())
    assert by_turns.calls == 5


def test_runs_in_step_share_the_calls_of_the_policy():
    policy = Drafter(lambda p, n: f"A: {p.seed % 5}")
    loop = make_loop("heart", policy)
    together = loop.run_many([ask(seed=s) for s in range(8)])
    assert policy.calls == 5
    assert [timeless(t) for t in together] == [timeless(loop.run(ask(seed=s))) for s in range(8)]


def test_threads_and_a_pickled_loop_give_the_same_traces():
    loop = pickle.loads(pickle.dumps(make_loop("heart", Guesser(), judge=ORACLE)))
    prompts = [ask(seed=s) for s in range(16)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(loop.run, prompts))
    assert list(map(timeless, found)) == [timeless(loop.run(p)) for p in prompts]


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_a_trace_survives_json(name):
    trace = make_loop(name, Guesser()).run(ask())
    assert Trace.model_validate_json(trace.model_dump_json()) == trace


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_every_loop_keeps_the_contract_of_policies(name):
    loop = make_loop(name, Guesser(), dialogue=True)
    check_policy(loop, toy_scenario())
    assert loop.name == f"{name}(guesser)"


def test_self_refine_shows_its_own_criticism():
    def say(prompt, seen):
        asked = prompt.history[-1].content
        return "Too short." if "strictest reader" in asked else f"A: {asked.count('Too short.')}"

    trace = make_loop("self-refine", Drafter(say), budget=Budget(samples=3)).run(ask())
    assert [a.text for a in trace.asides] == ["Too short."]
    assert trace.reply.text == "A: 1"


def test_reflexion_keeps_the_last_three_lessons():
    def say(prompt, seen):
        asked = prompt.history[-1].content
        return f"lesson {prompt.seed}" if "probably went wrong" in asked else "A: 1"

    policy = Drafter(say)
    trace = make_loop("reflexion", policy, judge=ORACLE, budget=Budget(samples=11)).run(ask())
    lessons = [a.text for a in trace.asides]
    assert len(lessons) == 5 and len(trace.attempts) == 6
    last = trace.attempts[-1].messages[-1].content
    assert [lesson in last for lesson in lessons] == [False, False, True, True, True]


def test_probe_and_refine_gathers_what_it_named():
    def say(prompt, seen):
        asked = prompt.history[-1].content
        if "Name only what is missing" in asked:
            return "the year"
        if "settle each" in asked:
            return "it was 1912" if "the year" in asked else "nothing"
        return "A: 1912" if "it was 1912" in asked else "A: 0"

    trace = make_loop("probe-and-refine", Drafter(say), budget=Budget(samples=4)).run(ask())
    assert [a.purpose for a in trace.asides] == ["missing", "gather"]
    assert trace.reply.text == "A: 1912"


def test_in_a_dialogue_notes_are_not_ascribed_to_the_person():
    policy = right_on(99)
    make_loop("heart", policy, dialogue=True).run(ask("I lost my keys."))
    for prompt in policy.seen:
        assert [m for m in prompt.history if m.role == "user"] == [
            Message(role="user", content="I lost my keys.")
        ]


def test_best_reward_without_a_judge_is_refused():
    with pytest.raises(InvalidInput, match="needs a judge"):
        make_loop("heart", Guesser(), selector="best_reward")
    with pytest.raises(UnknownName, match="did you mean 'heart'"):
        make_loop("hart", Guesser())
    with pytest.raises(UnknownName, match="selector"):
        make_loop("heart", Guesser(), selector="luck")
    with pytest.raises(UnknownName, match="no loop called 'heart:EP01'"):
        make_loop("heart:EP01", Guesser())
    with pytest.raises(UnknownName, match="did you mean 'EP11'"):
        make_loop("emotion-prompt:EP12", Guesser())
    with pytest.raises(InvalidInput, match="expected a mode"):
        make_loop("heart", Guesser(), mode="some")
