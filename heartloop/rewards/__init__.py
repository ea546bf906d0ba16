"""Rewards: they read an episode and give a score; they never ask the simulated user."""

from heartloop.rewards import emotion as _emotion  # registers its rewards
from heartloop.rewards import form as _form
from heartloop.rewards.base import BUILTIN, Measure, Reward, Term, Weighted, function, reward

__all__ = ["BUILTIN", "Measure", "Reward", "Term", "Weighted", "function", "reward"]

del _emotion, _form
