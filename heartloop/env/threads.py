"""A world of users that wait for a model: each dialogue moves on a thread of its own."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from heartloop.env.play import LocalWorld, MakeUser, Outcome, Task
from heartloop.errors import InvalidInput
from heartloop.types import Reply


def world(make_user: MakeUser, at_once: int = 1) -> LocalWorld:
    """A world in this process, on threads where more than one user may react at a time."""
    return LocalWorld(make_user) if at_once == 1 else ThreadedWorld(make_user, at_once)


class ThreadedWorld(LocalWorld):
    """A world in this process in which no dialogue waits for another."""

    def __init__(self, make_user: MakeUser, at_once: int = 64) -> None:
        """Populate it with users of that make, `at_once` of whom may react at a time.

        Raises:
            InvalidInput: `at_once` is below 1.
        """
        if at_once < 1:
            raise InvalidInput(f"at_once must be at least 1, got {at_once!r}")
        super().__init__(make_user)
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="heartloop-user")
        self._pending: dict[Future[Outcome], int] = {}

    def open(self, tasks: Mapping[int, Task]) -> dict[int, Outcome]:
        """Open dialogues, all at once."""
        opened = self._threads.map(self._open, tasks, tasks.values())
        return dict(zip(tasks, opened, strict=True))

    def step(self, replies: Mapping[int, Reply]) -> dict[int, Outcome]:
        """Give replies; hear whichever reactions are there, at least one."""
        for number, reply in replies.items():
            self._pending[self._threads.submit(self._step, number, reply)] = number
        done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
        try:
            return {self._pending.pop(reaction): reaction.result() for reaction in done}
        except BaseException:
            # The run is over: what has not begun will not, and what has ends by its own limits.
            self._threads.shutdown(wait=False, cancel_futures=True)
            raise
