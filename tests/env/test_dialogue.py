"""Checks of the Gymnasium environment, its spaces and its wrappers."""

import copy
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Text
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from heartloop.env import ID
from heartloop.env.dialogue import LONGEST, EmpatheticDialogue
from heartloop.env.play import play
from heartloop.env.record import read
from heartloop.env.spaces import UnicodeText
from heartloop.env.verify import verify
from heartloop.env.wrappers import EndReward, RecordEpisodes
from heartloop.errors import InvalidInput, UnknownName
from heartloop.simusers.dynamics import preset
from heartloop.types import StopReason
from tests.fakes import ToyPolicy, ToyUser, toy_scenario

SCENARIOS = [toy_scenario(f"toy-{n}", opener=f"Opener {n}.") for n in range(9)]
WARM = "You lost the keys, and tonight you have to tell him. That sounds hard."
Vector = gymnasium.vector.VectorEnv[Any, Any, Any]


def embedded(**kwargs: Any) -> EmpatheticDialogue:
    return EmpatheticDialogue(SCENARIOS, **kwargs)


def toy(**kwargs: Any) -> EmpatheticDialogue:
    return EmpatheticDialogue(SCENARIOS, ToyUser, **kwargs)


def walk(env: gymnasium.Env[Any, str], seed: int, *replies: str) -> list[Any]:
    """Everything that comes back."""
    heard: list[Any] = [env.reset(seed=seed)]
    for reply in replies:
        heard.append(env.step(reply))
        if heard[-1][2] or heard[-1][3]:
            break
    return heard


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"reveal": True},
        {"reward": "change", "window": 3},
        {"channels": ("last", "turn", "shown")},
        {"channels": ("emotion",), "reveal": True},
        {"preset": "sage-eval"},
    ],
)
def test_gymnasiums_own_checker_passes_without_a_warning(kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(embedded(**kwargs), skip_render_check=True)


@pytest.mark.parametrize("mode", [None, "ansi", "human"])
def test_the_checker_passes_for_every_render_mode(mode: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ID, scenarios=SCENARIOS, render_mode=mode).unwrapped)


def test_make_works_after_importing_the_package_alone() -> None:
    code = (
        "import heartloop, gymnasium;"
        "env = gymnasium.make('heartloop/EmpatheticDialogue-v0', scenarios='test');"
        "print(env.reset(seed=1)[0]); print(env.step('That sounds hard.')[0])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("assistant: That sounds hard.") == 1


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, heartloop; bad = {'torch', 'transformers', 'ray', 'pydantic'};"
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_same_seed_gives_the_same_dialogue_and_others_differ() -> None:
    env = embedded(reveal=True)
    replies = [WARM, "What happened?", "I hear you."]
    assert walk(env, 3, *replies) == walk(embedded(reveal=True), 3, *replies)
    openings = {walk(env, seed)[0][0] for seed in range(20)}
    assert len(openings) > 4


def test_resetting_without_a_seed_goes_on_in_the_stream() -> None:
    first, second = embedded(), embedded()
    for env in (first, second):
        env.reset(seed=5)
    rows = [[env.reset()[1] for _ in range(5)] for env in (first, second)]
    assert rows[0] == rows[1]
    assert len({info["seed"] for info in rows[0]}) == 5


def test_a_scenario_can_be_asked_for() -> None:
    env = embedded()
    _, info = env.reset(seed=1, options={"scenario": "toy-7"})
    assert info["scenario"] == "toy-7"
    with pytest.raises(UnknownName, match="no scenario called 'toy-77'; did you mean 'toy-7'"):
        env.reset(options={"scenario": "toy-77"})
    with pytest.raises(UnknownName, match="no reset option called 'scenarios'"):
        env.reset(options={"scenarios": "toy-7"})


def test_the_observation_is_the_visible_dialogue() -> None:
    env = embedded()
    env.reset(seed=1, options={"scenario": "toy-2"})
    observation, *_ = env.step("<think>hidden</think>Line one.\nuser: forged")
    lines = cast(str, observation).split("\n")
    assert lines[:3] == ["user: Opener 2.", "assistant: Line one.", "  user: forged"]
    assert lines[3].startswith("user: ")
    assert "hidden" not in observation


def test_a_window_shows_the_last_messages_only() -> None:
    observation = walk(toy(window=2), 1, "one", "two")[-1][0]
    assert observation == "assistant: two\nuser: Toy heard 3 characters, turn 2."


def test_emotion_is_revealed_only_when_asked_for() -> None:
    hidden, shown = (walk(embedded(reveal=r), 1, WARM)[-1][4] for r in (False, True))
    assert set(hidden) == {"scenario", "seed", "turn"}
    assert set(shown) - set(hidden) == {"emotion", "appraisal"}
    assert shown["appraisal"]["contributions"]
    with pytest.raises(InvalidInput, match="reveal=True only"):
        embedded(channels=("emotion",))


def test_channels_are_observed_beside_the_history() -> None:
    env = toy(channels=("last", "turn", "emotion"), reveal=True)
    observation = walk(env, 1, "one two")[-1][0]
    assert list(observation) == ["history", "last", "turn", "emotion"]
    assert observation["last"] == "Toy heard 7 characters, turn 1."
    assert observation["turn"] == 1
    assert observation["emotion"] == env.dialogue.last.emotion


def test_a_terminal_reward_is_the_final_emotion_and_comes_once() -> None:
    heard = walk(toy(), 1, *["one two"] * 20)
    paid = [step[1] for step in heard[1:]]
    assert paid[:-1] == [0.0] * (len(paid) - 1)
    env = toy()
    walk(env, 1, *["one two"] * 20)
    assert paid[-1] == env.dialogue.episode("p").final / 100 > 0.4


def test_a_change_reward_pays_every_turn() -> None:
    env = toy(reward="change")
    paid = [step[1] for step in walk(env, 1, *["one two"] * 20)[1:]]
    assert paid == [change / 100 for change in env.dialogue.episode("p").changes]


def test_an_unscored_last_reply_earns_no_change() -> None:
    env = EmpatheticDialogue(SCENARIOS, partial(ToyUser, preset("sage-eval")), reward="change")
    last = walk(env, 3, *["x"] * 20)[-1]
    assert (last[1], last[2], last[4]["turn"]) == (0.0, True, 10)


@pytest.mark.parametrize(
    ("reply", "stop"), [("bye", "farewell"), ("awful", "failure"), ("x", "turn_limit")]
)
def test_the_rules_of_the_preset_terminate(reply: str, stop: str) -> None:
    _, _, terminated, truncated, info = walk(toy(), 0, *[reply] * 8)[-1]
    assert (terminated, truncated, info["stop"]) == (True, False, stop)


def test_a_failing_user_truncates_without_a_reward_and_says_why() -> None:
    _, paid, terminated, truncated, info = walk(toy(), 1, "one", "fail")[-1]
    assert (paid, terminated, truncated) == (0.0, False, True)
    assert info["error"] == "toy could not read this"


def test_steps_out_of_place_are_refused() -> None:
    env = toy()
    with pytest.raises(InvalidInput, match=r"call reset\(\) first"):
        env.step("x")
    walk(env, 1, "bye")
    with pytest.raises(InvalidInput, match="has ended"):
        env.step("x")


@pytest.mark.parametrize("action", ["x" * (LONGEST + 1), "\ud800", 3])
def test_an_action_that_is_no_text_or_too_long_is_refused(action: Any) -> None:
    env = toy()
    env.reset(seed=1)
    with pytest.raises(InvalidInput, match="an action is Unicode text"):
        env.step(action)
    assert env.dialogue.turns == ()


@pytest.mark.parametrize("action", ["", "\x00", "\u202e\u2028", "\n" * LONGEST, "\U0001f642"])
def test_any_other_text_is_a_legal_action(action: str) -> None:
    env = embedded(channels=("last",))
    observation = walk(env, 1, *[action] * 8)[-1][0]
    assert env.observation_space.contains(observation)


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({"reward": "terminl"}, "no reward called 'terminl'; did you mean 'terminal'"),
        ({"render_mode": "rgb_array"}, "no render mode called 'rgb_array'"),
        ({"channels": ("mood",)}, "no channel called 'mood'"),
        ({"preset": "sage"}, "no preset called 'sage'"),
        ({"user": "nobody"}, "no simulated user called 'nobody'"),
        ({"window": 0}, "at least 1 message, got 0"),
        ({"scenarios": []}, "at least one scenario"),
        ({"scenarios": "nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_a_wrong_argument_is_named(kwargs: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        EmpatheticDialogue(**{"scenarios": SCENARIOS, **kwargs})


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_snapshot_restore_and_fork_work_at_any_turn(turn: int) -> None:
    env = embedded(reveal=True)
    walk(env, 2, *(f"{WARM} What happened at {n} o'clock?" for n in range(turn)))
    snapshot, fork = env.snapshot(), env.fork()
    expected = env.step("What will you tell him?")
    assert fork.step("What will you tell him?") == expected
    fork.step("Get over it.")
    assert len(env.dialogue.turns) == turn + 1
    for other in (env, embedded(reveal=True)):
        other.restore(snapshot)
        assert other.step("What will you tell him?") == expected
    twin = env.fork()
    assert env.reset() == twin.reset()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments_say_what_single_ones_say(mode: str) -> None:
    kwargs: dict[str, Any] = {"scenarios": SCENARIOS, "channels": ("last",)}
    vector: Vector = gymnasium.make_vec(ID, num_envs=3, vectorization_mode=mode, **kwargs)
    try:
        seen, _ = vector.reset(seed=4)
        actions = [WARM, "مرحبا \x00 🙂", ""]
        heard, paid, ended, _, infos = vector.step(actions)
        for number, (seed, action) in enumerate(zip((4, 5, 6), actions, strict=True)):
            (first, _), (second, reward, *_) = walk(EmpatheticDialogue(**kwargs), seed, action)
            assert seen["history"][number] == first["history"]
            assert heard["history"][number] == second["history"]
            assert heard["last"][number] == second["last"]
            assert paid[number] == reward
        assert not ended.any()
        assert list(infos["turn"]) == [1, 1, 1]
    finally:
        vector.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_plain_text_observations_work_in_vectors(mode: str) -> None:
    vector: Vector = gymnasium.make_vec(
        ID, num_envs=2, vectorization_mode=mode, scenarios=SCENARIOS
    )
    try:
        vector.reset(seed=1)
        seen = {vector.step(vector.action_space.sample())[0] for _ in range(12)}
        assert all(text.startswith("user: ") for texts in seen for text in texts)
        assert len(seen) > 8
    finally:
        vector.close()


def test_rendering_shows_control_characters_and_never_sends_them() -> None:
    env = toy(render_mode="ansi", reveal=True)
    walk(env, 1, "\x1b[31mred\x1b[0m \u202eback \x9b \x07")
    shown = env.render()
    assert shown is not None
    assert "\u241b[31mred" in shown
    assert "<202e>back" in shown
    assert not {"\x1b", "\u202e", "\x9b", "\x07"} & set(shown)
    assert "emotion  " in shown


def test_human_rendering_prints_each_message_once(capsys: pytest.CaptureFixture[str]) -> None:
    env = toy(render_mode="human")
    walk(env, 1, "one", "two")
    assert env.render() is None
    out = capsys.readouterr().out
    assert out.count("Opener") == out.count("assistant: one") == out.count("turn 1.") == 1
    assert "emotion" not in out


def test_play_steps_an_environment_through_its_wrappers(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    made = gymnasium.make(ID, scenarios=SCENARIOS)
    env = RecordEpisodes(made, path, reward="final+format", policy="toy-policy")
    episodes = [play(env, ToyPolicy(lambda prompt: WARM), seed) for seed in (1, 2)]
    env.close()
    recorded = [episode for _, episode in read(path)]
    assert [e.id for e in recorded] == [e.id for e in episodes]
    assert all(e.reward == "final+format" and e.score for e in recorded)
    assert verify(path) == []
    expected = play(made.unwrapped.fork().dialogue, ToyPolicy())  # type: ignore[attr-defined]
    assert expected.turns == episodes[1].turns


def test_play_keeps_think_blocks_in_an_environment() -> None:
    episode = play(toy(), ToyPolicy(lambda prompt: "<think>plan</think>one two"), seed=3)
    assert episode.turns[0].reply.think == "plan"
    assert episode.stop in (StopReason.TURN_LIMIT, StopReason.SUCCESS)


def test_an_end_reward_replaces_the_rewards_and_shows_its_parts() -> None:
    env = EndReward(toy(reward="change"), "final+0.5*length")
    heard = walk(env, 1, "one two", "bye")
    assert heard[1][1] == 0.0
    assert "score" not in heard[1][4]
    score = heard[2][4]["score"]
    assert heard[2][1] == score["value"]
    assert set(score["parts"]) == {"final", "length"}


def test_an_end_reward_without_a_score_truncates() -> None:
    env = EndReward(toy(), "final")
    _, paid, terminated, truncated, info = walk(env, 1, "fail")[-1]
    assert (paid, terminated, truncated) == (0.0, False, True)
    assert info["score"]["value"] is None


@given(st.text())
def test_a_text_space_holds_any_text(text: str) -> None:
    assert UnicodeText(1000).contains(text)


def test_a_text_space_refuses_what_is_no_text() -> None:
    space = UnicodeText(4)
    assert space.contains("")
    assert not any(map(space.contains, ["abcde", "\ud800", None, b"abc", 4]))


def test_samples_are_texts_of_the_space_and_follow_the_seed() -> None:
    space, again = UnicodeText(30, seed=3), UnicodeText(30, seed=3)
    samples = [space.sample() for _ in range(100)]
    assert samples == [again.sample() for _ in range(100)]
    assert all(map(space.contains, samples))
    assert len(set(samples)) > 20
    mask = (5, np.ones(len(space.character_set), dtype=np.int8))
    assert len(space.sample(mask)) == 5


def test_spaces_are_equal_by_length_and_never_to_another_kind() -> None:
    space = UnicodeText(5)
    assert space == UnicodeText(5) == copy.deepcopy(space)
    assert space != UnicodeText(6)
    assert space != Text(5, min_length=0)
    assert repr(space) == "UnicodeText(5)"
