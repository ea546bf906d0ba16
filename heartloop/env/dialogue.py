"""The environment: an empathetic dialogue with a simulated user, as Gymnasium sees it."""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from heartloop import emotion
from heartloop.env.play import Dialogue, MakeUser, Snapshot
from heartloop.env.spaces import UnicodeText
from heartloop.errors import InvalidInput, unknown
from heartloop.simusers.registry import make_user
from heartloop.simusers.scenario import scenarios as find_scenarios
from heartloop.types import Message, Reply, Scenario, StopReason

LONGEST = 16_384
"""Most characters of a reply."""
Observation = str | dict[str, Any]
CHANNELS = ("last", "turn", "shown", "emotion")
"""What can be asked for beside the history."""


class EmpatheticDialogue(gymnasium.Env[Observation, str]):
    """A simulated user tells what happened; each action is one reply to them.

    Observation: the visible dialogue as text, "user: ..." and "assistant: ..." on lines of their
    own, further lines of a message indented. With `channels`, a dict of "history" and these:
    "last" (the user's last message), "turn" (replies given so far), "shown" (the emotion the user
    shows, a node of the ontology), "emotion" (0 to 100, only with `reveal`).

    Action: the reply, any Unicode text; a think block at its start stays hidden from the user.

    Reward: "terminal" gives final emotion/100 at the end, "change" gives change/100 each turn.

    Ends (`terminated`) by the rules of the preset, its turn limit included, since the score is due
    then. A user that could not score the reply ends it as `truncated`, with reward 0 and the
    reason in `info["error"]`: leave such an episode out.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 1}  # noqa: RUF012

    def __init__(
        self,
        scenarios: str | Sequence[Scenario] = "train",
        user: str | MakeUser = "embedded",
        preset: str = "default",
        reward: str = "terminal",
        reveal: bool = False,
        channels: Sequence[str] = (),
        window: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Set the stage.

        Args:
            scenarios: A split ("train", "test"), a file, or the scenarios themselves.
            user: Name of a simulated user, or what makes one by the preset that it brings.
            preset: The rules of the dialogue, for a user given by name.
            reward: "terminal" or "change".
            reveal: Put emotion and appraisal into `info`.
            channels: What to observe beside the history.
            window: Show the last so many messages only.
            render_mode: "ansi" or "human".
        """
        _check("reward", [reward], ("terminal", "change"))
        _check("channel", channels, CHANNELS)
        _check("render mode", [render_mode] if render_mode else [], self.metadata["render_modes"])
        if "emotion" in channels and not reveal:
            raise InvalidInput("the channel 'emotion' is shown with reveal=True only")
        if window is not None and window < 1:
            raise InvalidInput(f"window must be at least 1 message, got {window!r}")
        self._scenarios = _by_id(scenarios)
        self._make_user = partial(make_user, user, preset) if isinstance(user, str) else user
        self.rules = self._make_user().preset
        self._pay, self._reveal, self._window = reward, reveal, window
        self._channels = tuple(channels)
        self.render_mode = render_mode
        self.action_space = UnicodeText(LONGEST)
        self.observation_space: spaces.Space[Any] = self._space()
        self._dialogue: Dialogue | None = None

    def _space(self) -> spaces.Space[Any]:
        history = UnicodeText(_longest(self.rules.turns))
        if not self._channels:
            return history
        known = {
            "last": UnicodeText(LONGEST),
            "turn": spaces.Discrete(self.rules.turns + 1),
            "shown": UnicodeText(64),
            "emotion": spaces.Box(0, 100, (), dtype=np.float64),
        }
        return spaces.Dict({"history": history} | {name: known[name] for name in self._channels})

    @property
    def dialogue(self) -> Dialogue:
        """The dialogue under way.

        Raises:
            InvalidInput: there is none yet.
        """
        if self._dialogue is None:
            raise InvalidInput("no dialogue is open: call reset() first")
        return self._dialogue

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open a dialogue; the seed chooses the scenario and the user's seed.

        Args:
            seed: As in Gymnasium.
            options: {"scenario": id} plays that one.
        """
        super().reset(seed=seed)
        options = options or {}
        _check("reset option", options, ("scenario",))
        ids = list(self._scenarios)
        drawn = ids[int(self.np_random.integers(len(ids)))]
        chosen = options.get("scenario", drawn)
        _check("scenario", [chosen], self._scenarios)
        user_seed = int(self.np_random.integers(2**31))
        scenario = self._scenarios[chosen]
        self._dialogue = Dialogue(self._make_user(), scenario, user_seed, self._make_user)
        self._show()
        return self._observe(), self._info()

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Reply to the user.

        Raises:
            InvalidInput: the action is no text or too long, or the dialogue has ended.
        """
        if not self.action_space.contains(action):
            raise InvalidInput(
                f"an action is Unicode text of at most {LONGEST} characters, got {action!r:.60}"
            )
        self.dialogue.step(Reply.parse(action))
        self._show()
        stop = self.dialogue.stop
        failed = stop is StopReason.ERROR
        ended = stop is not None and not failed
        return self._observe(), self._paid(), ended, failed, self._info()

    def _paid(self) -> float:
        """The reward of the last turn."""
        dialogue = self.dialogue
        if dialogue.stop is StopReason.ERROR:
            return 0.0
        if self._pay == "terminal":
            return dialogue.last.emotion / 100 if dialogue.stop else 0.0
        reaction = dialogue.turns[-1].reaction
        return reaction.change / 100 if reaction else 0.0

    def _observe(self) -> Observation:
        dialogue = self.dialogue
        messages = dialogue.history[-self._window :] if self._window else dialogue.history
        known = {
            "history": "\n".join(_lines(messages))[-_longest(self.rules.turns) :],
            "last": dialogue.last.text[:LONGEST],
            "turn": np.int64(len(dialogue.turns)),
            "shown": dialogue.last.appraisal.shown,
            "emotion": np.array(dialogue.last.emotion),
        }
        if not self._channels:
            return str(known["history"])
        return {name: known[name] for name in ("history", *self._channels)}

    def _info(self) -> dict[str, Any]:
        dialogue = self.dialogue
        info: dict[str, Any] = {
            "scenario": dialogue.task.scenario.id,
            "seed": dialogue.task.seed,
            "turn": len(dialogue.turns),
        }
        if dialogue.stop:
            info["stop"] = dialogue.stop.value
        if dialogue.error:
            info["error"] = dialogue.error
        if self._reveal:
            last = dialogue.last
            info |= {"emotion": last.emotion, "appraisal": last.appraisal.model_dump()}
        return info

    def snapshot(self) -> Snapshot:
        """Where the dialogue stands; not the generator that picks the next one."""
        return self.dialogue.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Continue the dialogue from a snapshot."""
        user, scenario = self._make_user(), snapshot.scenario
        dialogue = Dialogue(user, scenario, snapshot.seed, self._make_user, snapshot.sample)
        dialogue.restore(snapshot)
        self._dialogue = dialogue

    def fork(self) -> EmpatheticDialogue:
        """An independent environment in the same state."""
        twin = copy.copy(self)
        twin._dialogue = self.dialogue.fork()
        twin._np_random = copy.deepcopy(self._np_random)
        twin.action_space = copy.deepcopy(self.action_space)
        twin.observation_space = copy.deepcopy(self.observation_space)
        return twin

    def render(self) -> str | None:
        """The dialogue as text ("ansi"); mode "human" prints each turn by itself."""
        return self._text(self.dialogue.history) if self.render_mode == "ansi" else None

    def _show(self) -> None:
        """Print what was said since the last call."""
        if self.render_mode == "human":
            said = 1 + bool(self.dialogue.last is not self.dialogue.opening)
            print(self._text(self.dialogue.history[-said:]), flush=True)

    def _text(self, messages: Iterable[Message]) -> str:
        """Messages with control characters made visible; the emotion when revealed."""
        text = "\n".join(_lines(messages))
        if self._reveal:
            level = self.dialogue.last.emotion
            text += f"\nemotion {level:6.2f} ({emotion.band(level)}) " + "#" * round(level / 2.5)
        return "".join(map(_visible, text))


def _check(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `UnknownName` for the first given name that is not known."""
    names = list(known)
    for name in given:
        if name not in names:
            raise unknown(kind, name, names)


def _by_id(source: str | Sequence[Scenario]) -> dict[str, Scenario]:
    found = find_scenarios(source) if isinstance(source, str) else source
    if not found:
        raise InvalidInput("an environment needs at least one scenario, got none")
    return {scenario.id: scenario for scenario in found}


def _longest(turns: int) -> int:
    """Most characters of a history."""
    # Two messages a turn; each character may become a new line and its indent.
    return (2 * turns + 1) * (3 * LONGEST + 16)


def _lines(messages: Iterable[Message]) -> Iterable[str]:
    """Role and text; a message's further lines are indented, so that none can pose as another's."""
    for message in messages:
        yield f"{message.role}: " + "\n  ".join(message.content.splitlines())


def _visible(char: str) -> str:
    """A control character by its picture or code, so that no text can steer a terminal."""
    if char == "\n" or unicodedata.category(char) not in ("Cc", "Cf"):
        return char
    return chr(0x2400 + ord(char)) if ord(char) < 0x20 else f"<{ord(char):04x}>"
