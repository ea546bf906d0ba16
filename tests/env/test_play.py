"""Checks of the loop: one dialogue, many dialogues, seeds, forks, failures."""

import math
import pickle
from collections.abc import Mapping
from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heartloop.env.play import (
    Dialogue,
    LocalWorld,
    Outcome,
    Prompt,
    Task,
    episode_id,
    play,
    play_many,
    prompt_seed,
)
from heartloop.errors import InvalidInput
from heartloop.rewards import reward
from heartloop.simusers.dynamics import preset
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.types import Episode, Reply, StopReason
from tests.contracts import check_policy, check_sim_user
from tests.fakes import ToyPolicy, ToyUser, toy_scenario

SCENARIO = toy_scenario()
TASKS = [Task(toy_scenario(f"toy-{i}"), seed=i) for i in range(12)]
EMBEDDED = EmbeddedUser()


def chatty(prompt: Prompt) -> str:
    """Says goodbye at a moment that its seed decides, so that dialogues end apart."""
    return "bye" if prompt.seed % 3 == 0 else f"number {prompt.seed % 7}"


def toy(seed: int = 0, rules: str = "default") -> Dialogue:
    make = partial(ToyUser, preset(rules))
    return Dialogue(make(), SCENARIO, seed, make)


def test_the_toy_user_keeps_the_contract() -> None:
    check_sim_user(ToyUser, SCENARIO)


@pytest.mark.parametrize("rules", ["default", "sage-eval", "rlver-train"])
def test_the_embedded_user_keeps_the_contract(rules: str) -> None:
    check_sim_user(partial(EmbeddedUser, preset(rules)), SCENARIO)


def test_the_toy_policy_keeps_the_contract() -> None:
    check_policy(ToyPolicy(chatty), SCENARIO)


def test_a_dialogue_runs_to_its_turn_limit_and_refuses_more() -> None:
    dialogue = toy()
    for _ in range(8):
        assert dialogue.stop is None
        dialogue.step(Reply(text="hm"))
    assert dialogue.stop is StopReason.TURN_LIMIT
    assert dialogue.last.emotion == 40 + 8 * 2
    with pytest.raises(InvalidInput, match="has ended"):
        dialogue.step(Reply(text="hm"))


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("bye", StopReason.FAREWELL),
        ("awful", StopReason.FAILURE),
        ("five words in a row", StopReason.SUCCESS),
    ],
)
def test_a_dialogue_stops_for_its_reason(text: str, stop: StopReason) -> None:
    episode = play(toy(), ToyPolicy(lambda prompt: text))
    assert episode.stop is stop


def test_the_last_reply_of_a_full_length_sage_dialogue_stays_unscored() -> None:
    episode = play(toy(rules="sage-eval"), ToyPolicy(lambda prompt: "one two"))
    assert len(episode.turns) == 10
    assert episode.turns[-1].reaction is None
    assert all(turn.reaction for turn in episode.turns[:-1])
    assert episode.stop is StopReason.TURN_LIMIT
    assert episode.history[-1].role == "assistant"


def test_a_failing_user_ends_the_dialogue_as_an_error_without_reward() -> None:
    policy = ToyPolicy(lambda prompt: "fail" if len(prompt.history) > 2 else "go on")
    episode = play_many(LocalWorld(ToyUser), policy, [Task(SCENARIO, 0)], reward("final"))[0]
    assert episode.stop is StopReason.ERROR
    assert episode.error == "toy could not read this"
    assert [turn.reaction is None for turn in episode.turns] == [False, True]
    assert episode.score is not None
    assert episode.score.value is None
    assert "toy could not read this" in episode.score.why


def test_a_user_that_fails_to_open_costs_its_own_dialogue_only() -> None:
    tasks = [Task(toy_scenario("bad", opener="fail"), 0), *TASKS[:3]]
    episodes = play_many(LocalWorld(ToyUser), ToyPolicy(), tasks, batch=1)
    assert [e.stop is StopReason.ERROR for e in episodes] == [True, False, False, False]
    assert episodes[0].turns == ()
    assert episodes[0].error == "toy failed to open"


def test_the_policy_never_sees_think_blocks_nor_the_scenario() -> None:
    seen: list[Prompt] = []

    def watch(prompt: Prompt) -> str:
        seen.append(prompt)
        return "<think>a secret plan</think>I see."

    episode = play(toy(), ToyPolicy(watch))
    assert episode.turns[0].reply.think == "a secret plan"
    assert all("secret" not in m.content for prompt in seen for m in prompt.history)
    assert all(prompt.secret is None for prompt in seen)
    play(toy(), oracle := ToyPolicy(watch, reveals=True))
    assert seen[-1].secret == SCENARIO
    assert oracle.batches == [1] * 8


def test_seeds_differ_between_turns_samples_and_tasks() -> None:
    tasks = [Task(SCENARIO, 1), Task(SCENARIO, 1, sample=1), Task(SCENARIO, 2), TASKS[1]]
    seeds = {prompt_seed(task, turn) for task in tasks for turn in range(8)}
    assert len(seeds) == 32
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert (
        prompt_seed(tasks[0], 0) == 5871824218104843831
    )  # pinned: a change of it changes every run


@pytest.mark.parametrize("batch", [1, 2, 5, 100, None])
def test_the_batch_changes_no_episode(batch: int | None) -> None:
    alone = [Dialogue(ToyUser(), task.scenario, task.seed, sample=task.sample) for task in TASKS]
    expected = [play(dialogue, ToyPolicy(chatty)) for dialogue in alone]
    assert play_many(LocalWorld(ToyUser), ToyPolicy(chatty), TASKS, batch=batch) == expected


def test_the_batch_stays_full_while_dialogues_wait() -> None:
    policy = ToyPolicy(chatty)
    episodes = play_many(LocalWorld(ToyUser), policy, TASKS, batch=4)
    assert len({len(e.turns) for e in episodes}) > 2, "dialogues of one length prove nothing"
    assert sum(policy.batches) == sum(len(e.turns) for e in episodes)
    full = policy.batches.index(next(size for size in policy.batches if size < 4))
    assert policy.batches[:full] == [4] * full
    assert policy.batches[full:] == sorted(policy.batches[full:], reverse=True)


def test_episodes_are_reported_as_they_end_and_returned_in_order() -> None:
    heard: list[Episode] = []
    world = LocalWorld(ToyUser)
    episodes = play_many(world, ToyPolicy(chatty), TASKS, batch=5, on_episode=heard.append)
    assert [e.scenario.id for e in episodes] == [t.scenario.id for t in TASKS]
    assert sorted(e.id for e in heard) == sorted(e.id for e in episodes)
    assert heard != episodes


class LateWorld(LocalWorld):
    """Answers for one reply at a time, the newest first."""

    def step(self, replies: Mapping[int, Reply]) -> dict[int, Outcome]:
        self.owed: dict[int, Reply] = {**getattr(self, "owed", {}), **replies}
        number = max(self.owed)
        return super().step({number: self.owed.pop(number)})


def test_a_world_that_answers_late_changes_no_episode() -> None:
    expected = play_many(LocalWorld(ToyUser), ToyPolicy(chatty), TASKS)
    policy = ToyPolicy(chatty)
    assert play_many(LateWorld(ToyUser), policy, TASKS, batch=5) == expected
    assert sum(policy.batches) == sum(len(e.turns) for e in expected), "asked twice for one reply"


def test_samples_of_one_task_share_the_opening_and_go_their_own_ways() -> None:
    tasks = [Task(SCENARIO, 3, sample) for sample in range(8)]
    episodes = play_many(LocalWorld(ToyUser), ToyPolicy(chatty), tasks)
    assert len({e.opening.text for e in episodes}) == 1
    assert len({e.id for e in episodes}) > 1


def test_no_task_is_no_episode() -> None:
    assert play_many(LocalWorld(ToyUser), ToyPolicy(), []) == []


def test_a_batch_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 1, got 0"):
        play_many(LocalWorld(ToyUser), ToyPolicy(), TASKS, batch=0)


def test_a_policy_with_too_few_replies_is_named() -> None:
    class Mute(ToyPolicy):
        def __call__(self, prompts: object) -> list[Reply]:
            return []

    with pytest.raises(InvalidInput, match=r"'mute' must give one reply to each of 12 .* gave 0"):
        play_many(LocalWorld(ToyUser), Mute(name="mute"), TASKS)


def test_a_world_can_be_sent_to_another_process() -> None:
    world = pickle.loads(pickle.dumps(LocalWorld(ToyUser)))
    assert world.open({3: TASKS[0]})[3].reaction is not None
    assert pickle.loads(pickle.dumps(world)).step({3: Reply(text="hm")})[3].stop is None


def test_a_world_forgets_dialogues_that_ended() -> None:
    world = LocalWorld(ToyUser)
    world.open({0: TASKS[0]})
    assert world.step({0: Reply(text="bye")})[0].stop is StopReason.FAREWELL
    with pytest.raises(InvalidInput, match="number 0"):
        world.step({0: Reply(text="again")})


@pytest.mark.parametrize("turn", range(4))
def test_forks_at_any_turn_are_independent_and_equal(turn: int) -> None:
    scenario = TASKS[0].scenario
    dialogue = Dialogue(EmbeddedUser(), scenario, 5, EmbeddedUser)
    for number in range(turn):
        dialogue.step(Reply(text=f"That sounds hard, what happened at {number}?"))
    twin, other = dialogue.fork(), dialogue.fork()
    other.step(Reply(text="Whatever, get over it."))
    reply = Reply(text="You lost the keys, and now you have to tell him tonight.")
    assert twin.step(reply) == dialogue.step(reply)
    assert twin.episode("p") == dialogue.episode("p")
    assert other.episode("p") != dialogue.episode("p")


def test_restoring_undoes_an_ending() -> None:
    dialogue = toy()
    before = dialogue.snapshot()
    dialogue.step(Reply(text="bye"))
    after = dialogue.snapshot()
    dialogue.restore(before)
    assert (dialogue.stop, dialogue.turns) == (None, ())
    dialogue.restore(after)
    assert dialogue.stop is StopReason.FAREWELL


def test_a_failed_dialogue_can_still_be_copied() -> None:
    dialogue = toy()
    dialogue.step(Reply(text="fail"))
    assert dialogue.fork().episode("p") == dialogue.episode("p")


def test_a_fork_without_a_maker_and_a_foreign_snapshot_are_refused() -> None:
    bare = Dialogue(ToyUser(), SCENARIO, 0)
    with pytest.raises(InvalidInput, match="make_user"):
        bare.fork()
    with pytest.raises(InvalidInput, match="cannot be continued"):
        bare.restore(Dialogue(EmbeddedUser(), SCENARIO, 0).snapshot())


def test_an_episode_id_depends_on_everything_that_was_said() -> None:
    task, reply = Task(SCENARIO, 1), Reply(text="hm")
    ids = {
        episode_id("u/1", "default", task, "p", [reply]),
        episode_id("u/2", "default", task, "p", [reply]),
        episode_id("u/1", "sage-eval", task, "p", [reply]),
        episode_id("u/1", "default", Task(SCENARIO, 2), "p", [reply]),
        episode_id("u/1", "default", TASKS[1], "p", [reply]),
        episode_id("u/1", "default", task, "q", [reply]),
        episode_id("u/1", "default", task, "p", [Reply(text="hm", think="x")]),
        episode_id("u/1", "default", task, "p", [reply, reply]),
    }
    assert len(ids) == 8
    assert all(len(name) == 16 for name in ids)


NASTY = (
    "\x00" * 50,
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "\u202eright to left\u202c مرحبا בוקר טוב",
    "a" * 200_000,
    "\n\r\u2028\u2029\x85" * 100,
    "e\u0301\u200d\ufeff\U0010ffff\U0001f468\u200d\U0001f469",
    "1e999 nan inf -0 ١٢٣ Ⅷ ½",
    "<think>" * 1000,
    "{persona.name} %s %(x)s {{}} $x \\1",
    "I" + " feel" * 20_000,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=300), min_size=1, max_size=8), st.integers(0, 2**31))
@example([*NASTY[:8]], 0)
@example([*NASTY[8:]], 1)
def test_no_reply_whatever_moves_the_emotion_out_of_bounds(texts: list[str], seed: int) -> None:
    dialogue = Dialogue(EMBEDDED, SCENARIO, seed)
    for text in texts:
        if dialogue.stop is None:
            dialogue.step(Reply.parse(text))
    for turn in dialogue.turns:
        assert turn.reaction is not None
        assert 0 <= turn.reaction.emotion <= 100
        assert math.isfinite(turn.reaction.change)
        assert abs(turn.reaction.change) <= 10
        parts = turn.reaction.appraisal
        assert all(map(math.isfinite, (*parts.contributions.values(), *parts.beliefs.values())))
        assert math.isclose(sum(parts.contributions.values()), turn.reaction.change, abs_tol=1e-6)
    episode = dialogue.episode("p")
    assert Episode.model_validate_json(episode.model_dump_json()) == episode
