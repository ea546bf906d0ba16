import json

from heartloop.chat.drafts import Draft
from heartloop.chat.entries import Entry
from heartloop.chat.export import export
from heartloop.chat.session import Session
from heartloop.chat.store import Store
from heartloop.chat.widgets import tried
from heartloop.errors import EpisodeFailure
from heartloop.policy.loops import Budget, bank, make_loop
from heartloop.policy.loops.presets import HEART
from heartloop.types import Score
from tests.chat.parts import cast, session, talk
from tests.fakes import ToyPolicy

CUES = [cue.text for cue in bank().cues(*HEART)]


class Judge:
    """Likes later drafts better, and cannot score the second."""

    name = "toy judge"
    kind = "proxy"
    passes = None

    def __call__(self, prompt, reply):
        number = int(reply.text.split()[-1])
        return Score(value=None if number == 2 else number / 10, why="")


class Counting(ToyPolicy):
    """Reports a token for each word."""

    def __call__(self, prompts):
        replies = super().__call__(prompts)
        return [r.model_copy(update={"tokens": len(r.text.split())}) for r in replies]


def loop(answer=None, **fields):
    """HEART around a policy that counts its drafts."""
    drawn = iter(range(1, 100))
    policy = Counting(answer or (lambda prompt: f"Draft {next(drawn)}"))
    return make_loop("heart", policy, budget=Budget(samples=3), dialogue=True, **fields)


def test_what_a_loop_tried_is_kept_with_its_reply_and_comes_back(tmp_path):
    store = Store(tmp_path)
    one = session("talk", "l", store=store, players={"l": loop(judge=Judge())})
    talk(one, "I am sad")
    found = one.path[-1].drafts
    assert one.path[-1].text == "Draft 3" and found.about == "draft 3 of 3"
    assert [draft.value for draft in found.drafts] == [0.1, None, 0.3]
    assert [draft.text for draft in found.drafts] == ["Draft 1", "Draft 2", "Draft 3"]
    assert found.drafts[0].emotion == "" and found.drafts[1].emotion in HEART
    assert (found.judge, found.samples, found.tokens) == ("toy judge", 3, 6)
    assert Session.reopen(store, 1, cast(), "us").path == one.path
    store.close()


def test_what_is_said_to_the_policy_in_private_is_nowhere_kept_and_drafts_are_no_messages(tmp_path):
    store = Store(tmp_path)
    leaking = loop(lambda prompt: f"I was told: {prompt.history[-1].content}")
    one = session("talk", "l", store=store, players={"l": leaking})
    talk(one, "I am sad")
    thrown = [draft for draft in one.path[-1].drafts.drafts if draft.text is None]
    assert len(thrown) == 2 and all(d.error == "the cue leaked into the reply" for d in thrown)
    kept = "".join(entry.model_dump_json() for entry in store.entries(1))
    seen = tried(one.path[-1]).plain
    assert not [cue for cue in CUES if cue in kept or cue in seen]
    two = talk(session("talk", "l", store=store, players={"l": loop()}), "I am sad")
    for form in ("md", "jsonl"):
        text = export(two, form, tmp_path / f"t.{form}").read_text("utf-8")
        assert "Draft 3" in text and "Draft 1" not in text
    assert store.search("Draft 1") == []
    store.close()


def test_a_loop_that_has_no_reply_says_so():
    class Silent(ToyPolicy):
        def __call__(self, prompts):
            return [EpisodeFailure("the line is dead") for _ in prompts]

    one = session("talk", "l", players={"l": make_loop("heart", Silent())})
    one.say("Hi")
    list(one.answer())
    assert one.path[-1].role == "notice" and "the line is dead" in one.path[-1].text


def test_the_panel_shows_every_draft_as_text():
    one = talk(session("talk", "l", players={"l": loop(judge=Judge())}), "I am sad")
    text = tried(one.path[-1]).plain
    parts = ["heart around toy-policy", "chosen by best_reward", "estimates by toy judge"]
    parts += ["3 calls, 6 tokens, ", "1 · 0.10", "0.30 · said", "Draft 2"]
    assert [part for part in parts if part not in text] == []
    assert "No loop ran" in tried(None).plain
    silent = one.path[-1].drafts.model_copy(update={"tokens": None})
    assert "tokens" not in tried(one.path[-1].model_copy(update={"drafts": silent})).plain
    evil = one.path[-1].drafts.model_copy(update={"drafts": (Draft(text="\x1b]0;x\x07[red]"),)})
    shown = tried(one.path[-1].model_copy(update={"drafts": evil})).plain
    assert "\x1b" not in shown and "[red]" in shown


def test_sessions_kept_before_there_were_drafts_still_open():
    row = {"id": 1, "parent": None, "role": "user", "author": "you", "text": "Hi"}
    assert Entry.model_validate_json(json.dumps(row)).drafts is None


def test_sessions_kept_before_tokens_were_counted_still_open():
    run = {"loop": "heart", "policy": "p", "samples": 3, "words": 6}
    row = {"id": 1, "parent": None, "role": "assistant", "author": "p", "text": "Hi", "drafts": run}
    found = Entry.model_validate_json(json.dumps(row)).drafts
    assert (found.samples, found.tokens) == (3, None)
