"""Checks of a vLLM server and of a vLLM engine in this process, and of both against transformers.

A check that takes `model` is done twice, once with each.
"""

import asyncio
import json
import math

import pytest

from heartloop.errors import CallFailure, EndpointFailure, InvalidInput
from heartloop.llm import LEDGER, Decoding, complete, make_model
from heartloop.llm.base import wait
from tests.vllm.asking import FREE, GREEDY, MOODS, TYPED, at_once, said, seeded
from tests.vllm.tiny import CONTEXT

pytestmark = pytest.mark.vllm


@pytest.fixture(params=["served", "inside"])
def model(request):
    return request.getfixturevalue(request.param)


def test_a_greedy_answer_is_repeated_and_follows_from_the_dialogue(model):
    first, again = (complete(model, said(), GREEDY) for _ in range(2))
    assert first.text == again.text != ""
    assert first.completion_tokens <= 24 < first.prompt_tokens
    assert complete(model, said("My sister does not talk to me."), GREEDY).text != first.text


def test_a_seed_repeats_its_answer_and_seeds_differ(model):
    texts = [c.text for c in at_once(model, [said()] * 8, seeded(FREE, [1, 2, 3, 4] * 2))]
    assert texts[:4] == texts[4:]
    assert len(set(texts)) == 4


def test_32_calls_at_once_are_answered_as_one_by_one(model):
    dialogues = [said(f"I lost {n} keys on the bus.") for n in range(32)]
    decodings = seeded(FREE, range(32))
    together = at_once(model, dialogues, decodings)
    alone = [complete(model, m, d).text for m, d in zip(dialogues, decodings, strict=True)]
    assert [c.text for c in together] == alone
    assert len(set(alone)) == 32


def test_a_typed_answer_obeys_its_schema(model):
    done = at_once(model, [said()] * 6, seeded(TYPED, range(6)))
    rows = [json.loads(c.text) for c in done]
    assert all(c.structured and c.finish == "stop" for c in done)
    assert all(list(row) == ["why", "emotion", "mood"] for row in rows)
    assert all(0 <= row["emotion"] <= 100 and row["mood"] in MOODS for row in rows)
    assert len({row["emotion"] for row in rows}) > 2


def test_the_drawn_token_is_reported_with_the_likeliest(model):
    greedy = complete(model, said(), GREEDY.model_copy(update={"top_logprobs": 3}))
    assert len(greedy.logprobs) == greedy.completion_tokens
    assert "".join(t.token for t in greedy.logprobs).startswith(greedy.text[:5])
    for step in greedy.logprobs:
        assert len(step.top) == 3
        assert step.logprob == max(step.top.values())
        assert 0 < sum(map(math.exp, step.top.values())) <= 1 + 1e-6
    free = FREE.model_copy(update={"top_logprobs": 3, "seed": 3})
    drawn = complete(model, said(), free).logprobs
    assert any(step.logprob < max(step.top.values()) for step in drawn)
    assert complete(model, said(), GREEDY).logprobs == ()


def test_tokens_that_a_schema_rules_out_leave_numbers_that_a_file_can_hold(model):
    done = complete(model, said(), TYPED.model_copy(update={"top_logprobs": 20, "seed": 1}))
    numbers = [p for step in done.logprobs for p in (step.logprob, *step.top.values())]
    assert len(done.logprobs) >= done.completion_tokens - 1 > 0
    assert all(map(math.isfinite, numbers))
    assert type(done).model_validate_json(done.model_dump_json()) == done


def test_an_answer_ends_at_its_limit_and_before_a_stop_text(model):
    short = complete(model, said(), Decoding(max_tokens=2))
    assert (short.finish, short.completion_tokens) == ("length", 2)
    whole = complete(model, said(), GREEDY).text
    end = whole[4:6]
    cut = complete(model, said(), GREEDY.model_copy(update={"stop": ("@@@", end)}))
    assert cut.finish == "stop"
    assert cut.text.strip() == whole[: whole.index(end)].strip()


@pytest.mark.parametrize("decoding", [GREEDY, TYPED], ids=["free", "typed"])
def test_a_dialogue_beyond_the_context_fails_alone(model, decoding):
    async def calls():
        work = (model(m, decoding, "vllm") for m in (said("word " * CONTEXT), said()))
        return await asyncio.gather(*work, return_exceptions=True)

    refused, fine = wait(calls())
    assert isinstance(refused, CallFailure), refused
    assert str(CONTEXT) in str(refused)
    assert fine.text and fine.structured == (decoding is TYPED)


def test_a_server_refuses_more_tokens_than_fit_and_the_engine_makes_do(served, inside):
    wide = Decoding(max_tokens=CONTEXT, stop=('"',))
    with pytest.raises(CallFailure, match=f"context length is {CONTEXT}"):
        complete(served, said(), wide)
    assert complete(inside, said(), wide).finish == "stop"


def test_a_schema_that_vllm_cannot_follow_spoils_no_other_call(server, inside):
    odd = {"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 7}}}
    decodings = [GREEDY, TYPED.model_copy(update={"json_schema": odd}), TYPED]
    # The timeout makes it an endpoint of its own: it is remembered which refuse schemas.
    dropped = at_once(make_model(f"openai:tiny@{server}?timeout=99"), [said()] * 3, decodings)
    assert [c.structured for c in dropped[:2]] == [False, False]

    async def calls():
        work = (inside(said(), d) for d in decodings)
        return await asyncio.gather(*work, return_exceptions=True)

    free, refused, typed = wait(calls())
    assert isinstance(refused, CallFailure) and "schema" in str(refused)
    assert free.text == complete(inside, said(), GREEDY).text
    assert json.loads(typed.text)["mood"] in MOODS


def test_a_model_the_server_does_not_know_ends_the_run(server):
    for decoding in (GREEDY, TYPED):
        with pytest.raises(EndpointFailure, match="see that the server knows 'huge'"):
            complete(make_model(f"openai:huge@{server}"), said(), decoding)


def test_a_folder_without_a_model_is_named(tmp_path, inside):
    with pytest.raises(InvalidInput, match=f"vLLM cannot load '{tmp_path}'"):
        make_model(f"vllm:{tmp_path}")
    assert complete(inside, said(), GREEDY).text


def test_the_ledger_counts_what_the_server_counts(served):
    before = LEDGER.entries().get((served.spec.partition("?")[0], "counted"))
    done = complete(served, said(), GREEDY, "counted")
    usage = LEDGER.entries()[(served.spec.partition("?")[0], "counted")]
    assert before is None
    assert (usage.calls, usage.retries, usage.failures) == (1, 0, 0)
    assert usage.completion_tokens == done.completion_tokens > 0
    assert done.model == "tiny" and done.request_id


def test_server_engine_and_transformers_say_the_same(served, inside, folder):
    decoding = GREEDY.model_copy(update={"top_logprobs": 2})
    plain = make_model(f"hf:{folder}")
    for text in ("I lost my keys on the bus.", "Nobody called on my birthday."):
        wanted, *others = (complete(m, said(text), decoding) for m in (plain, served, inside))
        for other in others:
            assert other.text.strip() == wanted.text
            assert other.prompt_tokens == wanted.prompt_tokens
            numbers = [step.logprob for step in wanted.logprobs]
            assert [step.logprob for step in other.logprobs] == pytest.approx(numbers, abs=1e-3)
