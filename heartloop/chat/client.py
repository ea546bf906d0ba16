"""The entry of the terminal client, as the command line calls it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from heartloop.chat.cast import Cast
from heartloop.chat.desk import Desk, episodes, settings
from heartloop.chat.entries import Mode, Setup
from heartloop.chat.session import Session
from heartloop.chat.store import Store, data_dir
from heartloop.errors import InvalidInput, extra
from heartloop.policy.base import check_policy
from heartloop.simusers.scenario import scenarios
from heartloop.types import Scenario


def chat(
    policy: str = "seedling",
    mode: Mode = Mode.TALK,
    *,
    against: str = "reflective",
    user: str = "embedded",
    preset: str = "default",
    source: str = "test",
    scenario: str = "",
    run: Path | None = None,
    number: int | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> None:
    """Open the client and stay until the person leaves.

    Args:
        policy: Who answers; a spec of `make_policy`.
        mode: What to begin with.
        against: The second policy of compare.
        user: The simulated user of help and watch.
        preset: The rules of a simulated dialogue.
        source: Where scenarios come from.
        scenario: Id of a scenario, or how it begins; empty for the one that the seed picks.
        run: A run directory or a file of episodes, for replay.
        number: A stored session to go on with, or in replay the episode to begin with.
        seed: Of simulated users and of replies.
        folder: The data directory; by default that of the platform.

    Raises:
        MissingExtra: textual is not installed.
        InvalidInput: something of the above does not exist, or there is no terminal.
    """
    try:
        from heartloop.chat.app import ChatApp
    except ImportError as cause:
        raise extra("chat", cause) from cause
    place = folder or data_dir()
    people = scenarios(source)
    base = Setup(
        mode=mode, policies=(policy, against), user=user, preset=preset, seed=seed,
        scenario=_person(people, seed),
    )  # fmt: skip
    store = Store(place)
    try:
        played = episodes(run) if run else ()
        desk = Desk(Cast(), store, base, people, played, settings(place))
        desk.base = base.model_copy(update={"scenario": desk.person(scenario)})
        first = _first(desk, mode, number)
        if not sys.stdin.isatty():
            raise InvalidInput("the client needs a terminal to be typed in; see heartloop play")
        ChatApp(desk, first).run()
    finally:
        store.close()


def _person(people: Sequence[Scenario], seed: int) -> Scenario:
    return people[seed % len(people)]


def _first(desk: Desk, mode: Mode, number: int | None) -> Session:
    """The session to begin with, when all who take part in it are known."""
    if mode is Mode.REPLAY:
        return desk.replay(1 if number is None else number)
    if number is not None:
        return desk.open(number)
    first = desk.begin(mode)
    if first.setup.scenario:
        desk.cast.user(first.setup.user, first.setup.preset)
    for spec in first.setup.policies:
        check_policy(spec)
    return first
