"""Every command of the table, done at the screen."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from heartloop.chat.app import ChatApp
from heartloop.chat.commands import COMMANDS
from heartloop.chat.dialogs import Help, Prompts
from heartloop.chat.widgets import Composer, Said, Sessions
from heartloop.policy.loops import Budget, make_loop
from tests.chat.screen import at_screen
from tests.fakes import ToyPolicy

DONE = {}
FAKE_EDITOR = Path(__file__).parent / "editor.py"


def doing(name, mode="talk"):
    def keep(function):
        DONE[name] = (function, mode)
        return function

    return keep


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_does_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VISUAL", "")
    function, mode = DONE[name]
    draws = ToyPolicy(lambda prompt: f"<think>hm</think> seed {prompt.seed}")
    at_screen(tmp_path / "data", function, mode, toy=draws)


def test_every_command_has_a_method_and_every_method_a_command():
    methods = {name[3:] for name in vars(ChatApp) if name.startswith("do_")}
    assert methods == {command.name for command in COMMANDS} == set(DONE)


@doing("help")
async def _(screen):
    await screen.press("f1")
    assert isinstance(screen.app.screen, Help) and "/regenerate" in screen.shown
    await screen.press("escape")
    assert not isinstance(screen.app.screen, Help)


@doing("new")
async def _(screen):
    await screen.type("Hi")
    await screen.press("ctrl+n")
    assert screen.session.path == [] and screen.session.mode == "talk"
    await screen.type("/new help")
    assert screen.session.mode == "help" and "I lost my keys" in screen.shown
    await screen.type("/new sing")
    assert screen.session.mode == "help" and "expected one of talk, help" in screen.shown


@doing("sessions")
async def _(screen):
    await screen.type("My cat is ill")
    await screen.press("ctrl+o")
    assert screen.app.query_one(Sessions).display and "1 My cat is ill" in screen.shown
    await screen.press("ctrl+o")
    assert not screen.app.query_one(Sessions).display
    await screen.type("/search nothing like it")
    await screen.press("escape", "ctrl+o")
    assert "1 My cat is ill" in screen.shown and screen.app.query_one("#search").value == ""


@doing("open")
async def _(screen):
    await screen.type("the first one")
    await screen.type("/new")
    await screen.type("/open 1")
    assert screen.session.id == 1 and "the first one" in screen.shown
    await screen.type("/open x")
    assert "expected a number, got 'x'" in screen.shown


@doing("search")
async def _(screen):
    await screen.type("My zebra is ill")
    await screen.type("/new")
    await screen.type("/search zebra")
    assert "My zebra is ill" in screen.shown
    await screen.press("tab", "down", "enter")
    assert screen.session.id == 1 and screen.session.path
    await screen.type("/new")
    await screen.type("/search")
    await screen.press(*"zebra", "down", "enter")
    assert screen.session.id == 1 and isinstance(screen.app.focused, Composer)
    await screen.type("/rename stripes")
    await screen.type("/search stri")
    assert "1 stripes" in screen.shown and "ill" not in screen.shown.split("before")[0]
    await screen.press("escape")
    assert not screen.app.query_one(Sessions).display
    assert isinstance(screen.app.focused, Composer)


@doing("rename")
async def _(screen):
    await screen.type("Hi")
    await screen.type("/rename the long night")
    assert screen.app.desk.store.session(1).name == "the long night"
    assert "the long night" in screen.shown


@doing("delete")
async def _(screen):
    await screen.type("Hi")
    await screen.type("/delete")
    assert len(screen.app.desk.store.sessions()) == 1 and "cannot be undone" in screen.shown
    await screen.type("/delete yes")
    assert screen.app.desk.store.sessions() == [] and screen.session.path == []


@doing("compose")
async def _(screen):
    # A test has no terminal to lend; a real one is lent in test_client.py.
    screen.app.suspend = contextlib.nullcontext
    os.environ["VISUAL"] = f"{sys.executable} {FAKE_EDITOR}"
    screen.app.query_one(Composer).load_text("begun")
    await screen.press("ctrl+g")
    assert screen.app.query_one(Composer).text == "begun and ended"
    await screen.type("/compose from here")
    assert screen.app.query_one(Composer).text == "from here and ended"
    os.environ["VISUAL"] = "no-such-editor"
    await screen.press("ctrl+g")
    assert "cannot write with the editor" in screen.shown
    assert screen.app.query_one(Composer).text == "from here and ended"


@doing("prompts")
async def _(screen):
    for text in ("my cat ran away", "the exam is tomorrow", "my café ran out of tea"):
        await screen.type(text)
    await screen.press("ctrl+r", *"mcr", "down", "enter")
    assert screen.app.query_one(Composer).text == "my café ran out of tea"
    screen.app.query_one(Composer).load_text("")
    await screen.press("ctrl+r", "ctrl+n")
    assert isinstance(screen.app.screen, Prompts) and screen.session.path
    await screen.press("escape")
    await screen.type("/prompts exm")
    assert "the exam is tomorrow" in screen.shown
    await screen.press("enter")
    assert screen.app.query_one(Composer).text == "the exam is tomorrow"


@doing("regenerate")
async def _(screen):
    await screen.type("Hi")
    first = screen.session.path[-1].text
    await screen.press("f9")
    assert screen.session.path[-1].text != first
    assert first not in screen.shown and "version 2 of 2" in screen.shown


@doing("edit")
async def _(screen):
    await screen.type("Helo")
    await screen.press("ctrl+e")
    assert screen.app.query_one(Composer).text == "Helo" and screen.session.path == []
    await screen.type("Hello")
    assert screen.session.path[0].text == "Hello"


@doing("branch")
async def _(screen):
    for text in ("a first", "a second"):
        await screen.type(text)
    await screen.type("/branch 2")
    assert len(screen.session.path) == 2 and "a second" not in screen.shown


@doing("other")
async def _(screen):
    await screen.type("Hi")
    first = screen.session.path[-1]
    await screen.press("f9")
    await screen.press("ctrl+t")
    assert screen.session.path[-1] == first and first.text in screen.shown
    await screen.press("ctrl+e", "ctrl+t")
    assert len(screen.session.path) == 2 and screen.session.path[-1].text in screen.shown


@doing("stop", "compare")
async def _(screen):
    other = screen.app.desk.cast.policy("other")
    other.text, other.pause = "word " * 500, 0.01
    screen.app.query_one(Composer).load_text("Hi")
    await screen.pilot.press("enter")
    while "word word" not in screen.shown:
        await asyncio.sleep(0.01)
    await screen.press("escape")
    cut = max(screen.app.query(Said), key=lambda said: said.entry.id).entry
    assert cut.cut and 2 < len(cut.text.split()) < 500


@doing("step", "watch")
async def _(screen):
    assert len(screen.session.path) == 1
    await screen.press("f5")
    assert len(screen.session.path) == 3 and "Toy heard" in screen.shown


@doing("run", "watch")
async def _(screen):
    await screen.press("f6")
    assert screen.session.due == "nobody" and len(screen.session.path) == 17


@doing("next", "replay")
async def _(screen):
    await screen.press("f8")
    assert "Two." in screen.shown
    await screen.press("f8", "f8")
    assert "Three." in screen.shown and "expected an episode from 1 to 3, got 4" in screen.shown


@doing("previous", "replay")
async def _(screen):
    await screen.press("f8", "f7")
    assert "One." in screen.shown


@doing("episode", "replay")
async def _(screen):
    await screen.type("/episode 3")
    assert "Three." in screen.shown


@doing("scenario", "help")
async def _(screen):
    await screen.type("/scenario beta")
    assert "My cat ran away." in screen.shown


@doing("why", "help")
async def _(screen):
    await screen.type("Tell me the whole story please")
    assert "read by toy/1" not in screen.shown
    await screen.press("f2")
    assert "read by toy/1" in screen.shown and "words" in screen.shown
    await screen.press("f2")
    assert "read by toy/1" not in screen.shown
    await screen.type("/why 1")
    assert "message 1: change +0.0" in screen.shown
    await screen.type("/why 3")
    assert "message 3: change +10.0" in screen.shown
    await screen.type("/why 1")
    await screen.type("And what happened after that?")
    assert "message 5: change" in screen.shown
    await screen.type("/why 2")
    assert "message 2 carries no emotion" in screen.shown


@doing("loop")
async def _(screen):
    await screen.press("f4")
    assert "No loop ran" in screen.shown
    toy = screen.app.desk.cast.policy("toy")
    screen.app.desk.cast._policies["toy"] = make_loop("heart", toy, budget=Budget(samples=3))
    await screen.type("Hi")
    assert "heart around toy-policy" in screen.shown and "3 calls" in screen.shown
    assert "· draft" in screen.shown and "said" in screen.shown
    await screen.press("f4")
    assert "3 calls" not in screen.shown


@doing("think")
async def _(screen):
    await screen.type("Hi")
    assert "hm" not in screen.shown.split("\n")
    await screen.press("f3")
    assert any(line.strip(" │") == "hm" for line in screen.shown.split("\n"))


@doing("copy")
async def _(screen):
    await screen.type("Hi there")
    await screen.press("ctrl+y")
    assert screen.app.clipboard == screen.session.path[-1].text
    await screen.type("/copy 1")
    assert screen.app.clipboard == "Hi there"


@doing("export")
async def _(screen):
    await screen.type("Hi there")
    await screen.type("/export md mine.md")
    assert "Hi there" in Path("mine.md").read_text()
    await screen.type("/export jsonl")
    assert '"role": "user"' in Path("heartloop-1.jsonl").read_text()


@doing("theme")
async def _(screen):
    await screen.type("/theme nord")
    assert screen.app.theme == "nord"
    await screen.type("/theme nrod")
    assert screen.app.theme == "nord" and "did you mean 'nord'" in screen.shown
    await screen.type("/theme")
    assert "gruvbox" in screen.shown


@doing("region")
async def _(screen):
    await screen.type("/region ie")
    await screen.type("I want to kill myself")
    assert "116 123" in screen.shown
    await screen.type("/region atlantis")
    assert screen.session.region == "ie"


@doing("data")
async def _(screen):
    await screen.type("/data")
    assert str(screen.app.desk.store.folder)[:20] in screen.shown


@doing("about")
async def _(screen):
    await screen.type("/about")
    assert screen.shown.count("computer program") == 2


@doing("quit")
async def _(screen):
    await screen.press("ctrl+q")
    assert not screen.app.is_running or screen.app._exit
