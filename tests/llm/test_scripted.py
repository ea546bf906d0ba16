"""Checks of the scripted model."""

import asyncio
import time

import pytest

from heartloop.errors import CallFailure, EndpointFailure
from heartloop.llm import LEDGER, Decoding, ScriptedModel, complete
from heartloop.types import Message

ASKED = [Message(role="user", content="Hi")]


def test_a_list_is_used_in_order_and_then_up():
    model = ScriptedModel(["one", "two"])
    assert [complete(model, ASKED, Decoding()).text for _ in range(2)] == ["one", "two"]
    with pytest.raises(EndpointFailure, match="script of 2 answers is used up"):
        complete(model, ASKED, Decoding())


def test_a_function_sees_the_dialogue_and_the_decoding():
    model = ScriptedModel(lambda messages, decoding: f"{messages[-1].content} {decoding.seed}")
    assert complete(model, ASKED, Decoding(seed=4)).text == "Hi 4"


def test_latencies_run_side_by_side():
    model = ScriptedModel(["x"] * 50, latency=0.1)

    async def many():
        return await asyncio.gather(*(model(ASKED, Decoding()) for _ in range(50)))

    began = time.perf_counter()
    waited = [said.seconds for said in asyncio.run(many())]
    spent = time.perf_counter() - began
    assert len(waited) == 50
    assert sum(waited) > 10 * spent >= 1


def test_failures_pass_and_are_booked():
    def answer(messages, decoding):
        raise CallFailure("no")

    with pytest.raises(CallFailure):
        complete(ScriptedModel(answer), ASKED, Decoding(), "scripted-failure")
    assert LEDGER.entries()[("scripted", "scripted-failure")].failures == 1
