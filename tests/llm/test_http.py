"""Checks of models behind HTTP, against real servers on this machine."""

import asyncio
import json
import logging
import re
import socket
import subprocess
import sys
import time
import traceback

import pytest
from aiohttp import web

from heartloop.errors import CallFailure, EndpointFailure, InvalidInput
from heartloop.llm import LEDGER, Decoding, complete, make_model
from heartloop.llm.base import event_loop, wait
from heartloop.llm.endpoint import LARGEST
from heartloop.llm.wire import Unreadable, read_answer
from heartloop.types import Message
from tests.faults import BROKEN, FAULTS, FaultServer

CANARY = "sk-canary-4f1d9b7e2a6c"
SERVER = """
import sys
from tests.faults import FaultServer
with FaultServer(latency=0.05) as server:
    print(server.base_url, flush=True)
    sys.stdin.read()
"""
SCHEMA = Decoding(form="reading", json_schema={"type": "object", "properties": {}})


def said(text: str = "I lost my keys.") -> list[Message]:
    return [Message(role="system", content="Be brief."), Message(role="user", content=text)]


def model_of(server: FaultServer, **options: object):
    query = "&".join(f"{k}={v}" for k, v in options.items())
    return make_model(f"openai:toy@{server.base_url}?{query}".rstrip("?"))


def many(model, count: int, decoding: Decoding | None = None):
    async def calls():
        work = (model(said(f"n{n}"), decoding or Decoding(), "many") for n in range(count))
        return await asyncio.gather(*work, return_exceptions=True)

    return wait(calls())


def booked(model, purpose: str):
    return LEDGER.entries()[(model.spec.partition("?")[0], purpose)]


def refusing(status: int, text: str):
    return lambda body: web.Response(status=status, text=text)


def test_request_and_answer_hold_what_the_protocol_says():
    decoding = SCHEMA.model_copy(
        update={"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3, "stop": ("END",),
                "top_logprobs": 2}
    )  # fmt: skip
    with FaultServer() as server:
        done = complete(model_of(server), said("yes no"), decoding)
    (seen,) = server.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.body == {
        "model": "toy",
        "messages": [m.model_dump() for m in said("yes no")],
        "temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "seed": 3, "stop": ["END"],
        "logprobs": True, "top_logprobs": 2,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reading", "strict": True, "schema": SCHEMA.json_schema},
        },
    }  # fmt: skip
    assert (done.text, done.model, done.finish, done.structured) == ("yes no", "toy", "stop", True)
    assert (done.prompt_tokens, done.completion_tokens) == (4, 2)
    assert [t.token for t in done.logprobs] == ["yes", "no"]
    assert done.logprobs[0].top == {"yes": -0.1, "no": -2.3}
    assert done.request_id == seen.headers["X-Request-Id"] != ""
    assert done.seconds > 0


def test_what_is_not_asked_for_is_not_sent():
    with FaultServer() as server:
        complete(model_of(server), said(), Decoding())
    absent = {"seed", "stop", "logprobs", "top_logprobs", "response_format"}
    assert not absent & set(server.seen[0].body)


def test_the_ledger_adds_up_under_64_calls_at_once_with_faults():
    with FaultServer(rate=0.15, faults=("500", "garbage", "cut"), seed=5) as server:
        model = model_of(server, retries=1, price_in=1, price_out=2)
        results = many(model, 64)
    failed = sum(isinstance(r, Exception) for r in results)
    assert all(isinstance(r, CallFailure) for r in results if isinstance(r, Exception))
    usage, good = booked(model, "many"), 64 - failed
    assert (usage.calls, usage.failures, usage.cached) == (64, failed, 0)
    assert usage.calls + usage.retries == len(server.seen)
    assert (usage.prompt_tokens, usage.completion_tokens) == (3 * good, good)
    assert usage.cost == pytest.approx((3 * good + 2 * good) / 1e6)
    assert usage.retries > 0 and server.counts["ok"] == good


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_is_survived_by_asking_again(fault):
    with FaultServer(rate=1.0, faults=(fault,), stall=20) as server:
        model = model_of(server, timeout=1, patience=20)
        asyncio.run_coroutine_threadsafe(_heal(server), event_loop())
        assert complete(model, said(), Decoding()).text == "I lost my keys."
    assert server.counts[fault] >= 1 and server.counts["ok"] == 1
    ids = [s.headers["X-Request-Id"] for s in server.seen]
    assert len(set(ids)) == len(ids)


async def _heal(server: FaultServer) -> None:
    while not server.seen:
        await asyncio.sleep(0.005)
    server.rate = 0.0


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - set(BROKEN)))
def test_an_odd_text_is_an_answer_all_the_same(fault):
    with FaultServer(rate=1.0, faults=(fault,)) as server:
        done = complete(model_of(server), said(), Decoding())
    assert len(server.seen) == 1
    assert (done.text == "") == (fault == "empty")


@pytest.mark.parametrize(
    "body", ["", "[]", "null", '{"choices": []}', '{"choices": [{}]}', '{"error": "x"}',
             '{"choices": [{"message": {"content": 3}}]}', "[" * 100_000]
)  # fmt: skip
def test_an_answer_without_choices_is_asked_for_again_and_then_given_up(body):
    with FaultServer() as server:
        model = model_of(server, retries=1)
        complete(model, said(), Decoding())
        server.answer = lambda _: web.Response(text=body)
        with pytest.raises(
            CallFailure, match=r"no usable answer in 2 requests.*no chat completion"
        ):
            complete(model, said(), Decoding())
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("content", "text"), [(None, ""), ([{"type": "text", "text": "a"}], "a"), ("\ud83d", "\ufffd")]
)
def test_contents_of_other_shapes_are_read(content, text):
    body = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": None}]})
    with FaultServer(lambda _: web.Response(text=body)) as server:
        done = complete(model_of(server), said(), Decoding())
    assert (done.text, done.model, done.finish, done.prompt_tokens) == (text, "toy", "stop", 0)


@pytest.mark.parametrize(
    "usage", [None, {}, {"completion_tokens": 0}, {"completion_tokens": "n/a"}]
)
@pytest.mark.parametrize(("text", "tokens"), [("x" * 9, 3), ("\u4f60\u597d", 2), ("", 0)])
def test_tokens_of_an_answer_that_the_server_does_not_count_are_estimated(usage, text, tokens):
    body = {"choices": [{"message": {"content": text}}], "usage": usage}
    assert read_answer(json.dumps(body).encode(), "toy").completion_tokens == tokens
    body["usage"] = {"completion_tokens": 7}
    assert read_answer(json.dumps(body).encode(), "toy").completion_tokens == 7


def test_a_budget_of_tokens_holds_at_a_server_that_counts_none():
    body = json.dumps({"choices": [{"message": {"content": "x" * 40}}]})
    with FaultServer(lambda _: web.Response(text=body)) as server:
        model = model_of(server, max_tokens=20, price_out=1e6)
        for _ in range(2):
            assert complete(model, said(), Decoding(), "uncounted whole").completion_tokens == 10
        with pytest.raises(EndpointFailure, match="budget spent: 20 of 20 tokens"):
            complete(model, said(), Decoding())
        assert len(server.seen) == 2
        assert booked(model, "uncounted whole").cost == 20


def test_an_answer_beyond_the_cap_is_dropped():
    with FaultServer() as server:
        model = model_of(server, retries=0)
        complete(model, said(), Decoding())
        server.answer = lambda _: "x" * (LARGEST + 1)
        with pytest.raises(CallFailure, match=f"larger than {LARGEST} bytes"):
            complete(model, said(), Decoding())


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "valid key in OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "'toy'.*/v1"),
     (400, "bad temperature"), (302, "redirects are not followed")],
)  # fmt: skip
def test_a_final_refusal_ends_the_run_at_once(status, says):
    with (
        FaultServer(refusing(status, "bad temperature")) as server,
        pytest.raises(EndpointFailure, match=says) as caught,
    ):
        complete(model_of(server), said(), Decoding())
    assert len(server.seen) == 1
    assert server.base_url in str(caught.value)


@pytest.mark.parametrize(
    ("status", "text"),
    [(400, "This model's maximum context length is 4096 tokens"), (413, "no"),
     (400, '{"code": "context_length_exceeded"}'), (400, '{"code": "content_filter"}')],
)  # fmt: skip
def test_a_refused_dialogue_fails_alone_and_keeps_the_schema(status, text):
    with FaultServer(refusing(status, text)) as server:
        model = model_of(server)
        with pytest.raises(CallFailure, match="refused this dialogue"):
            complete(model, said(), SCHEMA)
        assert len(server.seen) == 1
        server.answer = lambda _: "fine"
        assert complete(model, said(), SCHEMA).structured


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_server_without_schemas_is_asked_without_from_then_on(status):
    def answer(body):
        text = "response_format is not supported"
        return web.Response(status=status, text=text) if "response_format" in body else "plain"

    with FaultServer(answer) as server:
        model = model_of(server)
        first, second = (complete(model, said(), SCHEMA) for _ in range(2))
    assert (first.text, first.structured, second.structured) == ("plain", False, False)
    assert ["response_format" in s.body for s in server.seen] == [True, False, False]


def test_schemas_are_asked_for_until_two_calls_in_a_row_needed_them_left_out(caplog):
    refused = {"n0", "n2", "n3", "n4"}

    def answer(body):
        text = body["messages"][-1]["content"]
        return web.Response(status=400) if "response_format" in body and text in refused else text

    with FaultServer(answer) as server:
        model = model_of(server)
        taken = [complete(model, said(f"n{n}"), SCHEMA).structured for n in range(4)]
        assert taken == [False, True, False, False]
        assert "takes no JSON schema" in caplog.text
        server.seen.clear()
        assert not complete(model, said("n5"), SCHEMA).structured
    assert len(server.seen) == 1


@pytest.mark.parametrize("number", [2**31 + 1, int("9" * 401)])
def test_a_number_beyond_reason_is_an_answer_nobody_can_read(number):
    counts = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": number}}
    token = {"token": "x", "logprob": number if number > 2**40 else "low"}
    logs = {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [token]}}]}
    for body in (counts, logs):
        with pytest.raises(Unreadable, match="no chat completion"):
            read_answer(json.dumps(body).encode(), "toy")


def test_too_many_requests_cut_concurrency_and_the_wait_is_kept():
    with FaultServer(latency=0.02) as server:
        model = model_of(server, concurrency=64)
        many(model, 100)
        limits = model._endpoint.limits
        before, asked = limits.concurrency, len(server.seen)
        assert before == 64
        server.rate, server.faults, server.retry_after = 1.0, ("429",), "1"
        asyncio.run_coroutine_threadsafe(_heal_after(server, asked), event_loop())
        began = time.monotonic()
        assert complete(model, said(), Decoding()).text
        assert time.monotonic() - began >= 1
        assert server.counts["429"] == 1
        assert limits.concurrency in (32, 33)


async def _heal_after(server: FaultServer, asked: int) -> None:
    while len(server.seen) <= asked:
        await asyncio.sleep(0.005)
    server.rate = 0.0


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_dead_endpoint_is_given_up_within_its_budget_and_named():
    url = f"http://127.0.0.1:{closed_port()}/v1"
    model = make_model(f"openai:toy@{url}?patience=1&retries=99&key=DEAD_KEY")
    began = time.monotonic()
    results = many(model, 32)
    assert time.monotonic() - began >= 1
    assert all(isinstance(r, EndpointFailure) for r in results)
    assert all(url in str(r) and "DEAD_KEY" in str(r) for r in results)
    # Told at once: none had a patience of its own.
    assert len({re.sub(r"[\d.]+ s ", "", str(r)) for r in results}) == 1
    sent = model._endpoint.limits._requests
    with pytest.raises(EndpointFailure):
        complete(model, said(), Decoding())
    assert model._endpoint.limits._requests == sent


def test_an_endpoint_that_never_answered_ends_the_run_after_one_call():
    url = f"http://127.0.0.1:{closed_port()}/v1"
    with pytest.raises(EndpointFailure, match="never given a usable answer"):
        complete(make_model(f"openai:toy@{url}?retries=1"), said(), Decoding())


def test_a_server_that_hangs_is_given_up_within_its_budget():
    with FaultServer(rate=1.0, faults=("stall",)) as server:
        model = model_of(server, timeout=0.6, patience=2, retries=99)
        with pytest.raises(EndpointFailure, match=r"no whole answer within 0.6 s"):
            complete(model, said(), Decoding())
        assert 1 <= len(server.seen) <= 3  # of 100, at 0.6 s and a pause each


@pytest.mark.parametrize(("timeout", "sent", "last"), [(1.1, 2, "1 s"), (30, 1, "2 s")])
def test_patience_bounds_the_timeout_and_the_pauses_of_one_call(timeout, sent, last):
    with FaultServer(rate=1.0, faults=("stall",), stall=60) as server:
        model = model_of(server, timeout=timeout, patience=2, retries=99, concurrency=1)
        began = time.monotonic()
        results = many(model, 3)
        assert time.monotonic() - began >= 2
        assert len(server.seen) == sent
    assert all(isinstance(r, EndpointFailure) for r in results)
    assert all(f"no whole answer within {last})" in str(r) for r in results)


def test_waits_that_a_server_asks_for_do_not_outlast_patience():
    with FaultServer(rate=1.0, faults=("429",), retry_after="2") as server:
        with pytest.raises(EndpointFailure, match=r"asks to wait 2 s, of 3 s"):
            complete(model_of(server, patience=3, retries=99), said(), Decoding())
        assert len(server.seen) <= 2


def test_256_calls_are_under_way_at_once_and_all_answered():
    with FaultServer() as server:
        model = model_of(server, concurrency=256)
        many(model, 512)
        server.together = 256  # no answer to fewer
        results = many(model, 256)
    assert [r.text for r in results] == [f"n{n}" for n in range(256)]
    assert server.most == 256


async def _unit() -> tuple[float, float]:
    """What the thread of the event loop has spent, and what a small piece of work costs it now."""
    spent = time.thread_time()
    for _ in range(64):
        json.loads(json.dumps([list(range(50))] * 20))
    return spent, (time.thread_time() - spent) / 64


def test_the_event_loop_stays_responsive_with_64_calls_under_way():
    lags: list[float] = []

    async def watch() -> None:
        # The loop's own time, against its own work: a slow or busy machine is none of its doing.
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.005)
            lags.append(time.thread_time() - began)

    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as server:
        model = make_model(f"openai:toy@{server.stdout.readline().strip()}")
        many(model, 200)
        before, unit = wait(_unit())
        watcher = asyncio.run_coroutine_threadsafe(watch(), event_loop())
        results = many(model, 1000)
        watcher.cancel()
        after, unit_after = wait(_unit())
        server.stdin.close()
    call = (after - before) / 1000
    assert {r.model for r in results} == {"toy"}
    assert model._endpoint.limits.concurrency == 64
    assert len(lags) > 20
    assert call < 16 * max(unit, unit_after)  # usually 4
    assert sorted(lags)[int(len(lags) * 0.99)] < 4 * 64 * call  # usually 1


def test_a_budget_of_requests_counts_retries_and_ends_the_run():
    with FaultServer() as server:
        model = model_of(server, max_requests=3)
        results = many(model, 5)
    refused = [r for r in results if isinstance(r, EndpointFailure)]
    assert len(refused) == 2 and "budget spent: 3 of 3 requests" in str(refused[0])
    assert len(server.seen) == 3


def test_a_model_may_be_called_from_any_event_loop():
    with FaultServer() as server:
        model = model_of(server)
        for _ in range(2):
            assert asyncio.run(model(said(), Decoding())).text == "I lost my keys."


def test_the_key_is_sent_and_shown_nowhere(monkeypatch, caplog, capfd):
    monkeypatch.setenv("CANARY_KEY", f"{CANARY}\n")
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def echo_headers(status: int):
        return lambda body: web.Response(status=status, text=f"Bearer {CANARY} is wrong")

    with FaultServer() as server:
        model = model_of(server, key="CANARY_KEY", retries=0, patience=9)
        done = complete(model, said(CANARY[:3]), Decoding(), "canary")
        assert server.seen[0].headers["Authorization"] == f"Bearer {CANARY}"
        for answer in (*map(echo_headers, (200, 400, 401, 429, 500)), lambda _: CANARY):
            server.answer = answer
            try:
                shown.append(complete(model, said(), Decoding(), "canary").model_dump_json())
            except (CallFailure, EndpointFailure) as error:
                shown += everything(error)
        server.rate, server.faults = 1.0, ("cut",)
        with pytest.raises(CallFailure) as caught:
            complete(model, said(), Decoding())
        shown += everything(caught.value)
    monkeypatch.setenv("CANARY_KEY", f"{CANARY}\nsecond line")
    with pytest.raises(InvalidInput, match="CANARY_KEY has characters") as bad:
        complete(model, said(), Decoding())
    shown += everything(bad.value)
    shown += [repr(model), repr(vars(model)), model.spec, done.model_dump_json(), caplog.text]
    shown += [json.dumps(LEDGER.record()), *capfd.readouterr()]
    assert "[key]" in "".join(shown)
    assert CANARY not in "".join(shown)


def everything(error: BaseException) -> list[str]:
    """All that a tool may print of an error: message, traceback with locals, whole chain."""
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    inside = [text for text in frames.format() if "test_http.py" not in text]
    chain = [repr(e) + repr(e.args) for e in (error, error.__cause__, error.__context__) if e]
    return [str(error), *inside, *chain]
