"""Checks of the cache of answers."""

import asyncio
import threading

import pytest

from heartloop.errors import CallFailure, InvalidInput, OutputRefused
from heartloop.llm import LEDGER, Decoding, ScriptedModel, complete, make_model
from heartloop.llm.base import StreamingModel, pieces, wait
from heartloop.llm.cache import CachedModel, cached
from heartloop.llm.ledger import Usage, bare
from heartloop.types import Message
from tests.faults import FaultServer, gone

ASKED = [Message(role="user", content="How are you?")]
COLD = Decoding(json_schema={"type": "object"})


def counted(*answers: str) -> ScriptedModel:
    return ScriptedModel(list(answers))


def test_a_hit_does_not_call_and_is_booked_as_cached(tmp_path):
    model = CachedModel(counted("only once"), tmp_path)
    first = complete(model, ASKED, COLD, "cache-test")
    second = complete(CachedModel(counted(), tmp_path), ASKED, COLD, "cache-test")
    assert (first.cached, second.cached) == (False, True)
    assert second == first.model_copy(update={"cached": True})
    booked = LEDGER.entries()[("scripted", "cache-test")]
    assert (booked.calls, booked.cached, booked.failures) == (2, 1, 0)
    assert isinstance(booked, Usage)


def test_another_question_is_another_entry(tmp_path):
    model = CachedModel(counted(*"abcdefg"), tmp_path)
    decodings = [
        COLD,
        Decoding(),
        Decoding(seed=1),
        Decoding(seed=2),
        Decoding(temperature=0.5, seed=1),
        Decoding(max_tokens=7),
    ]
    texts = [complete(model, ASKED, d).text for d in decodings]
    assert texts == list("abcdef")
    assert complete(model, [*ASKED, *ASKED], COLD).text == "g"
    assert [complete(model, ASKED, d).text for d in decodings] == texts
    files = [p.relative_to(tmp_path).parts for p in tmp_path.rglob("*.json")]
    assert len(files) == 7
    assert all(name.startswith(a + b) for a, b, name in files)


def test_random_answers_without_a_seed_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="no seed"):
        complete(CachedModel(counted("x"), tmp_path), ASKED, Decoding(temperature=0.7))


@pytest.mark.parametrize("damage", [b"", b"{", b'{"text": 3}', b"\xff"])
def test_an_unreadable_entry_is_a_miss_and_is_mended(tmp_path, damage):
    model = CachedModel(counted("old", "new"), tmp_path)
    complete(model, ASKED, COLD)
    (entry,) = tmp_path.rglob("*.json")
    entry.write_bytes(damage)
    assert complete(model, ASKED, COLD).text == "new"
    assert complete(model, ASKED, COLD).cached


def test_failures_are_not_kept(tmp_path):
    def answer(messages, decoding):
        if not list(tmp_path.glob("ready")):
            raise CallFailure("not yet")
        return "now"

    model = CachedModel(ScriptedModel(answer), tmp_path)
    with pytest.raises(CallFailure):
        complete(model, ASKED, COLD)
    (tmp_path / "ready").touch()
    assert complete(model, ASKED, COLD).text == "now"


def test_writers_of_one_entry_leave_one_whole_file(tmp_path):
    models = [CachedModel(ScriptedModel([f"{n}" * 5000], 0.01), tmp_path) for n in range(20)]

    async def many():
        return await asyncio.gather(*(m(ASKED, COLD) for m in models))

    texts = {c.text for c in asyncio.run(many())}
    assert complete(models[0], ASKED, COLD).text in texts
    assert [p.suffix for p in tmp_path.rglob("*.*")] == [".json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputRefused, match=r"cannot write the cache .*file"):
        complete(CachedModel(counted("x"), tmp_path / "file"), ASKED, COLD)


def kept_by(server, folder, **options):
    query = "&".join(f"{k}={v}" for k, v in {"cache": folder, **options}.items())
    return make_model(f"openai:toy@{server.base_url}?{query}")


def streamed(model, decoding=COLD, purpose=""):
    return pieces(model.stream(ASKED, decoding, purpose))


def test_a_new_answer_is_streamed_and_kept_whole_and_a_kept_one_comes_at_once(tmp_path):
    more = threading.Event()
    with FaultServer(gate=more) as server:
        model = kept_by(server, tmp_path)
        first = streamed(model, Decoding(), "kept stream")
        assert next(first) == "How" and list(tmp_path.rglob("*.json")) == []
        more.set()
        assert list(first) == [" are", " you?"]
        assert list(streamed(model, Decoding(), "kept stream")) == ["How are you?"]
        called = complete(model, ASKED, Decoding())
        assert len(server.seen) == 1
    assert (called.text, called.model, called.finish, called.cached) == (
        "How are you?", "toy", "stop", True,
    )  # fmt: skip
    assert (called.prompt_tokens, called.completion_tokens) == (3, 3) and called.request_id
    booked = LEDGER.entries()[(bare(model.spec), "kept stream")]
    assert (booked.calls, booked.cached, booked.completion_tokens) == (2, 1, 3)


def test_an_answer_of_a_call_is_streamed_from_the_cache_at_once(tmp_path):
    with FaultServer() as server:
        model = kept_by(server, tmp_path)
        complete(model, ASKED, Decoding())
        assert list(streamed(model, Decoding())) == ["How are you?"] and len(server.seen) == 1


def test_a_stream_is_no_answer_to_a_question_that_asks_for_a_form(tmp_path):
    with FaultServer() as server:
        model = kept_by(server, tmp_path)
        list(streamed(model, COLD))
        assert not complete(model, ASKED, COLD).cached
        assert not complete(model, ASKED, Decoding(top_logprobs=2)).cached
        assert complete(model, ASKED, Decoding()).cached
    assert [bool(s.body.get("response_format")) for s in server.seen] == [False, True, False]


def test_a_stream_that_breaks_off_is_not_kept(tmp_path):
    with FaultServer(rate=1.0, faults=("cut",)) as server:
        model = kept_by(server, tmp_path)
        with pytest.raises(CallFailure, match="broke off"):
            list(streamed(model))
        server.rate = 0.0
        assert "".join(streamed(model)) == "How are you?" and len(server.seen) == 2


def test_a_stream_that_the_caller_leaves_is_not_kept_and_hangs_up(tmp_path):
    with FaultServer(pause=60) as server:
        given = streamed(kept_by(server, tmp_path))
        assert next(given) == "How"
        given.close()
        gone(server)
    assert list(tmp_path.rglob("*.*")) == []


def test_random_streams_without_a_seed_are_refused_and_a_bad_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with FaultServer() as server:
        model = kept_by(server, tmp_path / "file")
        with pytest.raises(InvalidInput, match="no seed"):
            next(streamed(model, Decoding(temperature=0.7)))
        assert server.seen == []
        given = streamed(model)
        assert [next(given) for _ in range(3)] == ["How", " are", " you?"]
        with pytest.raises(OutputRefused, match=r"cannot write the cache .*file"):
            next(given)


def test_whoever_streams_may_have_the_whole_answer_as_well(tmp_path):
    ended = []

    async def all_of_it(model):
        return [piece async for piece in model.stream(ASKED, COLD, "", ended.append)]

    with FaultServer() as server:
        model = kept_by(server, tmp_path)
        assert "".join(wait(all_of_it(model))) == "".join(wait(all_of_it(model)))
    assert [done.text for done in ended] == ["How are you?"] * 2
    assert [done.cached for done in ended] == [False, True]


def test_only_a_model_that_streams_is_streamed_through_the_cache(tmp_path):
    assert not isinstance(cached(counted("x"), tmp_path), StreamingModel)
    with FaultServer() as server:
        assert isinstance(kept_by(server, tmp_path), StreamingModel)
