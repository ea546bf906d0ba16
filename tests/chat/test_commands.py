import pytest

from heartloop.chat.commands import BY_NAME, COMMANDS, help_text, in_mode, parse
from heartloop.chat.entries import Mode
from heartloop.errors import InvalidInput, UnknownName


def test_names_and_keys_are_given_once():
    keys = [command.key for command in COMMANDS if command.key]
    assert len(BY_NAME) == len(COMMANDS) and len(keys) == len(set(keys))


@pytest.mark.parametrize("mode", Mode)
def test_the_help_of_a_mode_names_each_of_its_commands_and_no_other(mode):
    text = help_text(mode, {"why": "ctrl+l"})
    for command in COMMANDS:
        shown = f"| `/{command.name}" in text
        assert shown == (mode in command.modes)
        assert not shown or command.about in text
    assert "| `/why [NUMBER]` | ctrl+l |" in text
    assert len(text.split("\n")) == len(in_mode(mode)) + 2


@pytest.mark.parametrize("mode", Mode)
def test_the_help_of_a_narrow_terminal_is_a_list_of_the_same_commands(mode):
    lines = help_text(mode, {"why": "ctrl+l"}, narrow=True).split("\n")
    assert [line.split("`")[1] for line in lines] == [c.usage for c in in_mode(mode)]
    assert all(c.about in line for c, line in zip(in_mode(mode), lines, strict=True))
    assert any(line.startswith("- `/why [NUMBER]` (ctrl+l): ") for line in lines)
    assert any(line.startswith("- `/data`: ") for line in lines)


def test_a_line_with_a_slash_is_a_command_with_its_argument():
    assert parse("/branch  3 ", Mode.TALK) == (BY_NAME["branch"], "3")
    assert parse("/why", Mode.HELP) == (BY_NAME["why"], "")


@pytest.mark.parametrize("text", ["Hello", "//not a command", "a /why"])
def test_other_lines_are_messages(text):
    assert parse(text, Mode.TALK) is None


def test_an_unknown_command_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean '/regenerate'"):
        parse("/regenrate", Mode.TALK)


def test_a_command_out_of_place_says_where_its_place_is():
    with pytest.raises(InvalidInput, match="/step has no place in talk: it is for watch"):
        parse("/step", Mode.TALK)
