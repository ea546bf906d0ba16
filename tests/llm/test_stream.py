"""Checks of answers that come in pieces, against real servers on this machine."""

import asyncio
import json
import threading
import time
from concurrent.futures import CancelledError
from itertools import pairwise

import pytest
from aiohttp import web

from heartloop.errors import CallFailure, EndpointFailure
from heartloop.llm import LEDGER, Decoding, make_model
from heartloop.llm.base import Calls, StreamingModel, complete, event_loop, pieces, wait
from heartloop.llm.endpoint import LARGEST
from heartloop.llm.ledger import bare
from heartloop.llm.limits import Limits
from heartloop.llm.wire import Events, Heard
from heartloop.policy.serve.app import Served, make_app
from heartloop.types import Message
from tests.faults import EVENTS, FaultServer, gone, in_parts

SAID = [Message(role="user", content="one two three four")]
FALLBACKS = ("429", "500", "stall", "garbage")


def model_of(server, **options):
    query = "&".join(f"{k}={v}" for k, v in options.items())
    return make_model(f"openai:toy@{server.base_url}?{query}".rstrip("?"))


def streamed(model, purpose=""):
    return pieces(model.stream(SAID, Decoding(seed=3), purpose))


def booked(model, purpose):
    return LEDGER.entries()[(bare(model.spec), purpose)]


def events(*bodies):
    """A response that holds these events."""

    def answer(_):
        lines = (body if isinstance(body, str) else json.dumps(body) for body in bodies)
        text = "".join(f"data: {line}\n\n" for line in lines)
        return web.Response(text=text, content_type="text/event-stream")

    return answer


def word(text, finish=None):
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


def test_an_answer_comes_in_pieces_while_the_server_still_writes():
    more = threading.Event()
    with FaultServer(gate=more) as server:
        model = model_of(server)
        given = streamed(model, "streamed")
        first = next(given)
        assert (first, server.flying) == ("one", 1)
        more.set()
        assert list(given) == [" two", " three", " four"]
    (seen,) = server.seen
    assert seen.body["stream"] is True and seen.body["stream_options"] == {"include_usage": True}
    assert seen.body["seed"] == 3 and "response_format" not in seen.body
    usage = booked(model, "streamed")
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (1, 4, 4)


def test_a_model_behind_an_endpoint_can_stream_and_is_known_to():
    with FaultServer() as server:
        assert isinstance(model_of(server), StreamingModel)


@pytest.mark.parametrize("fault", FALLBACKS)
def test_a_fault_before_the_first_piece_is_survived_by_asking_again(fault):
    with FaultServer(rate=1.0, faults=(fault,), stall=90) as server:
        model = model_of(server, timeout=2, patience=60)

        async def heal():
            while not server.seen:
                await asyncio.sleep(0.005)
            server.rate = 0.0

        asyncio.run_coroutine_threadsafe(heal(), event_loop())
        assert "".join(streamed(model)) == "one two three four"
    assert server.counts[fault] >= 1 and server.counts["ok"] == 1


def test_a_connection_cut_after_some_pieces_is_an_error_and_not_asked_again():
    with FaultServer(rate=1.0, faults=("cut",)) as server:
        came = []
        with pytest.raises(CallFailure, match=r"'toy' at .* broke off: "):
            collect(came, streamed(model_of(server)))
    assert came == ["one", " two"] and len(server.seen) == 1


def collect(came, given):
    for piece in given:
        came.append(piece)


@pytest.mark.parametrize(
    ("bodies", "says"),
    [((word("a"),), "without an end"), ((word("a"), {"error": {"message": "gone"}}), "gone"),
     ((word("a"), "{"), "no piece"), ((word("a"), word(3)), "no piece")],
)  # fmt: skip
def test_a_stream_that_ends_without_an_end_has_broken_off(bodies, says):
    with FaultServer(events(*bodies)) as server:
        given = streamed(model_of(server))
        assert next(given) == "a"
        with pytest.raises(CallFailure, match=f"broke off: .*{says}"):
            next(given)


@pytest.mark.parametrize(
    ("last", "said", "finish"),
    [(word("b", "length"), ["a", "b"], "length"), ("[DONE]", ["a"], "stop")],
)
def test_a_finish_or_the_end_sign_ends_an_answer(last, said, finish):
    with FaultServer(events(word("a"), last)) as server:
        assert list(streamed(model_of(server))) == said
    done = heard(word("a"), last)
    assert (done.text, done.finish) == ("".join(said), finish)


def heard(*bodies):
    """What is made of an answer of these events."""
    listening = Heard("toy")
    for body in bodies:
        listening.take((body if isinstance(body, str) else json.dumps(body)).encode())
    assert listening.over
    return listening.completion()


@pytest.mark.parametrize(
    "usage", ["n/a", 7, [1], {"prompt_tokens": 10**12}, {"completion_tokens": -1}, {"x": "\ud83d"}]
)
def test_a_usage_that_is_none_is_no_reason_to_lose_an_answer(usage):
    bodies = (word("a "), word("b", "stop"), {"choices": [], "usage": usage}, "[DONE]")
    with FaultServer(events(*bodies)) as server:
        assert list(streamed(model_of(server))) == ["a ", "b"]
    done = heard(*bodies)
    assert (done.prompt_tokens, done.completion_tokens) == (0, 2)


def test_half_characters_in_what_a_server_says_of_an_answer_are_made_whole():
    done = heard({"model": "\ud83d"} | word("a", "\ude00"))
    assert (done.model, done.finish) == ("\ufffd", "\ufffd")


def test_a_character_in_two_pieces_is_given_whole_with_the_second():
    with FaultServer(events(word("a\ud83d"), word("\ude00b"), "[DONE]")) as server:
        assert list(streamed(model_of(server))) == ["a", "\U0001f600b"]


@pytest.mark.parametrize("last", [word("", "stop"), "[DONE]"])
def test_half_a_character_whose_other_half_does_not_come_is_given_at_the_end(last):
    with FaultServer(events(word("a\ud83d"), last)) as server:
        assert list(streamed(model_of(server))) == ["a", "\ufffd"]
    assert heard(word("\ud83d"), word("b\ude00"), last).text == "\ufffdb\ufffd"


def test_half_a_character_of_a_try_that_broke_off_is_no_part_of_the_next():
    bodies = iter([(word("\ud83d"),), (word("a"), "[DONE]")])
    with FaultServer(lambda body: events(*next(bodies))(body)) as server:
        assert list(streamed(model_of(server))) == ["a"]


LONG = json.dumps(word("h\u00e9 \u4f60\u597d \U0001f600"), ensure_ascii=False)
FIRST, LAST = f"data:{LONG}", "data: [DONE]"
TWO_LINES = LONG.replace("{", "{\ndata:", 1)


@pytest.mark.parametrize(
    "text",
    [
        f": hi\r\n\r\nid: 1\r\n{FIRST}\r\n\r\n{LAST}\r\n\r\n", f"{FIRST}\n\n{LAST}\n\n",
        f"{FIRST}\r\r: hi\r{LAST}\r\r", f"\ufeff{FIRST}\n\n{LAST}\n\n",
        f"\ufeff\r\n{FIRST}\r\n\r\n{LAST}\r\n\r\n", f"data:{TWO_LINES}\n\n{LAST}\n\n",
        f"{FIRST}\n\n{LAST}\n", f"{FIRST}\n\n{LAST}", f"{FIRST}\r\n\r\n{LAST}\r",
    ],
)  # fmt: skip
def test_events_are_read_whatever_their_lines_look_like_and_wherever_they_are_cut(text):
    raw, said = text.encode(), [LONG.encode(), b"[DONE]"]
    if TWO_LINES in text:
        said[0] = LONG.encode().replace(b"{", b"{\n", 1)
    for at in range(len(raw)):
        assert read(raw[:at], raw[at:]) == said, at
    assert read(*(raw[at : at + 1] for at in range(len(raw)))) == said


def read(*parts):
    found = Events()
    return [event for part in parts for event in found.feed(part)] + list(found.end())


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_characters_and_line_ends_may_be_split_over_what_comes_from_the_net(end):
    raw = f"\ufeff{FIRST}{end}{end}{LAST}".encode()
    lone = raw.index("\u4f60".encode()) + 1
    cuts = [0, 1, lone, len(f"\ufeff{FIRST}".encode()) + 1, len(raw) - 3, len(raw)]
    parts = [raw[a:b] for a, b in pairwise(cuts)]
    with FaultServer(in_parts(*parts)) as server:
        assert list(streamed(model_of(server))) == ["h\u00e9 \u4f60\u597d \U0001f600"]
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("content_type", "drip"), [(EVENTS, b": ping\n\n"), (EVENTS, b"x"), ("application/json", b" ")]
)
def test_what_only_keeps_a_connection_alive_does_not_defeat_the_timeout(content_type, drip):
    with FaultServer(in_parts(then=drip, every=0.05, content_type=content_type)) as server:
        given = streamed(model_of(server, timeout=1, patience=1.5, retries=99))
        with pytest.raises(EndpointFailure, match=r"no word came for 1 s"):
            next(given)
        gone(server)
    assert 1 <= len(server.seen) <= 2


def test_a_word_gives_the_next_one_the_whole_timeout_and_pings_give_it_none():
    first = f"data: {json.dumps(word('a'))}\n\n".encode()
    with FaultServer(in_parts(first, then=b": ping\n\n", every=0.05)) as server:
        given = streamed(model_of(server, timeout=1))
        assert next(given) == "a"
        with pytest.raises(CallFailure, match="broke off: no word came for 1 s"):
            next(given)


def test_an_answer_may_take_longer_than_the_timeout_while_words_come_and_so_may_its_reader():
    async def slowly(model):
        came = []
        async for piece in model.stream(SAID, Decoding()):
            came.append(piece)
            await asyncio.sleep(1.6 if len(came) == 1 else 0)
        return came

    with FaultServer(pause=0.3) as server:
        model = model_of(server, timeout=1.2)
        assert list(streamed(model)) == ["one", " two", " three", " four"]
        assert wait(slowly(model)) == ["one", " two", " three", " four"]


def test_a_server_that_knows_no_streams_gives_its_answer_at_once():
    whole = {"choices": [{"message": {"content": "all of it"}}], "usage": {"prompt_tokens": 5}}
    with FaultServer(lambda _: web.json_response(whole)) as server:
        model = model_of(server)
        assert list(streamed(model, "at once")) == ["all of it"]
    assert booked(model, "at once").prompt_tokens == 5


def refusing(part, status, text):
    """A server that refuses requests with this part."""
    return lambda body: web.Response(status=status, text=text) if part in body else "so be it"


@pytest.mark.parametrize(
    ("status", "text"),
    [(422, "stream_options: extra inputs are not permitted"),
     (400, "Unrecognized request argument"), (404, "")],
)  # fmt: skip
def test_a_server_that_cannot_count_a_stream_is_asked_without_from_then_on(status, text):
    with FaultServer(refusing("stream_options", status, text)) as server:
        model = model_of(server)
        assert list(streamed(model)) == ["so", " be", " it"] == list(streamed(model))
    assert ["stream_options" in s.body for s in server.seen] == [True, False, False]
    assert all(s.body["stream"] for s in server.seen)


@pytest.mark.parametrize(
    ("status", "text"),
    [(400, "streaming is not supported"), (400, "Unrecognized request argument"), (422, "no")],
)
def test_a_server_that_refuses_streams_is_asked_for_whole_answers_from_then_on(
    status, text, caplog
):
    with FaultServer(refusing("stream", status, text)) as server:
        model = model_of(server)
        assert list(streamed(model, "unstreamed")) == ["so be it"]
        assert len(server.seen) == 3 and "gives no streams" in caplog.text
        assert list(streamed(model, "unstreamed")) == ["so be it"]
        assert list(streamed(model_of(server, retries=1))) == ["so be it"]
    assert ["stream" in s.body for s in server.seen] == [True, True, False, False, False]
    usage = booked(model, "unstreamed")
    assert (usage.calls, usage.failures, usage.retries) == (2, 0, 2)
    assert (usage.prompt_tokens, usage.completion_tokens) == (8, 6)
    assert model._endpoint.limits._tokens == 21


def test_a_refusal_of_the_dialogue_is_none_of_streams():
    with FaultServer(refusing("stream", 400, "maximum context length is 8")) as server:
        model = model_of(server)
        with pytest.raises(CallFailure, match="refused this dialogue"):
            next(streamed(model))
        assert len(server.seen) == 1
        server.answer = lambda _: "fine"
        assert list(streamed(model)) == ["fine"] and "stream_options" in server.seen[-1].body


def test_what_is_refused_whole_as_well_says_nothing_of_streams():
    with FaultServer(lambda _: web.Response(status=400, text="bad temperature")) as server:
        model = model_of(server)
        with pytest.raises(EndpointFailure, match="bad temperature"):
            next(streamed(model))
        server.answer = lambda _: "fine"
        assert list(streamed(model)) == ["fine"]
    assert "stream_options" in server.seen[-1].body


@pytest.mark.parametrize("way", ["closed", "cancelled"])
def test_what_came_of_a_stream_that_the_caller_broke_off_is_booked(way):
    with FaultServer(pause=60) as server:
        model, purpose = model_of(server, max_tokens=2, price_out=1e6), f"broken off, {way}"
        for _ in range(2):
            (break_off if way == "closed" else cancel)(streamed(model, purpose))
            gone(server)
        usage = booked(model, purpose)
        assert (usage.calls, usage.failures, usage.completion_tokens) == (2, 0, 2)
        assert usage.cost == 2 and usage.seconds > 0
        with pytest.raises(EndpointFailure, match="budget spent: 2 of 2 tokens"):
            next(streamed(model))


def break_off(given):
    assert next(given) == "one"
    given.close()


def cancel(given):
    calls, came = Calls(), []

    def read():
        calls.adopt()
        with pytest.raises(CancelledError):
            collect(came, given)

    thread = threading.Thread(target=read)
    thread.start()
    while not came:
        time.sleep(0.005)
    calls.cancel()
    thread.join(10)
    assert came == ["one"] and not thread.is_alive()


def test_what_came_of_a_stream_that_broke_off_is_booked_with_the_failure():
    with FaultServer(rate=1.0, faults=("cut",)) as server:
        model = model_of(server)
        with pytest.raises(CallFailure):
            list(streamed(model, "cut off"))
    usage = booked(model, "cut off")
    assert (usage.calls, usage.failures, usage.completion_tokens) == (1, 1, 2)
    assert model._endpoint.limits._tokens == 2


def test_pieces_count_as_tokens_where_the_server_counts_none():
    with FaultServer(events(word("a "), word(""), word("b "), word("c", "stop"))) as server:
        model = model_of(server, max_tokens=3)
        assert len(list(streamed(model, "uncounted"))) == 3
        assert booked(model, "uncounted").completion_tokens == 3
        with pytest.raises(EndpointFailure, match="budget spent: 3 of 3 tokens"):
            next(streamed(model))


@pytest.mark.parametrize("garbage", ["event", "whole"])
def test_an_unreadable_event_holds_up_nobody_else(garbage, monkeypatch):
    paused = []
    monkeypatch.setattr(Limits, "stumbled", lambda *given: paused.append(given))
    bad = events("{") if garbage == "event" else lambda _: web.Response(text="{")
    bodies = iter([bad, lambda _: "fine"])
    with FaultServer(lambda body: next(bodies)(body)) as server:
        assert list(streamed(model_of(server))) == ["fine"]
    assert paused == []


def test_a_final_refusal_and_a_dead_endpoint_are_errors_as_ever():
    with FaultServer(lambda _: web.Response(status=401, text="no")) as server:
        with pytest.raises(EndpointFailure, match="401 no; set a valid key"):
            next(streamed(model_of(server)))
        url = server.base_url
    with pytest.raises(EndpointFailure, match="never given a usable answer"):
        next(streamed(make_model(f"openai:toy@{url}?retries=1&key=NOBODY")))


def test_a_stream_that_never_ends_is_dropped_at_the_cap():
    with (
        FaultServer(events(word("a"), word("x" * LARGEST))) as server,
        pytest.raises(CallFailure, match=f"larger than {LARGEST} bytes"),
    ):
        list(streamed(model_of(server)))


def test_closing_a_stream_hangs_up():
    with FaultServer(pause=30) as server:
        given = streamed(model_of(server))
        next(given)
        given.close()
        gone(server)


def test_calls_that_are_given_up_hang_up_in_the_middle_of_a_wait():
    with FaultServer(pause=30) as server:
        cancel(streamed(model_of(server)))
        gone(server)


def test_a_stopped_stream_leaves_the_endpoint_free_for_the_next_call():
    with FaultServer(pause=30) as server:
        model = model_of(server, concurrency=1)
        given = streamed(model)
        next(given)
        given.close()
        assert complete(model, SAID, Decoding()).text == "one two three four"


def test_the_endpoint_of_heartloop_itself_is_heard_word_by_word():
    with Served(make_app(["embedded"])) as server:
        given = list(streamed(model_of_served(server)))
        whole = complete(model_of_served(server), SAID, Decoding(seed=3))
    assert len(given) > 1 and "".join(given) == whole.text


def model_of_served(server):
    return make_model(f"openai:embedded@{server.base_url}")


def test_the_generator_ends_where_the_answer_does():
    async def all_of_it(model):
        return [piece async for piece in model.stream(SAID, Decoding())]

    with FaultServer() as server:
        assert wait(all_of_it(model_of(server))) == ["one", " two", " three", " four"]
