"""The benchmark of users that wait for a model measures what it says, on a small scale."""

import sys
import time
from pathlib import Path

import pytest

from heartloop.llm.base import event_loop

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from user_throughput import HEAD, Measured, measure, served, watched


@pytest.fixture(scope="module")
def url():
    with served(0.05) as address:
        yield address


def test_dialogues_at_once_take_little_longer_than_one(url):
    alone, together = (measure(url, n, 64, 0.05, turns=4) for n in (1, 8))
    assert (alone.dialogues, alone.calls) == (1, 8)
    assert (together.dialogues, together.calls) == (8, 64)
    assert alone.ideal == together.ideal == pytest.approx(8 * 0.05)
    assert alone.seconds >= alone.ideal
    assert together.seconds < 5 * alone.seconds


def test_a_row_never_beats_what_latency_allows_and_fits_the_table(url):
    found = measure(url, 4, 2, 0.05, turns=2)
    assert 0 < found.share <= 1
    assert found.dialogues == 2
    assert found.row.count("|") == HEAD.splitlines()[0].count("|")
    assert 0 < found.cpu < found.seconds * 4


def test_a_blocked_event_loop_shows_in_the_lag():
    with watched() as lags:
        for block in (0.0, 0.2):  # the watch has begun, then is held up
            seen = len(lags)
            event_loop().call_soon_threadsafe(time.sleep, block)
            while len(lags) < seen + 2:
                time.sleep(0.005)
    assert max(lags) > 100


def test_the_bars_are_on_speed_and_on_lag():
    lags = [0.1] * 98 + [60.0] * 2
    fast = Measured(64, 64, 1024, seconds=8.5, ideal=8.0, lags=lags[:98], cpu=1.0)
    assert fast.passed
    assert (fast.lag(0.5), fast.lag(0.99)) == (0.1, 0.1)
    slow = Measured(64, 64, 1024, seconds=9.0, ideal=8.0, lags=lags[:98], cpu=1.0)
    stalled = Measured(64, 64, 1024, seconds=8.5, ideal=8.0, lags=lags, cpu=1.0)
    assert not slow.passed
    assert not stalled.passed
