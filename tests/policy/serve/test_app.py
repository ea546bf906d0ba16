"""Checks of the endpoint over real HTTP on a loopback port."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from heartloop.env.play import Dialogue, Prompt
from heartloop.errors import EpisodeFailure, InvalidInput, UnknownName
from heartloop.policy.base import make_policy
from heartloop.policy.model import Sampling
from heartloop.policy.serve.app import LARGEST, Served, make_app, serve
from heartloop.simusers import dynamics
from heartloop.simusers.embedded import EmbeddedUser
from heartloop.simusers.scenario import pack
from heartloop.types import Message, Reply
from tests.fakes import ToyPolicy
from tests.policy.seedling.tiny import tiny
from tests.policy.serve.test_brain import SAID, TAKES_UP, prompt

ROOT = Path(__file__).resolve().parents[3]
SCENARIO = pack("test")[3]
EMBEDDED = f"embedded:{SCENARIO.id}"
REPLIES = (
    "That sounds heavy. What happened then?",
    "You should just forget about it.",
    "<think>be kind</think>I hear how tired you are, and it makes sense.",
)
Body = dict[str, Any]


def answer(prompt: Prompt) -> str:
    if prompt.history[-1].content == "break":
        raise RuntimeError("secret detail")
    return f"<think>{len(prompt.history)}</think>Seed {prompt.seed % 1000} heard STOP this."


class Failing(ToyPolicy):
    """Gives a failure instead of a reply."""

    def __call__(self, prompts: Any) -> Any:
        return [EpisodeFailure("no answer came") for _ in prompts]


TOY = ToyPolicy(answer)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    models = ["embedded", "brain", "reflective", TOY, Failing(name="failing")]
    with Served(make_app(models, reveal=True)) as running:
        yield running


async def call(url: str, body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session:
        return await send(session, url, body)


async def send(session: aiohttp.ClientSession, url: str, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with session.post(f"{url}/chat/completions", data=data) as response:
        return response.status, await response.json()


def post(server: Served, body: Any) -> tuple[int, Body]:
    return asyncio.run(call(server.base_url, body))


def ask(server: Served, model: str, *texts: str, **fields: Any) -> Body:
    """The body of an answer; texts are alternately the user's and the assistant's."""
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    status, body = post(server, {"model": model, "messages": messages, **fields})
    assert status == 200, body
    return body


def text_of(body: Body, index: int = 0) -> str:
    content: str = body["choices"][index]["message"]["content"]
    return content


def get(server: Served, path: str) -> tuple[int, Body]:
    async def work() -> tuple[int, Body]:
        url = server.base_url.removesuffix("/v1") + path
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.json()

    return asyncio.run(work())


def test_the_endpoint_says_that_it_is_well_and_what_it_offers(server):
    assert get(server, "/health") == (200, {"status": "ok"})
    status, body = get(server, "/v1/models")
    assert status == 200
    listed = [row["id"] for row in body["data"]]
    assert listed == ["embedded", "brain", "reflective", "toy-policy", "failing"]
    assert body["object"] == "list"


@pytest.mark.parametrize("seed", [0, 11])
@pytest.mark.parametrize("opener_recorded", [True, False])
def test_a_replayed_dialogue_equals_the_direct_one_turn_by_turn(server, seed, opener_recorded):
    dialogue = Dialogue(EmbeddedUser(dynamics.preset("default")), SCENARIO, seed)
    opening = ask(server, EMBEDDED, seed=seed)
    assert text_of(opening) == SCENARIO.opener
    messages = [{"role": "system", "content": "ignored"}]
    if opener_recorded:
        messages.append({"role": "assistant", "content": text_of(opening)})
    for number, raw in enumerate(REPLIES, 1):
        turn = dialogue.step(Reply.parse(raw))
        messages.append({"role": "user", "content": raw})
        status, body = post(server, {"model": EMBEDDED, "messages": messages, "seed": seed})
        assert status == 200, body
        assert text_of(body) == turn.reaction.text
        told = body["heartloop"]
        assert told == {
            "emotion": turn.reaction.emotion,
            "change": turn.reaction.change,
            "farewell": turn.reaction.farewell,
            "stop": None,
            "turn": number,
            "user": dialogue.user.id,
            "preset": "default",
            "scenario": SCENARIO.id,
            "seed": seed,
            "appraisal": turn.reaction.appraisal.model_dump(),
        }
        messages.append({"role": "assistant", "content": text_of(body)})


def test_the_seed_chooses_the_scenario_where_none_is_named(server):
    openers = [text_of(ask(server, "embedded", seed=seed)) for seed in (0, 7)]
    assert openers == [pack("train")[0].opener, pack("train")[7].opener]
    assert text_of(ask(server, "embedded")) == openers[0]


def said(*rows: tuple[str, str], model: str = EMBEDDED, **fields: Any) -> Body:
    return {"model": model, "messages": [{"role": r, "content": t} for r, t in rows], **fields}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{broken", 400, "the body: Invalid JSON"),
        (b"\xff\xfe", 400, "the body"),
        (b"[" * 100_000, 400, "the body"),
        ([], 400, "the body"),
        ({"messages": []}, 400, "model: Field required"),
        ({"model": "brain"}, 400, "messages: Field required"),
        (said(("tool", "x")), 400, "messages.0.role"),
        (said(("user", "x"), n=0), 400, "n: .* greater than or equal to 1, got 0"),
        (said(("user", "x"), max_tokens=0), 400, "max_tokens: .* greater"),
        (said(("user", "x"), temperature=-1), 400, "temperature"),
        (said(("user", "x"), model="brian"), 404, "no model called 'brian'; did you mean 'brain'"),
        (said(("user", "x"), model="embedded:x"), 404, "no scenario called 'x'"),
        (said(("user", "x"), model="brain"), 400, "a line <call>"),
        (said(model="reflective"), 400, "of role 'user' at the end, got 'no message'"),
        (said(("assistant", "x"), model="reflective"), 400, "at the end, got 'assistant'"),
        (said(("assistant", "I never said this")), 400, "message 0 to be .*, got 'I never"),
        (said(("user", "a"), ("user", "b")), 400, "of role 'assistant' next, got 'user'"),
        (said(("user", "break"), model="toy-policy"), 500, "its log says why"),
        (said(("user", "x"), model="failing"), 500, "EpisodeFailure: no answer came"),
        (b" " * (LARGEST + 1), 413, "at most"),
    ],
)
def test_a_wrong_request_gets_an_error_body_that_says_what_was_expected(
    server, body, status, reason
):
    got, answer = post(server, body)
    assert got == status, answer
    error = answer["error"]
    assert re.search(reason, error["message"]), error
    assert error["type"] == ("server_error" if status == 500 else "invalid_request_error")
    assert error["code"]
    assert "secret" not in error["message"]


def test_an_unknown_path_gets_an_error_body(server):
    status, body = get(server, "/v1/nothing")
    assert status == 404
    assert "GET /v1/nothing" in body["error"]["message"]
    assert get(server, "/v1/chat/completions")[0] == 405


def test_a_record_of_another_seed_is_refused(server):
    first = ask(server, EMBEDDED, REPLIES[0], seed=1)
    other = next(
        seed
        for seed in range(2, 50)
        if text_of(ask(server, EMBEDDED, REPLIES[0], seed=seed)) != text_of(first)
    )
    rows = [("user", REPLIES[0]), ("assistant", text_of(first)), ("user", REPLIES[1])]
    assert post(server, said(*rows, seed=1))[0] == 200
    status, body = post(server, said(*rows, seed=other))
    assert status == 400
    assert "message 1 to be" in body["error"]["message"]


def test_nothing_is_said_behind_the_end_of_a_dialogue(server):
    texts: list[str] = []
    for _ in range(9):
        body = ask(server, EMBEDDED, *texts, "")
        texts += ["", text_of(body)]
        if body["heartloop"]["stop"]:
            break
    assert body["heartloop"]["stop"] == "failure"
    assert body["heartloop"]["farewell"] is True
    rows = [(r, t) for r, t in zip(["user", "assistant"] * 9, [*texts, "Wait!"], strict=False)]
    status, refused = post(server, said(*rows))
    assert status == 400
    assert "ended after turn" in refused["error"]["message"]


def test_without_reveal_no_appraisal_is_told_and_presets_rule():
    with Served(make_app([EMBEDDED], preset="sage-eval")) as server:
        texts: list[str] = []
        replies = make_policy("reflective")
        history = [Message(role="user", content=SCENARIO.opener)]
        stop = None
        while stop is None:
            reply = replies([Prompt(tuple(history), len(texts))])[0].text
            body = ask(server, EMBEDDED, *texts, reply)
            assert "appraisal" not in body["heartloop"]
            texts += [reply, text_of(body)]
            history += [
                Message(role="assistant", content=reply),
                Message(role="user", content=text_of(body)),
            ]
            stop = body["heartloop"]["stop"]
        assert body["heartloop"]["preset"] == "sage-eval"
        if stop == "turn_limit":
            assert (text_of(body), body["heartloop"]["change"]) == ("", None)
        assert post(server, said(model="embedded"))[0] == 404


def test_think_blocks_are_kept_apart_and_stops_cut(server):
    body = ask(server, "toy-policy", "Hello", seed=5, stop=["STOP"])
    message = body["choices"][0]["message"]
    assert message["reasoning_content"] == "1"
    assert message["content"] == "Seed 5 heard "
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == 1
    assert body["usage"]["total_tokens"] == 1 + body["usage"]["completion_tokens"]


def test_n_choices_are_drawn_with_seeds_that_follow_on(server):
    body = ask(server, "toy-policy", "Hello", seed=5, n=3, mood="unknown field", top_k=None)
    assert [c["message"]["content"][:6] for c in body["choices"]] == ["Seed 5", "Seed 6", "Seed 7"]
    assert [c["index"] for c in body["choices"]] == [0, 1, 2]
    again = ask(server, "toy-policy", "Hello", seed=5, n=3)
    assert again["choices"] == body["choices"]


def test_without_a_seed_one_is_drawn_and_told(server):
    first, second = (ask(server, "toy-policy", "Hello") for _ in range(2))
    assert first["heartloop"]["seed"] != second["heartloop"]["seed"]
    repeated = ask(server, "toy-policy", "Hello", seed=first["heartloop"]["seed"])
    assert repeated["choices"] == first["choices"]


def test_a_policy_answers_as_it_does_directly(server):
    history = (Message(role="user", content="My sister is not talking to me."),)
    direct = make_policy("reflective")([Prompt(history, 9)])[0].text
    parts = [{"type": "text", "text": history[0].content}]
    body = {"model": "reflective", "messages": [{"role": "user", "content": parts}], "seed": 9}
    assert text_of(post(server, body)[1]) == direct


async def streamed(url: str, body: Body) -> list[str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/chat/completions", json=body) as response,
    ):
        assert response.content_type == "text/event-stream"
        lines = (await response.text()).split("\n\n")
    assert lines.pop() == ""
    return [line.removeprefix("data: ") for line in lines]


@pytest.mark.parametrize(
    "body",
    [
        said(("user", "Hello"), model="toy-policy", seed=4, n=2),
        said(("user", REPLIES[0]), seed=3),
        said(("user", prompt("reply", "zh", 50)), model="brain"),
    ],
)
def test_a_stream_says_the_same_as_one_body(server, body):
    whole = post(server, body)[1]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, done = asyncio.run(streamed(server.base_url, body | options))
    assert done == "[DONE]"
    events = [json.loads(chunk) for chunk in chunks]
    assert len({event["id"] for event in events}) == 1
    assert events.pop()["usage"] == whole["usage"]
    texts: dict[int, dict[str, str]] = {}
    for event in events:
        (choice,) = event["choices"]
        for name, piece in choice["delta"].items():
            row = texts.setdefault(choice["index"], {})
            row[name] = row.get(name, "") + piece
        if choice["finish_reason"]:
            assert event["heartloop"] == whole["heartloop"]
    assert list(texts.values()) == [choice["message"] for choice in whole["choices"]]
    assert len(events) > 5


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_brain_answers_in_the_form_asked_for(server, language):
    rows = [("user", SAID[language]), ("partner", TAKES_UP[language])]
    text = prompt("appraise", language, 45, rows, TAKES_UP[language])
    fields = {"content": {}, "change": {}}
    schema = {"name": "appraisal", "schema": {"type": "object", "properties": fields}}
    form = {"type": "json_schema", "json_schema": schema}
    row = json.loads(text_of(ask(server, "brain", text, seed=2, response_format=form)))
    assert list(row) == ["content", "change"]
    lines = text_of(ask(server, "brain", text, seed=2)).split("\n")
    labels = ["Content", "Completion", "Activity", "Analysis", "Change"]
    assert [line.split(":")[0] for line in lines] == labels
    assert lines[0] == f"Content: {row['content']}"
    assert lines[-1] == f"Change: {row['change']}"
    several = ask(server, "brain", text, seed=2, n=6)
    assert text_of(several) == "\n".join(lines)
    assert len({text_of(several, i) for i in range(6)}) > 1
    whole = json.loads(text_of(ask(server, "brain", text, response_format={"type": "json_object"})))
    assert list(whole) == [label.lower() for label in labels]


def test_calls_that_arrive_together_are_answered_together(server):
    TOY.batches.clear()

    async def all_of() -> list[tuple[int, Any]]:
        async with aiohttp.ClientSession() as session:
            bodies = [said(("user", "Hi"), model="toy-policy", seed=s) for s in range(64)]
            bodies += [said(("user", REPLIES[0]), seed=s) for s in range(64)]
            calls: list[Awaitable[tuple[int, Any]]] = [
                send(session, server.base_url, body) for body in bodies
            ]
            return list(await asyncio.gather(*calls))

    answers = asyncio.run(all_of())
    assert {status for status, _ in answers} == {200}
    assert [text_of(body)[:12].split(" h")[0] for _, body in answers[:64]] == [
        f"Seed {seed}" for seed in range(64)
    ]
    assert sum(TOY.batches) == 64
    assert len(TOY.batches) <= 32, TOY.batches
    assert len({text_of(body) for _, body in answers[64:]}) > 1


def test_a_language_model_is_served_with_its_own_sampling_and_counts(tmp_path):
    pytest.importorskip("torch")
    spec = f"hf:{tiny(tmp_path)}"
    policy = make_policy(spec, Sampling(max_new_tokens=7))
    with Served(make_app([policy])) as server:
        history = (Message(role="user", content="I cannot sleep."),)
        direct = policy([Prompt(history, 3)])[0].text
        body = ask(server, spec, "I cannot sleep.", seed=3)
        assert text_of(body) == direct
        assert body["usage"]["prompt_tokens"] == len(policy.model.start(history))
        assert body["usage"]["completion_tokens"] <= 7
        short = ask(server, spec, "I cannot sleep.", seed=3, max_tokens=2, n=8)
        assert short["usage"]["completion_tokens"] <= 16
        assert "length" in {choice["finish_reason"] for choice in short["choices"]}
        cold = ask(server, spec, "I cannot sleep.", n=4, temperature=0)
        assert len({text_of(cold, i) for i in range(4)}) == 1
        limit = policy.model.model.config.max_position_embeddings
        status, refused = post(server, said(("user", "sleep " * limit), model=spec))
        assert status == 400
        assert refused["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("make", "error", "reason"),
    [
        (lambda: make_app([]), InvalidInput, "at least one model"),
        (lambda: make_app(["brain", "brain"]), InvalidInput, "'brain' twice"),
        (lambda: make_app(["orackle"]), UnknownName, "did you mean 'oracle'"),
        (lambda: make_app(["oracle"]), InvalidInput, "needs the scenario"),
        (lambda: make_app(["embedded:nobody"]), UnknownName, "no scenario called 'nobody'"),
        (lambda: make_app(["embedded"], preset="defualt"), UnknownName, "'default'"),
        (lambda: serve(["brain"], host="0.0.0.0"), InvalidInput, "loopback host, got '0.0.0.0'"),
        (lambda: serve(["brain"], host="example.org"), InvalidInput, "loopback host"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(
    make: Callable[[], object], error: type[Exception], reason: str
):
    with pytest.raises(error, match=reason):
        make()


def test_answers_under_way_are_finished_when_the_server_stops():
    started = threading.Event()

    def slowly(prompt: Prompt) -> str:
        started.set()
        time.sleep(0.5)
        return "Here I am."

    with Served(make_app([ToyPolicy(slowly)])) as server:
        url, answers = server.base_url, []
        body = said(("user", "Hi"), model="toy-policy")
        client = threading.Thread(target=lambda: answers.append(asyncio.run(call(url, body))))
        client.start()
        assert started.wait(30)
    client.join(30)
    assert text_of(answers[0][1]) == "Here I am."
    with pytest.raises(aiohttp.ClientConnectionError):
        asyncio.run(call(url, body))


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_cleanly(kind):
    code = "from heartloop.policy.serve.app import serve; serve(['embedded', 'brain'], port=0)"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "http://127.0.0.1:" in line, line
    port = int(line.split("127.0.0.1:")[1].split()[0].strip("/"))
    status, _ = asyncio.run(call(f"http://127.0.0.1:{port}/v1", said(model="embedded")))
    assert status == 200
    process.send_signal(kind)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_a_taken_port_is_named():
    with Served(make_app(["brain"])) as server:
        port = int(server.base_url.split(":")[2].split("/")[0])
        with pytest.raises(InvalidInput, match=f"cannot serve on 127.0.0.1:{port}"):
            serve(["brain"], port=port)
