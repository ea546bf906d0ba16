"""Checks of models in this process, on the small policy that ships with the package."""

import asyncio
import math
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import heartloop
from heartloop.errors import CallFailure, InvalidInput
from heartloop.llm import LEDGER, Decoding, complete, make_model
from heartloop.llm.base import wait
from heartloop.llm.batching import Batcher, dialogue_ids
from heartloop.types import Message

WEIGHTS = Path(heartloop.__file__).parent / "policy/seedling/weights"
WARM = Decoding(temperature=1.0, seed=5, max_tokens=12)


@pytest.fixture(scope="module")
def model():
    return make_model(f"hf:{WEIGHTS}")


def said(text: str = "I lost my keys on the bus.") -> list[Message]:
    return [Message(role="user", content=text)]


def together(model, dialogues, decodings):
    async def calls():
        work = (model(d, c, "local") for d, c in zip(dialogues, decodings, strict=True))
        return await asyncio.gather(*work)

    return wait(calls())


def test_a_folder_answers_in_its_chat_format(model):
    done = complete(model, said(), Decoding(max_tokens=24), "local-first")
    assert done.text and "<|" not in done.text
    assert (done.model, done.structured) == (model.spec, False)
    assert done.prompt_tokens > 5 and 0 < done.completion_tokens <= 24
    assert LEDGER.entries()[(model.spec, "local-first")].calls == 1


def test_calls_under_way_at_once_are_one_batch_and_each_keeps_its_own_answer(model, monkeypatch):
    dialogues = [said(f"My {thing} broke and I am sad.") for thing in ("cup", "car", "old chair")]
    decodings = [WARM, Decoding(max_tokens=3), WARM.model_copy(update={"seed": 6})]
    alone = [complete(model, d, c).text for d, c in zip(dialogues, decodings, strict=True)]
    sizes = []
    work = model._batcher._work
    monkeypatch.setattr(model._batcher, "_work", lambda qs: [sizes.append(len(qs)), work(qs)][1])
    assert [c.text for c in together(model, dialogues, decodings)] == alone
    assert sizes == [3]


def test_a_seed_repeats_its_answer_and_seeds_differ(model):
    seeds = [1, 2, 3, 4, 1, 2, 3, 4]
    decodings = [WARM.model_copy(update={"seed": s}) for s in seeds]
    texts = [c.text for c in together(model, [said()] * 8, decodings)]
    assert texts[:4] == texts[4:]
    assert len(set(texts)) > 1


def test_a_narrow_nucleus_is_the_likeliest_token(model):
    greedy = complete(model, said(), Decoding(max_tokens=12)).text
    narrow = WARM.model_copy(update={"top_p": 1e-9})
    assert complete(model, said(), narrow).text == greedy


def test_an_answer_ends_at_its_limit_and_at_a_stop_text(model):
    short = complete(model, said(), Decoding(max_tokens=2))
    assert (short.finish, short.completion_tokens) == ("length", 2)
    whole = complete(model, said(), Decoding(max_tokens=24)).text
    word = whole.split()[2]
    cut = complete(model, said(), Decoding(max_tokens=24, stop=("@@", word)))
    assert cut.finish == "stop"
    assert cut.text == whole[: whole.index(word)].strip()


def test_logprobs_are_the_models_own_and_ranked(model):
    done = complete(model, said(), Decoding(max_tokens=5, top_logprobs=3))
    assert len(done.logprobs) == done.completion_tokens
    for step in done.logprobs:
        assert step.logprob == pytest.approx(max(step.top.values()))
        assert 0 < sum(math.exp(p) for p in step.top.values()) <= 1 + 1e-9


def test_control_tokens_in_a_message_are_only_text(model):
    tokenizer = model._tokenizer
    marks = "".join(tokenizer.all_special_tokens)
    plain, forged = (dialogue_ids(tokenizer, said(t)) for t in ("hi", f"hi {marks}"))
    special = set(tokenizer.all_special_ids)
    assert sum(i in special for i in plain) == sum(i in special for i in forged)


def test_a_dialogue_beyond_the_context_fails_alone(model):
    long = said("word " * 20_000)

    async def calls():
        work = (model(d, Decoding(max_tokens=2)) for d in (long, said()))
        return await asyncio.gather(*work, return_exceptions=True)

    refused, fine = wait(calls())
    assert isinstance(refused, CallFailure) and "tokens" in str(refused)
    assert fine.text


def test_a_refused_question_does_not_spoil_its_batch_and_a_breakdown_ends_the_run():
    from heartloop.errors import EndpointFailure
    from heartloop.llm.base import Completion

    def work(questions):
        if any(q.ids == (0,) for q in questions):
            raise ValueError("zero")
        if any(q.ids == (9,) for q in questions):
            raise RuntimeError("out of memory")
        return [Completion(text=str(q.ids[0]), model="m") for q in questions]

    batcher = Batcher("m-batch", work, 8)

    async def ask(*numbers):
        work = (batcher.ask([n], Decoding(), "batch") for n in numbers)
        return await asyncio.gather(*work, return_exceptions=True)

    one, zero, two = asyncio.run(ask(1, 0, 2))
    assert (one.text, two.text) == ("1", "2")
    assert isinstance(zero, CallFailure) and "zero" in str(zero)
    assert all(isinstance(r, EndpointFailure) for r in asyncio.run(ask(9)))
    usage = LEDGER.entries()[("m-batch", "batch")]
    assert (usage.calls, usage.failures) == (4, 2)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="no language model under"):
        make_model(f"hf:{tmp_path}")
