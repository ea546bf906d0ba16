import json
import stat

import pytest

from heartloop.chat.export import export, quote
from heartloop.env.record import read
from heartloop.env.verify import check
from heartloop.errors import InvalidInput, OutputRefused, UnknownName
from heartloop.policy.base import SEEDLING
from heartloop.policy.train import sft
from heartloop.simusers.scenario import pack
from tests.chat.parts import go_on, session, talk
from tests.fakes import ToyPolicy

PERSON = pack("test")[0]


def test_a_scored_dialogue_becomes_an_episode_that_verifies(tmp_path):
    one = go_on(session("help", user="embedded", scenario=PERSON))
    talk(one, "That sounds hard. What happened then?")
    path = export(one, "jsonl", tmp_path / "e.jsonl")
    ((line, episode),) = read(path)
    assert episode.policy == "you" and episode.score.value == episode.final / 100
    assert not list(check(episode, line))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_trainer_learns_from_an_exported_dialogue(tmp_path):
    pytest.importorskip("torch", reason="needs the train extra")
    from heartloop.policy.model import LanguageModel

    one = go_on(session("help", user="embedded", scenario=PERSON))
    mine = ("That sounds hard. What happened then?", "I am glad that you told me.")
    talk(one, *mine)
    path = export(one, "jsonl", tmp_path / "e.jsonl")
    (chosen,) = sft.select([episode for _, episode in read(path)], 0.0, 1)
    speaker = LanguageModel.load(str(SEEDLING))
    row = sft.tokens(speaker, chosen)
    learned = [label for label in row["labels"] if label != sft.IGNORED]
    assert speaker.tokenizer.decode(learned, skip_special_tokens=True).split() == (
        " ".join(mine).split()
    )


def test_a_talk_becomes_a_line_of_messages(tmp_path):
    one = talk(session("talk", "toy"), "Are you a bot?", "再见")
    row = json.loads(export(one, "jsonl", tmp_path / "t.jsonl").read_text("utf-8"))
    assert [m["role"] for m in row["messages"]] == ["user", "assistant"] * 2
    assert row["messages"][2]["content"] == "再见"


def test_a_talk_is_chat_data_that_a_trainer_of_chat_models_takes(tmp_path):
    data = pytest.importorskip("trl.data_utils", reason="needs the train extra")
    transformers = pytest.importorskip("transformers")
    draws = ToyPolicy(lambda prompt: f"draw {prompt.seed}")
    one = talk(session("talk", "p", players={"p": draws}), "I lost my keys", "And my way")
    row = json.loads(export(one, "jsonl", tmp_path / "t.jsonl").read_text("utf-8"))
    assert data.is_conversational(row)
    tokenizer = transformers.AutoTokenizer.from_pretrained(SEEDLING)
    text = data.apply_chat_template(row, tokenizer)["text"]
    places = [text.index(entry.text) for entry in one.path]
    assert places == sorted(places)


def test_markdown_shows_every_message_with_its_emotion_and_no_control_character(tmp_path):
    one = talk(session("talk", "toy"), "I am sad \x1b]0;owned\x07")
    text = export(one, "md", tmp_path / "t.md").read_text("utf-8")
    assert "(estimated " in text and "That sounds hard" in text
    assert "\x1b" not in text and "\x07" not in text


def test_nothing_is_overwritten_and_nothing_empty_is_written(tmp_path):
    one = session("talk", "toy")
    with pytest.raises(InvalidInput, match="nothing to export"):
        export(one, "md", tmp_path / "t.md")
    talk(one, "Hi")
    export(one, "md", tmp_path / "t.md")
    with pytest.raises(OutputRefused, match="exists already"):
        export(one, "md", tmp_path / "t.md")
    with pytest.raises(OutputRefused, match="cannot write"):
        export(one, "md", tmp_path / "no" / "t.md")
    with pytest.raises(UnknownName, match="known: jsonl, md"):
        export(one, "pdf", tmp_path / "t.pdf")


def test_a_message_or_the_last_code_block_is_quoted():
    code = "Try this:\n```python\nprint(1)\n```\nor\n```\nls\n```"
    one = talk(session("talk", "p", players={"p": ToyPolicy(lambda _: code)}), "Help")
    assert quote(one) == code and quote(one, "1") == "Help" and quote(one, "code") == "ls\n"
    for wrong in ("9", "0", "x"):
        with pytest.raises(InvalidInput, match=f"nothing to copy under '{wrong}'"):
            quote(one, wrong)
