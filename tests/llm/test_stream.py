"""Checks of answers that come in pieces, against real servers on this machine."""

import asyncio
import json
import threading
import time
from concurrent.futures import CancelledError

import pytest
from aiohttp import web

from heartloop.errors import CallFailure, EndpointFailure
from heartloop.llm import LEDGER, Decoding, make_model
from heartloop.llm.base import Calls, StreamingModel, complete, event_loop, pieces, wait
from heartloop.llm.http import LARGEST
from heartloop.policy.serve.app import Served, make_app
from heartloop.types import Message
from tests.faults import FaultServer

SAID = [Message(role="user", content="one two three four")]
FALLBACKS = ("429", "500", "stall", "garbage")


def model_of(server, **options):
    query = "&".join(f"{k}={v}" for k, v in options.items())
    return make_model(f"openai:toy@{server.base_url}?{query}".rstrip("?"))


def streamed(model, purpose=""):
    return pieces(model.stream(SAID, Decoding(seed=3), purpose))


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
    with FaultServer(pause=0.1) as server:
        given = streamed(model_of(server), "streamed")
        first = next(given)
        assert (first, server.flying) == ("one", 1)
        assert list(given) == [" two", " three", " four"]
    (seen,) = server.seen
    assert seen.body["stream"] is True and seen.body["stream_options"] == {"include_usage": True}
    assert seen.body["seed"] == 3 and "response_format" not in seen.body
    ((_, usage),) = [e for e in LEDGER.entries().items() if e[0][1] == "streamed"]
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens) == (1, 4, 4)


def test_a_model_behind_an_endpoint_can_stream_and_is_known_to():
    with FaultServer() as server:
        assert isinstance(model_of(server), StreamingModel)


@pytest.mark.parametrize("fault", FALLBACKS)
def test_a_fault_before_the_first_piece_is_survived_by_asking_again(fault):
    with FaultServer(rate=1.0, faults=(fault,), stall=20) as server:
        model = model_of(server, timeout=0.3, patience=20)

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


@pytest.mark.parametrize("last", [word("b", "length"), "[DONE]"])
def test_a_finish_or_the_end_sign_ends_an_answer(last):
    with FaultServer(events(word("a"), last)) as server:
        assert "".join(streamed(model_of(server))).startswith("a")


def test_events_are_read_whatever_their_lines_look_like():
    text = f": hi\r\n\r\nid: 1\r\ndata:{json.dumps(word('a'))}\r\n\r\ndata: [DONE]\r\n\r\n"

    def answer(_):
        return web.Response(text=text, content_type="text/event-stream")

    with FaultServer(answer) as server:
        assert list(streamed(model_of(server))) == ["a"]


def test_a_server_that_knows_no_streams_gives_its_answer_at_once():
    whole = {"choices": [{"message": {"content": "all of it"}}], "usage": {"prompt_tokens": 5}}
    with FaultServer(lambda _: web.json_response(whole)) as server:
        assert list(streamed(model_of(server), "at once")) == ["all of it"]
    ((_, usage),) = [e for e in LEDGER.entries().items() if e[0][1] == "at once"]
    assert usage.prompt_tokens == 5


def test_a_server_that_cannot_count_a_stream_is_asked_without():
    def answer(body):
        refusal = web.Response(status=422, text="stream_options: extra inputs are not permitted")
        return refusal if "stream_options" in body else "fine"

    with FaultServer(answer) as server:
        assert list(streamed(model_of(server))) == ["fine"]
    assert len(server.seen) == 2


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
        calls, came = Calls(), []

        def read():
            calls.adopt()
            with pytest.raises(CancelledError):
                collect(came, streamed(model_of(server)))

        thread = threading.Thread(target=read)
        thread.start()
        while not came:
            time.sleep(0.005)
        calls.cancel()
        thread.join(5)
        gone(server)
    assert came == ["one"] and not thread.is_alive()


def gone(server):
    end = time.monotonic() + 5
    while server.flying:
        assert time.monotonic() < end, "the server still writes"
        time.sleep(0.01)


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
