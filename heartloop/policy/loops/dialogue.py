"""A loop in a dialogue: drafts are rehearsed with a fork, the choice is said and scored afresh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from heartloop.env.play import Dialogue, Policy
from heartloop.errors import EpisodeFailure
from heartloop.policy.loops.base import Asking, Budget, Trace
from heartloop.policy.loops.judges import Rehearsal, StandIn
from heartloop.policy.loops.loop import Loop, drive
from heartloop.policy.loops.presets import make_loop
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.types import Episode, Score


def companion(name: str, policy: Policy, budget: Budget | None = None) -> Loop:
    """The loop of that name for talking with anybody: embedded stand-ins judge its drafts.

    Raises:
        UnknownName: there is no such loop.
    """
    return make_loop(name, policy, judge=StandIn(EmbeddedUser), budget=budget, dialogue=True)


def talk(dialogue: Dialogue, loop: Loop, *, rehearse: bool = True) -> tuple[Episode, list[Trace]]:
    """Let a loop talk until the dialogue ends.

    The user hears the chosen replies alone. Each trace reports the emotion after the reply was
    really said, beside the rehearsed scores: the best of several rehearsals flatters.

    Args:
        dialogue: Opened with `make_user`, where it is to be rehearsed.
        loop: Made for a dialogue; with `rehearse` its judge gives way to the fork.
        rehearse: Score drafts with a fork of the user, which makes the run oracle-assisted.
    """
    return talk_many([dialogue], loop, rehearse=rehearse)[0]


def talk_many(
    dialogues: Sequence[Dialogue], loop: Loop, *, rehearse: bool = True
) -> list[tuple[Episode, list[Trace]]]:
    """As `talk` does, with several at a time, so that the policy is asked for many replies."""
    traces: list[list[Trace]] = [[] for _ in dialogues]
    while going := [n for n, dialogue in enumerate(dialogues) if dialogue.stop is None]:
        runs = [_begun(dialogues[n], loop, rehearse) for n in going]
        for n, trace in zip(going, drive(loop.policy, runs), strict=True):
            traces[n].append(_said(dialogues[n], trace))
    episodes = (dialogue.episode(loop.name) for dialogue in dialogues)
    return list(zip(episodes, traces, strict=True))


def _begun(dialogue: Dialogue, loop: Loop, rehearse: bool) -> Asking[Trace]:
    """The run of one turn."""
    if rehearse:
        loop = replace(loop, judge=Rehearsal(dialogue), selector="best_reward")
    return loop.begin(dialogue.prompt(loop), dialogue.task.scenario.id)


def _said(dialogue: Dialogue, trace: Trace) -> Trace:
    """The trace with what came of its reply."""
    if trace.reply is None:
        dialogue.fail(EpisodeFailure(trace.error))
        return trace
    reaction = dialogue.step(trace.reply).reaction
    why = dialogue.error or "the preset leaves this reply unscored"
    score = Score(value=reaction.emotion / 100) if reaction else Score(value=None, why=why)
    user = f"{dialogue.user.id}/{dialogue.user.preset.name}"
    return trace.model_copy(update={"report": score, "verifier": user})
