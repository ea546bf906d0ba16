"""Episodes in a terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from heartloop.policy.evals import show
from heartloop.policy.evals.evaluate import summary
from heartloop.types import StopReason
from tests.fakes import toy_episode

ESCAPE = "\x1b]0;owned\x07\x1b[2J[bold]hi[/bold] :smile: \u202eabc\x9b31m"


def printed(renderables):
    out = io.StringIO()
    console = Console(file=out, width=80, markup=False, emoji=False, highlight=False)
    console.print(*renderables, sep="\n")
    return out.getvalue()


@given(st.text())
def test_no_control_character_gets_through(text):
    assert not set(show.plain(text)) & {chr(c) for c in (*range(9), *range(11, 32), 127, 155)}


def test_ordinary_text_stays_as_it_is():
    assert show.plain("Déjà vu,\n你好 👍") == "Déjà vu,\n你好 👍"


def test_replies_cannot_steer_the_terminal():
    text = printed(show.episode(toy_episode(ESCAPE, f"<think>{ESCAPE}</think>ok", emotions=(5, 3))))
    assert not set("\x1b\x07\x9b\u202e") & set(text)
    assert "[bold]hi[/bold] :smile:" in text


def test_a_dialogue_fits_eighty_columns_and_shows_its_course():
    text = printed(show.episode(toy_episode("word " * 60, "", emotions=(60, 100))))
    assert max(map(len, text.splitlines())) <= 80
    assert "40.0 → 100.0 S" in text
    assert "▄▅█" in text
    assert "(nothing)" in text


def test_reasons_are_the_largest_contributions():
    parts = {"small": 0.2, "served": 3.0, "burden": -4.04, "none": 0.0}
    assert show.reasons(parts, 2) == "burden -4.0, served +3.0"
    assert show.reasons({"mood": -0.01}) == "mood +0.0"


@pytest.mark.parametrize(("level", "tick"), [(0, "▁"), (12.5, "▂"), (99.9, "█"), (100, "█")])
def test_a_spark_covers_the_whole_scale(level, tick):
    assert show.spark([level]) == tick


def test_a_summary_counts_what_could_not_be_scored():
    broken = toy_episode("x", stop=StopReason.ERROR, error="gone")
    text = printed(show.summary("toy", summary([toy_episode("Yes.", emotions=(50,)), broken])))
    assert "2, of which 1 could not be scored" in text
    assert "none of 1" in printed(show.summary("toy", summary([broken])))
