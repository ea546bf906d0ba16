"""A policy behind an endpoint, in the client: its words as they come, and what breaks them off."""

import asyncio
import threading
import time

import pytest

from heartloop.chat.cast import Way, way
from heartloop.chat.session import Due, Session
from heartloop.chat.store import Store
from heartloop.errors import EpisodeFailure
from heartloop.policy.base import make_policy
from heartloop.policy.loops import Budget
from heartloop.policy.loops.dialogue import companion
from tests.chat.parts import Streamer, cast, session
from tests.chat.screen import at_screen
from tests.fakes import ToyPolicy
from tests.faults import FaultServer, gone

SAID = "one two three four five six"


def spec(server, options=""):
    return f"openai:toy@{server.base_url}{options}"


def test_a_reply_of_an_endpoint_grows_on_the_disk_as_its_words_come(tmp_path):
    store = Store(tmp_path)
    with FaultServer(lambda _: SAID, pause=0.01) as server:
        one = session("talk", spec(server), store=store)
        one.say("Hi")
        states = []
        for entry in one.answer():
            (_, kept) = store.entries(one.id)
            assert kept == entry
            states.append((entry.text, entry.cut))
    store.close()
    assert states[:2] == [("one", True), ("one two", True)] and states[-1] == (SAID, False)
    assert server.seen[0].body["stream"] is True


def test_stopping_keeps_what_came_and_hangs_up_though_the_server_is_silent():
    with FaultServer(lambda _: SAID, pause=30) as server:
        one = session("talk", spec(server))
        one.say("Hi")
        before = time.monotonic()
        for _ in one.answer():
            one.stop()
        assert time.monotonic() - before < 5
        gone(server)
        assert (one.path[-1].text, one.path[-1].cut) == ("one", True)
        assert one.due is Due.PERSON


def test_stopping_before_the_first_word_hangs_up_too():
    with FaultServer(lambda _: SAID, latency=30) as server:
        one = session("talk", spec(server))
        one.say("Hi")
        assert list(stopped_soon(one, server)) == []
        gone(server)
        assert one.due is Due.POLICY


def stopped_soon(one, server):
    async def stop():
        while not server.flying:
            await asyncio.sleep(0.005)
        one.stop()

    asyncio.run_coroutine_threadsafe(stop(), server._loop)
    return one.answer()


def test_what_came_before_the_connection_broke_is_kept_and_the_error_shown(tmp_path):
    store = Store(tmp_path)
    with FaultServer(lambda _: SAID, rate=1.0, faults=("cut",)) as server:
        one = session("talk", spec(server), store=store)
        one.say("Hi")
        list(one.answer())
        server.rate = 0.0
        _, reply, note = Session.reopen(store, one.id, cast()).path
        assert (reply.text, reply.cut, note.role) == ("one two three", True, "notice")
        assert "gave no whole reply" in note.text and "broke off" in note.text
        one.regenerate()
        *_, last = one.answer()
    store.close()
    assert (last.text, last.cut) == (SAID, False) and len(server.seen) == 2


def test_a_think_block_that_is_streamed_is_kept_apart():
    with FaultServer(lambda _: "<think> sad day </think> Oh no.") as server:
        one = session("talk", spec(server))
        one.say("Hi")
        states = [(entry.think, entry.text) for entry in one.answer()]
    assert states[-1] == ("sad day", "Oh no.") and ("sad", "") in states


@pytest.mark.parametrize("answer", ["", "<think> on and on"])
def test_an_endpoint_that_says_nothing_to_the_person_gave_no_reply(answer):
    with FaultServer(lambda _: answer) as server:
        one = session("talk", spec(server))
        one.say("Hi")
        list(one.answer())
    assert "said nothing to the person" in one.path[-1].text


def test_an_endpoint_whose_answers_are_kept_speaks_word_by_word_and_then_at_once(tmp_path):
    heard = []
    with FaultServer(lambda _: SAID) as server:
        for _ in range(2):
            one = session("talk", spec(server, f"?cache={tmp_path}"))
            one.say("Hi")
            heard.append([entry.text for entry in one.answer()])
        assert len(server.seen) == 1
    assert heard[0][:2] == ["one", "one two"] and heard[0][-1] == heard[1][0] == SAID


def test_each_policy_says_how_its_reply_comes():
    with FaultServer() as server:
        endpoint = make_policy(spec(server))
        kept = make_policy(spec(server, "?cache=somewhere"))
    assert way(endpoint) is way(kept) is way(Streamer()) is Way.WORDS
    assert way(ToyPolicy()) is Way.WHOLE
    assert way(make_policy("heart:listener")) is Way.DRAFTS


def test_the_screen_says_what_is_waited_for_and_esc_keeps_what_came(tmp_path):
    with FaultServer(lambda _: SAID, pause=30) as server:

        async def do(screen):
            screen.app.query_one("#composer").load_text("Hi")
            await screen.pilot.press("enter")
            await screen.until(lambda: "toy speaks" in status(screen))
            assert "Esc breaks it off and keeps what came" in status(screen)
            await screen.press("escape")
            assert "one" in screen.shown and "your move" in screen.shown
            assert screen.session.path[-1].cut

        at_screen(tmp_path, do, toy=Named(make_policy(spec(server))))
        gone(server)


class Named:
    """A streaming policy under a short name."""

    reveals = False
    name = "toy"

    def __init__(self, policy):
        self.stream = policy.stream

    def __call__(self, prompts):
        raise AssertionError("it is to be streamed")


@pytest.mark.parametrize(
    ("policy", "says"),
    [("words", "its words will come one by one"), ("whole", "a reply that comes all at once"),
     ("drafts", "tries whole drafts and then says one")],
)  # fmt: skip
def test_the_screen_says_whether_words_drafts_or_a_whole_reply_are_waited_for(
    policy, says, tmp_path
):
    seen = threading.Event()

    def held(prompt):
        assert seen.wait(60)
        return "Hm."

    class Held(Streamer):
        def stream(self, prompt):
            yield held(prompt)

    players = {"words": Held(), "whole": ToyPolicy(held), "drafts": drafting(ToyPolicy(held))}

    async def do(screen):
        screen.app.query_one("#composer").load_text("Hi")
        await screen.pilot.press("enter")
        await screen.until(lambda: says in status(screen))
        seen.set()
        await screen.rest()
        assert screen.session.path[-1].text == "Hm."

    at_screen(tmp_path, do, toy=players[policy])


def test_the_notice_of_a_failure_is_not_said_to_be_spoken(tmp_path):
    told = []

    def fail(prompt):
        raise EpisodeFailure("no line")

    async def do(screen):
        write = screen.app._status
        screen.app._status = lambda text: (told.append(text), write(text))
        await screen.type("Hi")
        assert "gave no reply: no line" in screen.shown

    at_screen(tmp_path, do, toy=ToyPolicy(fail))
    assert any("works on a reply" in text for text in told)
    assert not any("speaks" in text for text in told)


def drafting(policy):
    return companion("best-of-n", policy, Budget(samples=2))


def status(screen):
    return str(screen.app.query_one("#status").render())
