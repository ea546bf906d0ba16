"""The world: dialogues, the loop that plays them, the Gymnasium environment, records, audit."""

from gymnasium.envs.registration import register, registry

__all__ = ["ID"]

ID = "heartloop/EmpatheticDialogue-v0"

if ID not in registry:
    register(id=ID, entry_point="heartloop.env.dialogue:EmpatheticDialogue")
