"""Checks of the adaptive limits of an endpoint."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate
from types import SimpleNamespace

import pytest

from heartloop.errors import EndpointFailure
from heartloop.llm.limits import LONGEST_PAUSE, SHORTEST_PAUSE, START, Limits, retry_after


@pytest.fixture
def clock(monkeypatch):
    """What the limits take for the time, moved by the test alone."""
    now = SimpleNamespace(seconds=100.0)
    fake = SimpleNamespace(monotonic=lambda: now.seconds, time=time.time)
    monkeypatch.setattr("heartloop.llm.limits.time", fake)
    return now


def run(work):
    return asyncio.run(asyncio.wait_for(work, 10))


async def one(limits: Limits, tokens: int = 1) -> None:
    async with limits.slot():
        limits.succeed(tokens)


def test_concurrency_grows_while_answers_are_clean_and_stops_at_its_ceiling():
    limits = Limits("x", concurrency=40)
    assert limits.concurrency == START
    for _ in range(10):
        limits.succeed(1)
    assert limits.concurrency == START + 10
    for _ in range(100):
        limits.succeed(1)
    assert limits.concurrency == 40


def test_a_complaint_halves_concurrency_once_and_growth_is_slow_afterwards():
    limits = Limits("x", concurrency=16)
    sent = time.monotonic()
    for _ in range(8):
        limits.crowded(sent, 0.0, "429")
    assert limits.concurrency == 8
    limits.crowded(time.monotonic(), 0.0, "429")
    assert limits.concurrency == 4
    for _ in range(4):
        limits.succeed(1)
    assert 4 <= limits.concurrency <= 5
    for _ in range(20):
        limits.succeed(1)
    assert 5 < limits.concurrency < 10


def test_no_more_than_the_limit_run_at_once_and_all_get_their_turn():
    limits = Limits("x", concurrency=5)
    flying, most = 0, 0

    async def call() -> None:
        nonlocal flying, most
        async with limits.slot():
            flying += 1
            most = max(most, flying)
            await asyncio.sleep(0.001)
            flying -= 1

    async def many() -> None:
        await asyncio.gather(*(call() for _ in range(60)))

    run(many())
    assert (most, flying) == (5, 0)


def test_nobody_sends_before_the_wait_asked_for_is_over():
    limits = Limits("x", concurrency=4)

    async def many() -> float:
        limits.crowded(time.monotonic(), 0.4, "429")
        began = time.monotonic()
        await asyncio.gather(*(one(limits) for _ in range(6)))
        return time.monotonic() - began

    assert run(many()) > 0.39


def test_pauses_grow_with_trouble_and_end_with_success(clock):
    limits = Limits("x")
    pauses = []
    for _ in range(8):
        limits.stumbled(clock.seconds, "500")
        pauses.append(limits._held_until - clock.seconds)
        limits._held_until = 0.0
    assert pauses[0] == pytest.approx(SHORTEST_PAUSE)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE)
    limits.succeed(1)
    limits.stumbled(clock.seconds, "500")
    assert limits._held_until - clock.seconds == pytest.approx(SHORTEST_PAUSE)


def test_patience_ends_when_nothing_succeeds_and_tells_all_who_wait():
    limits = Limits("the endpoint http://h (key variable K)", concurrency=1, patience=0.3)

    async def failing() -> None:
        while True:
            async with limits.slot() as sent:
                await asyncio.sleep(0.05)
                limits.fail(sent, "500 oops")

    async def many() -> list[object]:
        return await asyncio.gather(*(failing() for _ in range(5)), return_exceptions=True)

    began = time.monotonic()
    errors = run(many())
    assert time.monotonic() - began >= 0.3
    assert all(isinstance(e, EndpointFailure) for e in errors)
    assert len(set(map(str, errors))) == 1  # told at once: none had a patience of its own
    assert "http://h" in str(errors[0]) and "variable K" in str(errors[-1])


def test_one_success_renews_patience(clock):
    limits = Limits("x", patience=20)
    long_ago = clock.seconds - 50
    limits.succeed(1)
    limits.fail(long_ago, "stall")
    clock.seconds += 19
    limits.fail(long_ago, "stall")
    clock.seconds += 1
    with pytest.raises(EndpointFailure):
        limits.fail(long_ago, "stall")


def test_an_endpoint_given_up_gets_a_new_chance_after_patience(clock):
    limits = Limits("x", patience=20)
    with pytest.raises(EndpointFailure, match="never"):
        limits.give_up("500")
    with pytest.raises(EndpointFailure, match="never"):
        run(one(limits))
    clock.seconds += 20
    run(one(limits))


def test_a_wait_longer_than_patience_is_a_failure():
    limits = Limits("x", patience=5)
    with pytest.raises(EndpointFailure, match="asks to wait 3600 s"):
        limits.crowded(time.monotonic(), 3600.0, "429")


@pytest.mark.parametrize(("kind", "budget"), [("requests", 3), ("tokens", 30)])
def test_a_spent_budget_ends_the_run_and_names_the_option(kind, budget):
    limits = Limits("x", **{f"max_{kind}": budget})
    for _ in range(3):
        run(one(limits, tokens=10))
    with pytest.raises(EndpointFailure, match=rf"budget spent: {budget} of {budget} {kind}.*max_"):
        run(one(limits))


def test_cancelled_waiters_leave_nobody_stuck():
    limits = Limits("x", concurrency=1)

    async def many() -> None:
        async def hold() -> None:
            async with limits.slot():
                await asyncio.sleep(0.05)

        tasks = [asyncio.create_task(hold()) for _ in range(20)]
        await asyncio.sleep(0.01)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(d is None for d in done) == 10

    run(many())


def test_retry_after_is_read_as_seconds_or_as_a_date():
    assert retry_after("3") == 3
    assert retry_after(" 0.5 ") == 0.5
    soon = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    assert soon is not None and 28 < soon <= 30
    assert retry_after(formatdate(0, usegmt=True)) == 0


@pytest.mark.parametrize("header", [None, "", "soon", "-5", "nan", "inf", "Fri, 99 Foo 2026"])
def test_a_retry_after_nobody_can_read_is_none(header):
    assert retry_after(header) is None
