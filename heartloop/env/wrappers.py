"""Wrappers: pay by any reward at the end, and record what was played."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import gymnasium

from heartloop.env.dialogue import EmpatheticDialogue, Observation
from heartloop.env.record import EpisodeWriter
from heartloop.rewards import reward as read_reward
from heartloop.rewards.base import Reward

Env = gymnasium.Env[Observation, str]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


def _inner(env: Env) -> EmpatheticDialogue:
    return cast(EmpatheticDialogue, env.unwrapped)


class EndReward(gymnasium.Wrapper[Observation, str, Observation, str]):
    """Pays nothing until the end, then the value of a reward of the whole episode.

    The score with its parts is in `info["score"]`. An episode without a score pays 0 and ends as
    truncated, so that it can be told from one that earned 0.
    """

    def __init__(self, env: Env, reward: str | Reward, policy: str = "gymnasium") -> None:
        """Pay by a reward or its spec, such as "final+0.1*length+format"."""
        super().__init__(env)
        self.reward = read_reward(reward) if isinstance(reward, str) else reward
        self.policy = policy

    def step(self, action: str) -> Step:
        """Step, and replace the reward."""
        observation, _, terminated, truncated, info = self.env.step(action)
        if not (terminated or truncated):
            return observation, 0.0, False, False, info
        score = self.reward(_inner(self.env).dialogue.episode(self.policy))
        lost = score.value is None
        info = {**info, "score": score.model_dump()}
        return observation, score.value or 0.0, terminated and not lost, truncated or lost, info


class RecordEpisodes(gymnasium.Wrapper[Observation, str, Observation, str]):
    """Appends every episode that ends to a JSON-lines file, with its score by a reward."""

    def __init__(
        self,
        env: Env,
        path: str | Path,
        reward: str | Reward = "final",
        policy: str = "gymnasium",
        resume: bool = False,
    ) -> None:
        """Record to a new file, or with `resume` to the end of one; `policy` names who plays."""
        super().__init__(env)
        self.reward = read_reward(reward) if isinstance(reward, str) else reward
        self.policy = policy
        self.writer = EpisodeWriter(path, resume=resume)

    def step(self, action: str) -> Step:
        """Step, and record at the end."""
        observation, paid, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            self.writer.write(_inner(self.env).dialogue.episode(self.policy, self.reward))
        return observation, float(paid), terminated, truncated, info

    def close(self) -> None:
        """Close the file and the environment."""
        self.writer.close()
        super().close()
