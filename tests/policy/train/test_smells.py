"""A run that goes wrong says what to turn; one that goes well says nothing."""

import pytest

from heartloop.policy.train.smells import WINDOW, smells

WELL = {"stage": "rl", "tied_groups": 0.1, "cut_replies": 0.0, "errored": 0.0, "kl": 0.01,
        "entropy": 2.0, "explained_variance": 0.6, "logprob_gap": 0.001}  # fmt: skip


def history(steps=2 * WINDOW, **last):
    return [WELL] * (steps - WINDOW) + [WELL | last] * WINDOW


def test_a_run_that_goes_well_has_no_smell():
    assert list(smells(history())) == []


@pytest.mark.parametrize(
    ("figure", "value", "advice"),
    [
        ("tied_groups", 0.9, "finer reward"),
        ("cut_replies", 0.5, "policy.max_new_tokens"),
        ("errored", 0.2, "episodes.jsonl"),
        ("kl", 2.0, "rl.beta"),
        ("entropy", 0.1, "rl.entropy"),
        ("explained_variance", -3.0, "ppo.learning_rate"),
        ("logprob_gap", 0.2, "stale"),
    ],
)
def test_each_smell_says_what_to_turn(figure, value, advice):
    (warning,) = smells(history(**{figure: value}))
    assert advice in warning


def test_a_figure_that_is_not_there_smells_of_nothing():
    assert list(smells([{"stage": "rl", "entropy": None}] * 2 * WINDOW)) == []


def test_warnings_come_once_in_a_window_and_never_mix_two_stages():
    bad = WELL | {"kl": 9.0}
    assert not list(smells([bad] * (WINDOW - 1)))
    assert list(smells([bad] * WINDOW))
    assert not list(smells([bad] * (WINDOW + 1)))
    assert not list(smells([bad | {"stage": "warmup"}] * (WINDOW - 1) + [bad]))
