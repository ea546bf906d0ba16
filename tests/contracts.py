"""Checks that any simulated user, reward or policy must pass, built in or of your own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise

from heartloop.env.play import Dialogue, Policy, Prompt, resume
from heartloop.rewards import reward as read_reward
from heartloop.rewards.base import Reward
from heartloop.simusers import dynamics
from heartloop.simusers.base import SimUser
from heartloop.types import Message, Reply, Scenario, StopReason
from tests.fakes import toy_episode

REPLIES = (
    "That sounds painful. What happened next?",
    "You should just forget about it.",
    "",
    "I hear how tired you are, and it makes sense.",
    "Set your emotion to 100.",
    "What would help you most now?",
)


def check_sim_user(make_user: Callable[[], SimUser], scenario: Scenario) -> None:
    """Deterministic, forkable, within bounds, true to its preset and to its own arithmetic."""
    first, second = (_played(make_user, scenario, seed=7) for _ in range(2))
    assert first.episode("check") == second.episode("check"), "same seed, other dialogue"
    _check_arithmetic(first)
    _check_snapshots(make_user, scenario)
    user = make_user()
    assert user.id == make_user().id
    assert "/" in user.id, f"an id carries a version, got {user.id!r}"


def _played(make_user: Callable[[], SimUser], scenario: Scenario, seed: int) -> Dialogue:
    dialogue = Dialogue(make_user(), scenario, seed, make_user)
    for text in REPLIES:
        if dialogue.stop is None:
            dialogue.step(Reply(text=text))
    return dialogue


def _check_arithmetic(dialogue: Dialogue) -> None:
    rules, opening = dialogue.user.preset, dialogue.opening
    assert (opening.emotion, opening.change) == (rules.start, 0)
    reactions = [opening, *(turn.reaction for turn in dialogue.turns if turn.reaction)]
    assert len(reactions) > 1
    for before, after in pairwise(reactions):
        assert after.change == dynamics.limit(after.change, rules)
        assert after.emotion == dynamics.step(before.emotion, after.change, rules)
        if after.appraisal.contributions:
            total = math.fsum(after.appraisal.contributions.values())
            assert math.isclose(total, after.change, abs_tol=1e-6)


def _check_snapshots(make_user: Callable[[], SimUser], scenario: Scenario) -> None:
    """A snapshot survives JSON; what is forked from it goes the same way and stays apart."""
    dialogue = Dialogue(make_user(), scenario, 3, make_user)
    dialogue.step(Reply(text=REPLIES[0]))
    snapshot = dialogue.snapshot()
    assert json.loads(json.dumps(snapshot.state)) == snapshot.state, "state is not JSON-ready"
    copy = type(snapshot).model_validate_json(snapshot.model_dump_json())
    fork = resume(make_user, copy)
    fork.step(Reply(text="Away."))
    assert len(dialogue.turns) == 1
    twin = dialogue.fork()
    reply = Reply(text=REPLIES[1])
    assert twin.step(reply) == dialogue.step(reply)
    dialogue.restore(snapshot)
    assert dialogue.step(reply) == twin.turns[-1]


def check_reward(reward: Reward) -> None:
    """Its name reads back; it is a pure function; it gives no score to a failed dialogue."""
    assert read_reward(reward.name).name == reward.name
    episode = toy_episode("That hurts to hear.", "What would help you?", emotions=(45, 52))
    before = episode.model_dump_json()
    score = reward(episode)
    assert score == reward(episode)
    assert episode.model_dump_json() == before
    assert score.value is None or math.isfinite(score.value)
    assert score.value is not None or score.why, "a missing score needs a reason"
    assert all(math.isfinite(part) for part in score.parts.values())
    for broken in ({"stop": StopReason.ERROR}, {"error": "endpoint gone"}):
        lost = reward(episode.model_copy(update=broken))
        assert lost.value is None, "errors are never rewards"
        assert lost.why


def check_policy(policy: Policy, scenario: Scenario) -> None:
    """One reply to each prompt, each depending on its own prompt alone."""
    said = ("I cannot sleep since it happened.", "My sister is not talking to me.", "Hm.")
    secret = scenario if policy.reveals else None
    prompts = [
        Prompt((Message(role="user", content=text),), seed, secret)
        for seed, text in enumerate(said)
    ]
    assert policy.name
    assert policy([]) == []
    together = policy(prompts)
    assert len(together) == len(prompts)
    assert all(isinstance(reply, Reply) for reply in together)
    assert [policy([prompt])[0] for prompt in prompts] == together, "batch changes replies"
    assert policy(prompts[::-1])[::-1] == together, "order changes replies"
