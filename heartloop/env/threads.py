"""A world of users that wait for a model: each dialogue moves on a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Any, TypeVar

from heartloop.env.play import LocalWorld, MakeUser, Outcome, Task
from heartloop.errors import InvalidInput
from heartloop.llm.base import Calls
from heartloop.types import Reply

S = TypeVar("S")
T = TypeVar("T")


def world(make_user: MakeUser, at_once: int = 1) -> LocalWorld:
    """A world in this process, on threads where more than one user may react at a time."""
    return LocalWorld(make_user) if at_once == 1 else ThreadedWorld(make_user, at_once)


class Crew:
    """Threads that work side by side, end when nothing is left to do, and hold up no exit."""

    def __init__(self, name: str, most: int) -> None:
        """Work on at most `most` threads called `name`."""
        self._name, self._most = name, most
        self._lock = threading.Lock()
        self._todo: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads = 0
        self._calls = Calls()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do work as soon as a thread is free."""
        future: Future[T] = Future()
        with self._lock:
            self._todo.append((future, work))
            if self._threads < self._most:
                # An executor's threads are joined at exit: a slow model would keep the process.
                threading.Thread(target=self._serve, name=self._name, daemon=True).start()
                self._threads += 1
        return future

    def abandon(self) -> None:
        """Drop what has not begun, and give up the model calls of what has."""
        with self._lock:
            dropped = [future for future, _ in self._todo]
            self._todo.clear()
        for future in dropped:
            future.cancel()
        self._calls.cancel()

    def _serve(self) -> None:
        self._calls.adopt()
        while job := self._next():
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._lock:
            if self._todo:
                return self._todo.popleft()
            self._threads -= 1
            return None


def side_by_side(work: Callable[[S], T], items: Iterable[S], at_once: int) -> Iterator[T]:
    """The results of work on each item, in order; the first error ends what is under way."""
    crew = Crew("heartloop-work", at_once)
    try:
        begun = [crew.submit(partial(work, item)) for item in items]
        for job in begun:
            yield job.result()
    except BaseException:
        crew.abandon()
        raise


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
        self._crew = Crew("heartloop-user", at_once)
        self._pending: dict[Future[Outcome], int] = {}
        self._failure: BaseException | None = None

    def open(self, tasks: Mapping[int, Task]) -> dict[int, Outcome]:
        """Open dialogues, all at once."""
        try:
            begun = {n: self._crew.submit(partial(self._open, n, t)) for n, t in tasks.items()}
            return {number: opening.result() for number, opening in begun.items()}
        except BaseException:
            self._crew.abandon()
            raise

    def step(self, replies: Mapping[int, Reply]) -> dict[int, Outcome]:
        """Give replies; hear whichever reactions are there, at least one.

        A failure that ends the run is raised once the reactions beside it have been heard.
        """
        try:
            heard = {} if self._failure else self._heard(replies)
            if self._failure and not heard:
                raise self._failure
            return heard
        except BaseException:
            # The run is over, be it by a failure or by Ctrl-C.
            self._crew.abandon()
            raise

    def _heard(self, replies: Mapping[int, Reply]) -> dict[int, Outcome]:
        """The reactions that are there; empty where all that came is a failure."""
        for number, reply in replies.items():
            self._pending[self._crew.submit(partial(self._step, number, reply))] = number
        done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
        heard: dict[int, Outcome] = {}
        for future in done:
            number = self._pending.pop(future)
            if error := future.exception():
                self._failure = error
            else:
                heard[number] = future.result()
        return heard
