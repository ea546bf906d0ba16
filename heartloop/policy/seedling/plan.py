"""The settings of the seedling's first training."""

from __future__ import annotations

from dataclasses import dataclass, field

from heartloop.policy.seedling import corpus


@dataclass(frozen=True, slots=True)
class Plan:
    """How the seedling is trained."""

    seed: int = 7
    steps: int = 2050
    batch: int = 8
    """Dialogues in one step."""
    longest: int = 512
    """Tokens of a dialogue; turns beyond are left out."""
    rate: float = 0.03
    """Peak learning rate of the matrices (Muon); the rest (AdamW) takes `adam_rate`."""
    adam_rate: float = 1e-2
    ramp: int = 30
    """Steps in which the learning rates rise."""
    minutes: float | None = None
    """Stop after so long, with the learning rate falling in time; such a run cannot be repeated."""
    tokens: int | None = None
    """Stop after so many tokens."""
    save_every: int = 250
    recipe: corpus.Recipe = field(default_factory=corpus.Recipe)
    echo: int = 250
    """First steps, on random tokens to be repeated."""
    drill: int = 300
    """Next steps, on short dialogues of exchanged words."""
    crowd: int = 2
    """Times as many short dialogues as whole ones in a step."""
    overheard: float = 0.3
    """Weight of the loss on the person's words, beside 1 for the helper's."""
