"""Commands with users and policies behind HTTP: figures, faults, budgets, and no key anywhere."""

import json
import os
import re
import subprocess
import sys

import pytest
from aiohttp import web

from heartloop import cli
from heartloop.env.record import read
from heartloop.env.verify import verify
from heartloop.policy.base import make_policy
from heartloop.policy.evals.evaluate import evaluate, is_errored, summary
from heartloop.policy.serve import brain
from heartloop.policy.serve.app import Served, make_app
from heartloop.simusers.scenario import pack, save
from heartloop.types import StopReason
from tests.faults import FAULTS, FaultServer

CANARY = "canary-7d1f0a6be24c9538"


@pytest.fixture(scope="module")
def url():
    with Served(make_app(["brain", "reflective"])) as server:
        yield server.base_url


@pytest.fixture
def people(tmp_path):
    path = tmp_path / "people.jsonl"
    save(path, pack("test")[:12])
    return str(path)


def said(body):
    """What the scripted brain answers to a request."""
    prompt = "\n".join(message["content"] for message in body["messages"])
    return brain.as_json(brain.answer(brain.read(prompt), body.get("seed", 0)))


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def recorded(capsys, url, people, out, number=3):
    """A file of episodes with a user and a policy behind HTTP."""
    words = ("evaluate", f"openai:reflective@{url}", "--user", f"sage:openai:brain@{url}")
    more = ("--scenarios", people, "--number", number, "--out", out)
    assert run(capsys, *words, *more)[0] == 0
    return out


def test_evaluate_shows_error_bars_shares_tokens_and_cost_and_verify_agrees(
    capsys, url, people, tmp_path
):
    out = tmp_path / "out.jsonl"
    policy, user = f"openai:reflective@{url}", f"sage:openai:brain@{url}?price_in=1&price_out=2"
    code, shown, err = run(
        capsys, "evaluate", policy, "--user", user, "--preset", "sage-eval",
        "--scenarios", people, "--number", 4, "--out", out,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "standard error" in shown
    for word in ("success", "failure", "appraise", "reply", "policy", "tokens in", "cost"):
        assert word in shown
    cost = float(shown.split("total")[1].split()[-1])
    assert cost > 0
    assert [(e.preset, e.policy) for _, e in read(out)] == [("sage-eval", policy)] * 4
    assert run(capsys, "verify", out) == (0, "4 episodes verified\n", "")


def test_evaluate_as_json_books_calls_by_purpose(capsys, url, people):
    code, shown, _ = run(
        capsys, "evaluate", "reflective", "--user", f"sage-single:openai:brain@{url}",
        "--scenarios", people, "--number", 2, "--json",
    )  # fmt: skip
    found = json.loads(shown)
    assert code == 0
    assert found["final"]["n"] == found["episodes"] == 2
    (row,) = [
        r for r in found["usage"]["models"]
        if (r["purpose"], r["model"]) == ("turn", f"openai:brain@{url}")
    ]  # fmt: skip
    assert row["prompt_tokens"] > 100 * row["calls"] > 0


def test_play_shows_a_dialogue_whose_user_is_behind_http(capsys, url, people):
    words = ("play", "reflective", "--user", f"sage:openai:brain@{url}", "--scenarios", people)
    code, shown, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert "judged" in shown
    assert "→" in shown


def test_rescore_with_the_same_user_agrees_and_with_another_differs(capsys, url, people, tmp_path):
    file = recorded(capsys, url, people, tmp_path / "played.jsonl")
    out = tmp_path / "again.jsonl"
    again = ("rescore", file, "--user", f"sage:openai:brain@{url}", "--json", "--out", out)
    code, shown, _ = run(capsys, *again)
    same = json.loads(shown)
    assert (code, same["dialogues"], same["errored"]) == (0, 3, 0)
    assert (same["same_sign"], same["difference"]["mean"]) == (1, 0)
    assert len(out.read_text().splitlines()) == 3
    code, shown, _ = run(capsys, "rescore", file, "--user", "embedded", "--json")
    assert code == 0
    assert json.loads(shown)["difference"]["mean"] != 0


def test_repeatability_scores_the_same_replies_with_several_seeds(capsys, url, people, tmp_path):
    file = recorded(capsys, url, people, tmp_path / "played.jsonl", 2)
    out = tmp_path / "steady.json"
    code, shown, _ = run(
        capsys, "repeatability", file, "--user", f"sage:openai:brain@{url}",
        "--number", 5, "--times", 3, "--out", out,
    )  # fmt: skip
    found = json.loads(shown)
    assert (code, found["contexts"], found["times"], found["errored"]) == (0, 5, 3, 0)
    assert 0 <= found["flip_rate"] <= 1
    assert found["spread"] > 0  # the brain's temper differs from seed to seed
    assert [len(scorings) for scorings in json.loads(out.read_text())["changes"]] == [3] * 5


def test_a_fifth_of_faults_lose_dialogues_and_never_make_a_score(tmp_path):
    out = tmp_path / "out.jsonl"
    with FaultServer(said, rate=0.2, seed=5, stall=2.0) as server:
        model = f"openai:brain@{server.base_url}?retries=1&timeout=1"
        # One dialogue at a time: then the same requests are struck in every run.
        episodes = evaluate(
            make_policy("reflective"), pack("test")[:8],
            user=f"sage-single,retries=0:{model}", out=out, batch=1,
        )  # fmt: skip
        assert sum(server.counts[fault] for fault in FAULTS) > 5
    found, lost = summary(episodes), [e for e in episodes if is_errored(e)]
    assert 0 < len(lost) < len(episodes)
    assert found.errored == found.stops["error"] == len(lost)
    assert found.final is not None
    assert found.final.n == len(episodes) - len(lost)
    assert found.final.mean == pytest.approx(
        sum(e.final for e in episodes if e not in lost) / found.final.n
    )
    assert all(e.stop is StopReason.ERROR and e.error and e.score.value is None for e in lost)
    assert verify(out) == []


def test_the_share_of_lost_dialogues_decides_how_evaluate_ends(capsys, people):
    def evaluated(options, *bound):
        user = f"sage,retries={options[0]}:openai:brain@{server.base_url}?{options[1]}"
        words = ("evaluate", "reflective", "--user", user, "--scenarios", people, "--number", 5)
        return run(capsys, *words, *bound)

    with FaultServer(said, seed=5, stall=2.0) as server:
        careless, careful = ("0", "retries=0&timeout=0.5"), ("2", "retries=4&timeout=0.5")
        assert evaluated(careless)[0] == 0  # the server is well, then falls ill
        server.rate = 0.2
        code, shown, err = evaluated(careless, "--max-errored", "0.1")
        lost = int(err.split()[1])
        assert (code, err) == (1, f"heartloop: {lost} of 5 could not be scored, more than 10%\n")
        assert lost >= 1
        assert evaluated(careless, "--max-errored", "1")[0] == 0
        code, shown, err = evaluated(careful, "--max-errored", "0.5")
        assert (code, err) == (0, "")
        assert "standard error" in shown
        assert int(shown.split("total")[1].split()[2]) > 0  # retries


def command(*words, **environment):
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "import sys; from heartloop.cli import main; sys.exit(main())"]
        + [str(word) for word in words],
        env=os.environ | environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_dead_endpoint_is_given_up_within_its_patience(people, tmp_path):
    with FaultServer(rate=1.0, faults=("stall",), stall=30) as server:
        dead = {"refuses": "http://127.0.0.1:9/v1", "is silent": server.base_url}
        for url in dead.values():
            model = f"openai:brain@{url}?key=MY_KEY&patience=1&timeout=0.4"
            words = ("evaluate", "neutral", "--user", f"sage:{model}", "--scenarios", people)
            done = command(*words, "--out", tmp_path / f"{len(url)}.jsonl")
            assert done.returncode == 1
            assert url in done.stderr
            assert "MY_KEY" in done.stderr
            assert "Traceback" not in done.stderr
            assert re.search(r"nothing usable for \d\.|never given a usable", done.stderr)


def test_a_wrong_user_of_a_model_is_refused_before_anything_is_played(capsys, tmp_path):
    out = tmp_path / "out.jsonl"
    for user in ("sage", "sage:openai:brain", "sage,sample=3:openai:b@http://127.0.0.1:9/v1"):
        code, shown, err = run(capsys, "evaluate", "neutral", "--user", user, "--out", out)
        assert (code, shown) == (2, "")
        assert err.count("\n") == 1
    assert not out.exists()


@pytest.fixture
def leaky(monkeypatch):
    """A server that tells the key it was sent in answers, errors and labels."""
    monkeypatch.setenv("MY_CANARY_KEY", CANARY)

    def answer(body):
        key = server.seen[-1].headers["Authorization"]
        if len(server.seen) % 12 == 1:
            return web.json_response({"error": f"bad day for {key}"}, status=500)
        if len(server.seen) % 12 == 7:
            return web.Response(text=f"<html>{key}</html>", status=200)
        return f"I hear you, {key}." if body["model"] == "policy" else leaked(said(body), key)

    with FaultServer(answer) as server:
        yield server


def leaked(answer, key):
    row = json.loads(answer)
    return json.dumps({name: f"{v} {key}" if isinstance(v, str) else v for name, v in row.items()})


def test_the_key_is_in_no_file_and_no_output(capsys, caplog, leaky, people, tmp_path):
    caplog.set_level("DEBUG")
    options = "key=MY_CANARY_KEY&retries=3"
    policy = f"openai:policy@{leaky.base_url}?{options}"
    user = f"sage:openai:brain@{leaky.base_url}?{options}&cache={tmp_path}/cache"
    who, file = ("--user", user, "--scenarios", people), tmp_path / "out.jsonl"
    shown = [
        run(capsys, "play", policy, *who, "--out", tmp_path / "one.jsonl"),
        run(capsys, "evaluate", policy, *who, "--number", 2, "--max-errored", 1, "--out", file),
        run(capsys, "evaluate", policy, *who, "--number", 1, "--max-errored", 1, "--json"),
        run(capsys, "repeatability", file, "--user", user, "--number", 2, "--times", 2,
            "--out", tmp_path / "steady.json"),
        run(capsys, "rescore", file, "--user", user, "--out", tmp_path / "again.jsonl"),
    ]  # fmt: skip
    assert CANARY in str(leaky.seen[-1].headers)  # it was sent
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"one.jsonl", "out.jsonl", "steady.json"} <= {path.name for path in files}
    assert any(b"[key]" in path.read_bytes() for path in files)  # and it came back
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert CANARY not in str(shown) + caplog.text


def test_the_key_is_in_no_error_that_ends_a_run(leaky, people, tmp_path):
    leaky.answer = lambda body: web.json_response(
        {"error": f"unknown key {leaky.seen[-1].headers['Authorization']}"}, status=401
    )
    user = f"sage:openai:brain@{leaky.base_url}?key=MY_CANARY_KEY"
    done = command(
        "evaluate", "neutral", "--user", user, "--scenarios", people,
        MY_CANARY_KEY=CANARY, PYTHONASYNCIODEBUG="1",
    )  # fmt: skip
    assert done.returncode == 1
    assert "401" in done.stderr
    assert "MY_CANARY_KEY" in done.stderr
    assert CANARY not in done.stdout + done.stderr
    with pytest.raises(Exception, match="MY_CANARY_KEY") as caught:
        evaluate(make_policy("neutral"), pack("test")[:1], user=user)
    assert CANARY not in repr(caught.getrepr(showlocals=False)) + repr(caught.value.__context__)
