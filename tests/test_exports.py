"""What each room offers is what it says it offers."""

import importlib

import pytest

ROOMS = [
    "heartloop",
    "heartloop.env",
    "heartloop.llm",
    "heartloop.rewards",
    "heartloop.policy.base",
]


@pytest.mark.parametrize("name", ROOMS)
def test_everything_a_room_lists_exists_and_is_documented(name):
    room = importlib.import_module(name)
    assert room.__doc__
    for offered in getattr(room, "__all__", ()):
        assert hasattr(room, offered), offered
    assert sorted(set(room.__all__)) == sorted(room.__all__)


def test_importing_heartloop_registers_the_environment():
    import gymnasium

    import heartloop

    assert heartloop.__version__
    assert "heartloop/EmpatheticDialogue-v0" in gymnasium.registry
