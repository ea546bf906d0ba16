"""The loop: draft, score, say something, draft again, choose."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from heartloop.env.play import Policy, Prompt
from heartloop.errors import EpisodeFailure, InvalidInput, unknown
from heartloop.policy.loops.base import Answers, Asking, Attempt, Budget, Judge, Trace
from heartloop.policy.loops.choose import SELECTORS, reserve
from heartloop.policy.loops.coaches import Coach, Silent
from heartloop.policy.loops.context import Context, Note
from heartloop.policy.loops.cues import digest, leaked
from heartloop.policy.loops.desk import Desk
from heartloop.rewards.answers import canonical
from heartloop.types import Reply, Score


@dataclass(frozen=True)
class Loop:
    """A policy made out of another one; holds no state, so one object serves any number of runs."""

    label: str
    """Name of the recipe, such as "heart"."""
    policy: Policy
    coach: Coach
    context: Context
    selector: str
    budget: Budget
    judge: Judge | None = None
    """Steers: ends the loop where it passes an attempt, and scores what is chosen from."""
    role: Literal["user", "system"] = "user"
    """Who speaks the notes: "system" where the user is a person in a dialogue."""
    extract: Callable[[str], str] = canonical
    """The part of a reply that is voted on."""

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        if self.selector not in SELECTORS:
            raise unknown("selector", self.selector, SELECTORS)
        if self.selector == "best_reward" and self.judge is None:
            raise InvalidInput(
                "selector 'best_reward' needs a judge: give one, or choose with "
                "'majority', 'last', 'pairwise' ..."
            )

    @property
    def name(self) -> str:
        """The recipe and whose replies it works on."""
        return f"{self.label}({self.policy.name})"

    @property
    def reveals(self) -> bool:
        """As the policy within."""
        return self.policy.reveals

    @property
    def settings(self) -> str:
        """What decides the outcome besides recipe, policy, judge and seed."""
        given = self.budget.model_dump(exclude_none=True)
        if foreign := digest(self.coach.cues):
            given["cues"] = foreign
        parts = (self.selector, self.context.mode, self.context.placement, self.role)
        return ", ".join([*parts, *(f"{name} {value}" for name, value in given.items())])

    @property
    def stops(self) -> bool:
        """Whether an attempt can be good enough to end the loop."""
        return self.judge is not None and self.judge.passes is not None

    def __call__(self, prompts: Sequence[Prompt]) -> list[Reply | EpisodeFailure]:
        """One reply to each prompt; a run that gave none fails its dialogue."""
        return [t.reply or EpisodeFailure(t.error) for t in self.run_many(prompts)]

    def run(self, prompt: Prompt, task: str = "") -> Trace:
        """One run, with all that was tried."""
        return drive(self.policy, [self.begin(prompt, task)])[0]

    def run_many(self, prompts: Sequence[Prompt]) -> list[Trace]:
        """Several runs in step, so that the policy is asked for many replies at a time."""
        return drive(self.policy, [self.begin(prompt) for prompt in prompts])

    def begin(self, prompt: Prompt, task: str = "") -> Asking[Trace]:
        """One run that waits for its replies, to be driven beside others of the same policy."""
        desk = Desk(prompt, self.budget, self.role, self.stops)
        while not (stopped := self._over(desk)):
            note = yield from self.coach(desk)
            yield from self._attempt(desk, note)
        return (yield from self._closed(desk, task, stopped))

    def _over(self, desk: Desk) -> str:
        """Why no further attempt is made, "" where one is."""
        if any(attempt.passed for attempt in desk.attempts):
            return "passed"
        asks = self.coach.asks if desk.attempts else 0
        return desk.limit(asks + 1 + reserve(self.selector, len(desk.attempts) + 1))

    def _attempt(self, desk: Desk, note: Note | None) -> Asking[None]:
        """Draw drafts, score them, put them on the desk."""
        begin = len(desk.attempts)
        indices = range(begin, begin + self._width(desk))
        prompts = [self.context.prompt(desk, note, index) for index in indices]
        replies, seconds = yield from desk.draw(prompts)
        if note:
            desk.secrets.append(note.secret)
        for index, asked, reply in zip(indices, prompts, replies, strict=True):
            desk.attempts.append(self._made(desk, index, asked, note, reply, seconds))

    def _width(self, desk: Desk) -> int:
        """Drafts that can be drawn at a time: independent ones that nothing can cut short."""
        alone = isinstance(self.coach, Silent) and self.context.mode == "none" and not self.stops
        if not alone or desk.budget.tokens is not None or desk.budget.seconds is not None:
            return 1
        made = len(desk.attempts)
        fitting = [n for n in range(1, desk.left + 1)
                   if n + reserve(self.selector, made + n) <= desk.left]  # fmt: skip
        return max(fitting)

    def _made(
        self, desk: Desk, index: int, asked: Prompt, note: Note | None,
        reply: Reply | EpisodeFailure, seconds: float,
    ) -> Attempt:  # fmt: skip
        made: dict[str, Any] = {
            "index": index,
            "seed": asked.seed,
            "messages": asked.history,
            "tokens": reply.tokens,
            "seconds": seconds,
        }
        if note:
            made |= {"cue": note.id, "emotion": note.emotion, "valence": note.valence}
        if isinstance(reply, EpisodeFailure):
            return Attempt(**made, error=str(reply) or type(reply).__name__)
        made |= {"reply": reply, "answer": self.extract(reply.text)}
        visible = [message.content for message in desk.prompt.history]
        if words := next(filter(None, (leaked(s, reply.text, visible) for s in desk.secrets)), ""):
            return Attempt(**made, error=f"the cue leaked into the reply: {words!r}")
        return Attempt(**made, **self._scored(desk.prompt, reply))

    def _scored(self, prompt: Prompt, reply: Reply) -> dict[str, Any]:
        """What the judge makes of a reply."""
        if self.judge is None:
            return {}
        try:
            score = self.judge(prompt, reply)
        except EpisodeFailure as failure:
            score = Score(value=None, why=str(failure) or type(failure).__name__)
        bar = self.judge.passes
        passed = bar is not None and score.value is not None and score.value >= bar
        return {"score": score, "passed": passed}

    def _closed(self, desk: Desk, task: str, stopped: str) -> Asking[Trace]:
        """The trace, with the choice where there is anything to choose from."""
        passed = next((a for a in desk.attempts if a.passed), None)
        choice = None
        if desk.usable and passed is None:
            choice = yield from SELECTORS[self.selector](desk)
        trace = Trace(
            loop=self.label,
            policy=self.policy.name,
            settings=self.settings,
            task=task,
            seed=desk.prompt.seed,
            messages=desk.prompt.history,
            attempts=tuple(desk.attempts),
            asides=tuple(desk.asides),
            stopped=stopped,
            judge=self.judge.name if self.judge else "",
            oracle_assisted=self.judge is not None and self.judge.kind == "oracle",
        )
        if passed is not None:
            chosen = {"chosen": passed.index, "reply": passed.reply, "how": "passed"}
        elif choice is not None:
            chosen = {"chosen": choice.index, "reply": choice.reply, "how": choice.how}
        else:
            chosen = {"error": _why_nothing(desk, stopped)}
        return trace.model_copy(update=chosen)


def _why_nothing(desk: Desk, stopped: str) -> str:
    if not desk.attempts:
        return f"no attempt was made: the budget of {stopped} allows none"
    return f"all {len(desk.attempts)} attempts failed; the first: {desk.attempts[0].error}"


def drive(policy: Policy, runs: Sequence[Asking[Trace]]) -> list[Trace]:
    """Advance runs of loops around one policy together: each round is one call of it."""
    done: dict[int, Trace] = {}
    asked: dict[int, list[Prompt]] = {}

    def advance(number: int, answers: tuple[Answers, float] | None) -> None:
        try:
            # A generator that has not begun takes None only.
            asked[number] = runs[number].send(answers)  # type: ignore[arg-type]
        except StopIteration as end:
            done[number] = end.value

    for number in range(len(runs)):
        advance(number, None)
    while asked:
        now, asked = asked, {}
        began = time.perf_counter()
        replies = _replies(policy, [prompt for prompts in now.values() for prompt in prompts])
        seconds, at = time.perf_counter() - began, 0
        for number, prompts in now.items():
            advance(number, (replies[at : at + len(prompts)], seconds))
            at += len(prompts)
    return [done[number] for number in range(len(runs))]


def _replies(policy: Policy, prompts: list[Prompt]) -> Answers:
    replies = policy(prompts)
    if len(replies) != len(prompts):
        raise InvalidInput(
            f"policy {policy.name!r} must give one reply to each of {len(prompts)} prompts,"
            f" gave {len(replies)}"
        )
    return replies
