"""Checks of the selectors."""

import pytest

from heartloop.policy.loops import Budget, make_loop
from tests.policy.loops.fakes import Drafter, Longest, ask, in_turn


def run(selector, *texts, judge=None):
    budget = Budget(samples=len(texts))
    loop = make_loop("neutral", in_turn(*texts), selector=selector, judge=judge, budget=budget)
    return loop.run(ask())


@pytest.mark.parametrize(
    ("selector", "texts", "chosen"),
    [
        ("first", ("A: 1", "A: 2", "A: 2"), 0),
        ("last", ("A: 1", "A: 2", "A: 3"), 2),
        ("majority", ("A: 1", "A: 2", "A: 1", "A: 3"), 2),
        ("majority", ("A: 1", "A: 2"), 1),
        ("majority", ("A: 1,000", "A: 2", "A: 1000.0"), 2),
        ("majority", ("A: 1", "A: 2", "A: 2", "A: 1"), 3),
        ("keep_first", ("A: 1", "A: 2", "A: 3"), 0),
        ("keep_first", ("A: 1", "A: 2", "A: 2"), 2),
        ("keep_first", ("A: 1", "A: 2", "A: 1"), 0),
    ],
)
def test_a_selector_that_asks_nobody_counts_as_it_says(selector, texts, chosen):
    assert run(selector, *texts).chosen == chosen


def test_the_best_score_wins_and_among_equals_the_earliest():
    trace = run("best_reward", "ab", "abc", "xyz", judge=Longest())
    assert trace.chosen == 1


def answering(verdict):
    """Drafts 1, 2, 3; answers a question about drafts by `verdict`."""
    count = iter(range(1, 9))

    def say(prompt, seen):
        asked = prompt.history[-1].content
        about = "better answer" in asked or "Possible answers" in asked
        return verdict(asked) if about else f"A: {next(count)}"

    return Drafter(say)


def three(selector, verdict, samples):
    loop = make_loop("resample", answering(verdict), selector=selector,
                     budget=Budget(samples=samples))  # fmt: skip
    return loop.run(ask())


def test_the_pairwise_winner_stays_wherever_it_is_shown():
    def prefer_two(asked):
        return "A" if "Answer A:\nA: 2" in asked else "B" if "Answer B:\nA: 2" in asked else "A"

    trace = three("pairwise", prefer_two, 5)
    assert (len(trace.attempts), len(trace.asides)) == (3, 2)
    assert (trace.reply.text, trace.how) == ("A: 2", "pairwise")


def test_pairwise_verdicts_that_are_no_letter_are_counted():
    trace = three("pairwise", lambda asked: "A bit of both", 5)
    assert (trace.chosen, trace.how) == (0, "pairwise: 2 verdicts unreadable")


def test_a_number_picks_among_shuffled_candidates():
    def pick_two(asked):
        return asked[: asked.index(".\nA: 2")].rsplit("\n", 1)[1]

    trace = three("select", pick_two, 4)
    assert (len(trace.attempts), trace.reply.text, trace.how) == (3, "A: 2", "select")


@pytest.mark.parametrize("said", ["the second", "9", "0", "1 or 2", ""])
def test_an_unreadable_number_falls_back_on_the_first_and_says_so(said):
    trace = three("select", lambda asked: said, 4)
    assert (trace.chosen, trace.how) == (0, "select: unreadable, first")


def test_a_synthesis_is_marked_as_a_new_text():
    trace = three("synthesise", lambda asked: "A: 99", 4)
    assert (trace.chosen, trace.reply.text, trace.how) == (None, "A: 99", "synthesise")
    assert three("synthesise", lambda asked: "", 4).how == "synthesise: failed, last"


def test_a_synthesis_that_repeats_a_cue_is_thrown_away():
    cues = []

    def say(prompt, seen):
        asked = prompt.history[-1].content
        if "Possible answers" in asked:
            return cues[0]
        if seen:
            cues.append(asked.splitlines()[0])
        return "A: 1"

    loop = make_loop("heart", Drafter(say), selector="synthesise", budget=Budget(samples=4))
    trace = loop.run(ask())
    assert trace.how == "synthesise: failed, last"
    assert trace.reply.text == "A: 1"
