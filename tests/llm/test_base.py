"""Checks of the event loop that all models share: giving calls up, and forked children."""

import asyncio
import multiprocessing
import os
import queue
import threading
import time
from concurrent.futures import CancelledError

import pytest

from heartloop.llm import Decoding, ScriptedModel, complete, make_model
from heartloop.llm.base import Calls, Completion, event_loop, wait
from heartloop.llm.batching import Batcher
from heartloop.types import Message
from tests.faults import FaultServer

ASKED = [Message(role="user", content="Hi")]


def in_child(work):
    """What the work returns in a forked child, or a failure after half a minute."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=lambda: answers.put(work()))
    child.start()
    try:
        return answers.get(timeout=30)
    except queue.Empty:
        pytest.fail("the forked child hangs")
    finally:
        child.kill()
        child.join()


def test_a_forked_child_calls_a_model_that_its_parent_has_called():
    model = ScriptedModel(lambda messages, decoding: f"{os.getpid()}", 0.01)
    ours = complete(model, ASKED, Decoding()).text
    theirs = in_child(lambda: complete(model, ASKED, Decoding()).text)
    assert ours == str(os.getpid()) != theirs
    assert complete(model, ASKED, Decoding()).text == ours


def test_a_forked_child_has_an_endpoint_of_its_own_while_its_parent_goes_on():
    with FaultServer(latency=0.5) as server:
        model = make_model(f"openai:toy@{server.base_url}?concurrency=1&timeout=20")
        complete(model, ASKED, Decoding())
        busy = asyncio.run_coroutine_threadsafe(model(ASKED, Decoding()), event_loop())
        while server.flying == 0:
            time.sleep(0.005)
        assert in_child(lambda: complete(model, ASKED, Decoding()).text) == "Hi"
        assert busy.result(30).text == "Hi"
        assert complete(model, ASKED, Decoding()).text == "Hi"


def test_a_forked_child_starts_the_thread_of_a_batched_model_anew():
    def work(questions):
        return [Completion(text=f"{q.ids[0]}", model="m") for q in questions]

    batcher = Batcher("m-fork", work, 4)
    assert wait(batcher.ask([1], Decoding(), "fork")).text == "1"
    assert in_child(lambda: wait(batcher.ask([2], Decoding(), "fork")).text) == "2"


def test_calls_given_up_end_at_once_and_others_go_on():
    calls, ended = Calls(), []
    slow = ScriptedModel(lambda messages, decoding: "late", 300)

    def ask() -> None:
        calls.adopt()
        for _ in range(2):
            try:
                complete(slow, ASKED, Decoding())
            except CancelledError as error:
                ended.append(str(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    time.sleep(0.2)
    calls.cancel()
    thread.join(60)
    assert len(ended) == 2 and "given up" in ended[1]
    assert complete(ScriptedModel(["on"], 0.01), ASKED, Decoding()).text == "on"
