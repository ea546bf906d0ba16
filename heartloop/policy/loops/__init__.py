"""Test-time loops: policies made out of another policy, cues, and a judge or none."""

from heartloop.policy.loops.base import Attempt, Budget, Judge, Trace
from heartloop.policy.loops.cues import Bank, Cue, bank
from heartloop.policy.loops.loop import Loop
from heartloop.policy.loops.presets import LOOPS, make_loop

__all__ = [
    "LOOPS",
    "Attempt",
    "Bank",
    "Budget",
    "Cue",
    "Judge",
    "Loop",
    "Trace",
    "bank",
    "make_loop",
]
