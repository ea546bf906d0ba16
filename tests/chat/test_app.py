import asyncio
import re
import subprocess
import sys
import threading

import pytest

from heartloop.chat.commands import in_mode
from heartloop.chat.desk import Settings
from heartloop.chat.dialogs import Help
from heartloop.chat.entries import Mode
from heartloop.chat.session import Session
from heartloop.chat.store import Store
from heartloop.chat.transcript import Transcript
from heartloop.chat.widgets import Composer, Said
from tests.chat.parts import Streamer, cast, session, talk
from tests.chat.screen import at_screen
from tests.fakes import ToyPolicy

EVIL = (
    "\x1b]0;owned\x07\x1b[31mred\x1b[0m [bold red]loud[/] [@click=app.quit]go[/] <b>html</b> "
    "\u202eesrever [link](https://evil.example) \x9b2J"
)


def test_talk_shows_message_reply_gauge_and_that_it_is_a_program(tmp_path):
    async def do(screen):
        assert "You are talking with a computer program" in screen.shown
        await screen.type("I am sad")
        assert "1 you · 26." in screen.shown and "That sounds hard" in screen.shown
        assert "(estimate)" in screen.shown

    at_screen(tmp_path, do)


def test_help_scores_the_person_and_keeps_the_reasons_back(tmp_path):
    async def do(screen):
        assert "I lost my keys again today." in screen.shown and "40.0 B" in screen.shown
        await screen.type("Tell me the whole story please")
        assert "Toy heard" in screen.shown and "+10.0" in screen.shown and "50.0 B" in screen.shown
        assert not screen.app.query_one("#why").display

    at_screen(tmp_path, do, "help")


def test_watch_shows_reasons_beside(tmp_path):
    async def do(screen):
        await screen.press("f5")
        assert "read by toy/1" in screen.shown and "▄" in screen.shown

    at_screen(tmp_path, do, "watch")


def test_a_dialogue_that_ended_says_why(tmp_path):
    async def do(screen):
        await screen.press("f6")
        assert "over: the emotion is at its top" in screen.shown

    at_screen(tmp_path, do, "watch")


def test_a_simulated_user_begins_while_the_policy_is_still_loaded(tmp_path):
    loaded = threading.Event()

    async def do(screen):
        desk = screen.app.desk
        make, kept = desk.cast._make_policy, desk.cast._policies
        kept.clear()
        desk.cast._make_policy = lambda spec: loaded.wait(60) and make(spec)
        await screen.app.use(desk.begin(Mode.WATCH))
        await screen.until(lambda: "I lost my keys again today." in screen.shown)
        await screen.until(lambda: "loading toy" in screen.shown)
        loaded.set()
        await screen.until(lambda: "loading toy" not in screen.shown)
        assert "the policy's move" in screen.shown

    at_screen(tmp_path, do, "watch")


def test_a_found_message_is_shown_from_what_was_sought(tmp_path):
    async def do(screen):
        await screen.type(f"{'so much to tell before it comes ' * 5}and then the zebra ran away")
        await screen.type("/search zebra")
        found = screen.shown.split("before you begin")[0]
        assert "... " in found and "zebra" in found

    at_screen(tmp_path, do, size=(110, 60))


def test_the_talk_goes_on_under_what_was_said_and_says_how_the_estimate_moved(tmp_path):
    async def do(screen):
        await screen.type("I am sad")
        await screen.type("I am happy")
        before, after = screen.session.emotions
        assert f"3 you · {after:.1f} {after - before:+.1f}" in screen.shown

    at_screen(tmp_path, do)


def test_a_message_of_the_client_does_not_hide_the_composer_and_goes_with_the_next_line(tmp_path):
    async def do(screen):
        await screen.type("/theme nrod")
        composer = screen.app.query_one(Composer).region
        (toast,) = screen.app.screen.query("Toast")
        assert toast.region.bottom <= composer.y
        await screen.type("/theme nord")
        await screen.until(lambda: "nrod" not in screen.shown)

    at_screen(tmp_path, do)


@pytest.mark.parametrize("width", [40, 60])
def test_the_help_of_a_narrow_terminal_is_not_cut_off(tmp_path, width):
    async def do(screen):
        await screen.press("f1")
        inside = re.sub(r"[│╭╮╰╯─•\s]", "", screen.shown)
        for command in in_mode(Mode.TALK):
            assert "".join(command.usage.split()) in inside
            assert "".join(command.about.split()) in inside
        assert "(ctrl+n)" in inside

    at_screen(tmp_path, do, size=(width, 200))


def test_replay_shows_a_recorded_episode(tmp_path):
    async def do(screen):
        assert "One." in screen.shown and "45.0 B" in screen.shown
        assert "episode 1 of 3" in screen.shown
        await screen.press("f8")
        assert "episode 2 of 3" in screen.shown
        await screen.press("f7")
        await screen.type("Hi")
        assert "it is not your move" in screen.shown

    at_screen(tmp_path, do, "replay")


def test_compare_shows_two_replies_beside_each_other(tmp_path):
    async def do(screen):
        await screen.type("Hi")
        (line,) = [row for row in screen.shown.split("\n") if "From the other one." in row]
        assert "That sounds hard" in line
        assert "2 toy-policy · goes on from here" in screen.shown
        await screen.press("ctrl+t")
        assert screen.session.path[-1].text == "From the other one."
        assert "2 streamer · goes on from here" in screen.shown

    at_screen(tmp_path, do, "compare")


def test_what_a_model_writes_changes_nothing_outside_its_line(tmp_path):
    shown = {}

    def looking(key):
        async def do(screen):
            await screen.type("Hi")
            shown[key] = screen.shown.split("\n")
            assert screen.app.is_running
            svg = screen.app.export_screenshot()
            assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(svg)

        return do

    at_screen(tmp_path / "a", looking("evil"), toy=ToyPolicy(lambda _: EVIL))
    at_screen(tmp_path / "b", looking("calm"), toy=ToyPolicy(lambda _: "calm"))
    changed = [(a, b) for a, b in zip(shown["evil"], shown["calm"], strict=False) if a != b]
    assert len(changed) == 1 and changed[0][1].strip() == "calm"
    line = changed[0][0]
    for visible in ("␛]0;owned␇", "[bold red]loud[/]", "[@click=app.quit]", "<b>html</b>"):
        assert visible in line


def test_markdown_is_laid_out(tmp_path):
    async def do(screen):
        await screen.type("Hi")
        assert "• one" in screen.shown and "**" not in screen.shown

    at_screen(tmp_path, do, toy=ToyPolicy(lambda _: "Some **bold** words:\n\n- one\n- two"))


def test_a_reply_appears_while_it_is_spoken(tmp_path):
    said, heard = "one two three four", threading.Semaphore(0)

    class Patient(Streamer):
        def stream(self, prompt):
            for word in super().stream(prompt):
                yield word
                assert heard.acquire(timeout=60)

    async def do(screen):
        screen.app.query_one(Composer).load_text("Hi")
        await screen.pilot.press("enter")
        for count in range(1, 5):
            words = " ".join(said.split()[:count])
            await screen.until(lambda words=words: words in screen.shown)
            assert screen.app._busy and shown(screen) == [words]
            heard.release()
        await screen.rest()
        assert said in screen.shown

    at_screen(tmp_path, do, toy=Patient(said))


def shown(screen):
    return [said.entry.text for said in screen.app.query(".assistant")]


def test_the_composer_grows_and_breaks_lines(tmp_path):
    async def do(screen):
        composer = screen.app.query_one(Composer)
        before = composer.size.height
        await screen.press("a", "ctrl+j", "b", "ctrl+j", "c")
        assert composer.text == "a\nb\nc" and composer.size.height == before + 2
        await screen.press("enter")
        assert composer.text == "" and composer.size.height == before
        assert screen.session.path[0].text == "a\nb\nc"

    at_screen(tmp_path, do)


def test_earlier_prompts_come_back_and_can_be_searched(tmp_path):
    store = Store(tmp_path)
    talk(session("talk", "toy", store=store), "from before")

    async def do(screen):
        composer = screen.app.query_one(Composer)
        for text in ("one apple", "two pears"):
            await screen.type(text)
        await screen.press("up", "up", "up")
        assert composer.text == "from before"
        await screen.press("down", "down", "down")
        assert composer.text == ""
        await screen.press(*"app", "up")
        assert composer.text == "one apple"

    at_screen(tmp_path, do, store=store)
    store.close()


def test_a_message_may_begin_with_a_slash(tmp_path):
    async def do(screen):
        await screen.type("//why is a command")
        assert screen.session.path[0].text == "/why is a command"
        await screen.type("/wyh")
        assert "did you mean '/why'" in screen.shown and len(screen.session.path) == 2
        await screen.press("backspace", "backspace", "h", "y", "enter")
        assert screen.app.query_one("#why").display

    at_screen(tmp_path, do)


def test_keys_and_theme_follow_the_settings(tmp_path):
    async def do(screen):
        assert screen.app.theme == "nord"
        await screen.press("ctrl+l")
        assert screen.app.query_one("#why").display

    at_screen(tmp_path, do, settings=Settings(theme="nord", keys={"why": "ctrl+l"}))


def test_the_palette_offers_the_commands_of_the_mode(tmp_path):
    async def do(screen):
        await screen.press("ctrl+p")
        assert "/regenerate" not in screen.shown
        await screen.press(*"regen")
        await screen.until(lambda: "/regenerate" in screen.shown)

    at_screen(tmp_path, do)


@pytest.mark.parametrize("mode", Mode)
def test_the_palette_does_or_begins_each_command_of_the_mode(tmp_path, mode):
    async def do(screen):
        offered = {c.title: c.callback for c in screen.app.get_system_commands(screen.app.screen)}
        assert list(offered) == [command.usage for command in in_mode(mode)]
        offered["/open NUMBER"]()
        await screen.press("x")
        assert screen.app.query_one(Composer).text == "/open x"
        offered["/help"]()
        await screen.rest()
        assert isinstance(screen.app.screen, Help)

    at_screen(tmp_path, do, mode)


def test_a_reply_goes_on_while_a_dialog_is_open(tmp_path):
    async def do(screen):
        screen.app.query_one(Composer).load_text("Hi")
        await screen.pilot.press("enter", "f1")
        await screen.rest()
        assert isinstance(screen.app.screen, Help)
        await screen.press("escape")
        assert screen.shown.count("word ") >= 19

    at_screen(tmp_path, do, toy=Streamer("word " * 20, 0.02))


def test_a_theme_of_the_settings_that_does_not_exist_is_named_and_the_client_goes_on(tmp_path):
    async def do(screen):
        assert "no theme called 'nrod'" in screen.shown and "did you mean 'nord'" in screen.shown
        await screen.type("I am sad")
        assert "That sounds hard" in screen.shown

    at_screen(tmp_path, do, settings=Settings(theme="nrod"))


@pytest.mark.parametrize("width", [40, 80, 200])
def test_narrow_and_wide_terminals_show_everything_needed(tmp_path, width):
    async def do(screen):
        await screen.type("I am sad")
        assert "I am sad" in screen.shown and "your move" in screen.shown
        assert screen.app.query_one(Composer).region.right <= width

    at_screen(tmp_path, do, size=(width, 24))


def test_risk_brings_the_fixed_text_and_no_reply(tmp_path):
    async def do(screen):
        await screen.type("I want to kill myself")
        assert "988" in screen.shown and "findahelpline.com" in screen.shown
        assert "That sounds hard" not in screen.shown

    at_screen(tmp_path, do)


def test_a_corrupt_database_is_reported_on_the_screen(tmp_path):
    tmp_path.joinpath("chat.db").write_bytes(b"rubbish" * 1000)

    async def do(screen):
        (said,) = [notice.message for notice in screen.app._notifications]
        assert "fresh start" in said and "fresh" in screen.shown

    at_screen(tmp_path, do)


def test_a_policy_that_cannot_be_made_is_reported_and_the_client_goes_on(tmp_path):
    async def do(screen):
        screen.app.session = session("talk", "nonsense", store=screen.app.desk.store)
        await screen.type("Hi")
        assert "no policy called 'nonsense'" in screen.shown
        await screen.type("/new")
        await screen.type("Hi")
        assert "That sounds hard" in screen.shown

    at_screen(tmp_path, do)


@pytest.fixture
def long(tmp_path):
    """A store with one session of 2,000 messages."""
    store = Store(tmp_path)
    one = talk(session("talk", "toy", store=store), "I am sad, number 0")
    said, reply = one.path
    for number in range(1, 1000):
        at = 2 * number
        again = {"id": at + 1, "parent": at, "text": f"I am sad, number {number}"}
        store.put(one.id, said.model_copy(update=again))
        store.put(one.id, reply.model_copy(update={"id": at + 2, "parent": at + 1}))
    yield store
    store.close()


def laid_out(screen):
    return len(screen.app.query(Said))


def test_of_two_thousand_messages_only_those_near_the_view_are_laid_out(tmp_path, long):
    async def do(screen):
        await screen.type("/open 1")
        assert "number 999" in screen.shown and laid_out(screen) < 50
        transcript = screen.app.query_one(Transcript)
        seen = []
        for scroll in [transcript.scroll_home] * 6 + [transcript.scroll_end] * 9:
            scroll(animate=False)
            await screen.pilot.pause()
            await screen.pilot.pause()
            seen.append(max(map(int, re.findall(r"number (\d+)", screen.shown))))
            assert laid_out(screen) < 50
        # What was in view stays in view: each page is five pairs before or after the last.
        assert seen[:6] == sorted(seen[:6], reverse=True) and seen[5] < 975
        assert seen[6:] == sorted(seen[6:]) and seen[-1] == 999
        await screen.type("still here")
        assert "still here" in screen.shown and laid_out(screen) < 50

    at_screen(tmp_path, do, store=long)


def test_a_message_found_far_back_is_shown_with_few_around_it(tmp_path, long):
    async def do(screen):
        await screen.type("/search number 123")
        await screen.press("tab", "down", "enter")
        assert "I am sad, number 123" in screen.shown and laid_out(screen) < 50
        await screen.type("back at the end")
        assert "back at the end" in screen.shown and "I am sad, number 999" in screen.shown

    at_screen(tmp_path, do, store=long)


def test_a_reply_goes_on_while_one_reads_far_above_it(tmp_path, long):
    slow = Streamer("word " * 5000, 0.03)

    async def do(screen):
        await screen.type("/open 1")
        screen.app.desk.cast._policies["toy"] = slow
        screen.app.query_one(Composer).load_text("Tell me everything")
        await screen.pilot.press("enter")
        while "word word" not in screen.shown:
            await asyncio.sleep(0.01)
        transcript = screen.app.query_one(Transcript)
        for _ in range(4):
            transcript.scroll_home(animate=False)
            await screen.pilot.pause()
            await screen.pilot.pause()
        assert screen.app._busy and "word word" not in screen.shown
        await screen.press("escape")
        assert "word word" not in screen.shown
        for _ in range(6):
            transcript.scroll_end(animate=False)
            await screen.pilot.pause()
            await screen.pilot.pause()
        said = screen.session.path[-1]
        assert said.cut and "word word" in screen.shown
        assert {s.entry.text for s in screen.app.query(Said) if s.entry.id == said.id} == {
            said.text
        }

    at_screen(tmp_path, do, store=long)


def test_a_session_that_cannot_be_read_is_named_and_the_client_goes_on(tmp_path):
    async def do(screen):
        await screen.type("the first one")
        await screen.type("/new")
        with screen.app.desk.store._writing() as base:
            base.execute("UPDATE entries SET body = '{}' WHERE id = 1")
        await screen.type("/open 1")
        assert "session 1 cannot be read" in screen.shown
        await screen.type("/new")
        await screen.type("I am sad")
        assert "That sounds hard" in screen.shown

    at_screen(tmp_path, do)


def test_a_session_is_gone_on_with_after_a_restart(tmp_path):
    async def first(screen):
        await screen.type("remember this")

    async def second(screen):
        await screen.type("/open 1")
        assert "remember this" in screen.shown
        await screen.type("go on")
        assert len(screen.session.path) == 4

    at_screen(tmp_path, first)
    at_screen(tmp_path, second)
    store = Store(tmp_path)
    assert len(Session.reopen(store, 1, cast()).path) == 4
    store.close()


def test_the_client_starts_without_torch():
    code = (
        "import sys, heartloop.chat.app, heartloop.chat.client;"
        "sys.exit(bool({'torch', 'transformers', 'ray', 'aiohttp'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
