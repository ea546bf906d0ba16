"""Simulated users by name, or by the id that an episode carries."""

from __future__ import annotations

from collections.abc import Callable

from heartloop.errors import unknown
from heartloop.simusers import dynamics
from heartloop.simusers.base import SimUser
from heartloop.simusers.dynamics import Preset


def _embedded(rules: Preset) -> SimUser:
    from heartloop.simusers.embedded import EmbeddedUser

    return EmbeddedUser(rules)


USERS: dict[str, Callable[[Preset], SimUser]] = {"embedded": _embedded}
"""Makers by name; each imports its user late."""


def make_user(user: str, preset: Preset | str = "default") -> SimUser:
    """A simulated user by name ("embedded") or id ("embedded/1.1+lexical/1").

    The version in an id is not looked at: the user made is of the present version, and says so in
    its own id.

    Raises:
        UnknownName: no such user or preset.
    """
    name = user.partition("/")[0]
    if name not in USERS:
        raise unknown("simulated user", name, USERS)
    return USERS[name](dynamics.preset(preset) if isinstance(preset, str) else preset)
