"""What a run will take, before it is begun."""

from __future__ import annotations

from typing import Any

from heartloop.config import TrainConfig
from heartloop.policy.train.rl import updates

CALLS = 2
"""Calls of a language model that plays a user, for each reply: one scores, one speaks."""


def plan(config: TrainConfig, model: Any, turns: int, sets: int) -> dict[str, int]:
    """Upper bounds of what a run takes.

    Args:
        config: Everything the run follows from.
        model: The policy, adapters included.
        turns: Most replies of a dialogue.
        sets: Evaluation sets.

    Returns:
        Optimiser steps; dialogues to train on and to evaluate on; replies in all; tokens sampled;
        calls of a model that plays the users; and bytes of weights, gradients and optimiser states,
        without activations.
    """
    stages = config.run.stages
    steps = {
        "warmup": config.warmup.steps,
        "improve": config.improve.steps * config.improve.rounds,
        "rl": config.rl.steps,
    }
    batches = config.rl.steps // updates(config.rl)
    played = {
        "warmup": 0 if config.warmup.episodes else config.warmup.people,
        "improve": config.improve.rounds * config.improve.people * config.improve.samples,
        "rl": batches * config.rl.prompts_per_step * config.rl.group,
    }
    training = sum(played[stage] for stage in stages)
    taught = sum(played[stage] for stage in stages if stage == "warmup")
    every = config.eval.every
    on_the_way = sum(steps[stage] // every for stage in stages) if every else 0
    measured = config.eval.number * (sets * (len(stages) + 1) + on_the_way)
    replies = (training + measured) * turns
    calls = 0 if config.world.user == "embedded" else CALLS * replies + training + measured
    return {
        "optimiser steps": sum(steps[stage] for stage in stages),
        "dialogues to train on": training,
        "dialogues to evaluate on": measured,
        "replies at most": replies,
        "tokens sampled at most": (replies - taught * turns) * config.policy.max_new_tokens,
        "calls for the users at most": calls,
        "bytes without activations": _bytes(config, model),
    }


def _bytes(config: TrainConfig, model: Any) -> int:
    """Weights; for those that learn a gradient and two moments; critic and reference."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    learns = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    total: int = weights + 3 * learns
    if "rl" in config.run.stages:
        if config.rl.algorithm == "ppo":
            kept = 4 if config.ppo.learn_trunk else 1
            total += 4 * kept * sum(p.numel() for p in model.parameters())
        if config.rl.beta and not config.policy.lora:
            total += weights
    return total
