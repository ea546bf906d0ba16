"""Checks of the cue banks and of the guard against their leaking."""

import pytest

from heartloop.errors import InvalidInput, UnknownName
from heartloop.policy.loops.cues import EKMAN, bank, digest, leaked
from tests.paths import data

OWN = bank()


def test_every_emotion_has_cues_of_its_valence():
    for emotion in EKMAN:
        cues = OWN.cues(emotion)
        assert len(cues) >= 2
        wanted = "positive" if emotion in ("joy", "surprise") else "negative"
        assert {(c.emotion, c.valence) for c in cues} == {(emotion, wanted)}


def test_controls_match_the_cues_in_length_word_for_word():
    for group in ("neutral", "demand", "random"):
        assert {cue.words for cue in OWN.cues(group)} == {10}
    assert {cue.words for cue in OWN.cues(*EKMAN)} == {10}


def test_only_the_demanding_control_demands():
    assert all(cue.demand for cue in OWN.cues("demand"))
    assert not any(cue.demand for cue in OWN.cues(*EKMAN, "neutral", "random"))


def test_no_two_cues_share_an_id_or_a_text():
    cues = OWN.cues(*EKMAN, "neutral", "demand", "random")
    assert len({c.id for c in cues}) == len({c.text for c in cues}) == len(cues)


def test_an_unknown_group_or_stimulus_is_named():
    with pytest.raises(UnknownName, match="'boredom'"):
        OWN.cues("joy", "boredom")
    with pytest.raises(UnknownName, match="did you mean 'EP11'"):
        OWN.stimulus("EP12")


def test_there_are_eleven_stimuli_of_which_two_demand_nothing():
    assert list(OWN.stimuli) == [f"EP{n:02}" for n in range(1, 12)]
    assert [i for i, cue in OWN.stimuli.items() if not cue.demand] == ["EP02", "EP08"]


def test_the_published_stimuli_load_and_agree_on_what_is_demanded():
    published, own = bank(data("testtime/emotionprompt_stimuli.json")), OWN.stimuli
    assert published.groups == OWN.groups
    assert published.stimuli.keys() == own.keys()
    assert all(published.stimuli[i].demand == own[i].demand for i in own)
    assert all(published.stimuli[i].text != own[i].text for i in own)
    assert "promptbench" in published.stimulus("EP02").source


MINE = """
[bank.joy]
texts = ["What a pleasure this is."]

[bank.neutral]
texts = ["Here it is once more."]
demand = true

[[stimuli]]
id = "mine"
text = "My house depends on it."
demand = false
"""


def test_cues_of_a_file_take_the_place_of_heartloops_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    mine = bank(path)
    assert [(c.id, c.text, c.valence) for c in mine.cues("joy")] == [
        ("joy-1", "What a pleasure this is.", "positive")
    ]
    assert (mine.cues("joy")[0].emotion, mine.cues("joy")[0].source) == ("joy", "mine.toml")
    assert [(c.valence, c.demand) for c in mine.cues("neutral")] == [("neutral", True)]
    assert mine.cues("anger", "demand") == OWN.cues("anger", "demand")
    assert mine.stimulus("mine").text == "My house depends on it."
    assert mine.stimulus("EP02") == OWN.stimulus("EP02")


def test_cues_that_differ_in_a_word_have_another_digest_and_heartloops_own_have_none(tmp_path):
    path, found = tmp_path / "mine.toml", []
    for text in (MINE, MINE.replace("pleasure", "joy"), MINE):
        path.write_text(text)
        found.append(digest(bank(path).cues("joy", "anger")))
    assert found[0] == found[2] != found[1]
    assert all(found)
    assert digest(bank(path).cues("anger")) == digest(()) == ""


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.json", "", "Expecting value"), ("a.json", "[]", "valid dictionary"),
        ("a.json", '{"stimuli": [{"id": "EP01"}]}', "stimuli.0.text: Field required"),
        ("a.json", '{"texts": []}', "texts: Extra inputs"), ("a.toml", "", "it holds none"),
        ("a.toml", "[bank.joy", "Expected ']'"), ("a.toml", "[bank.joy]", "bank.joy.texts"),
        ("a.toml", "[bank.joy]\ntexts = []", "at least 1 item"),
        ("a.toml", "[bank.joy]\ntexts = [' ']", "a text is empty"),
        ("a.toml", "[bank.joy]\ntexts = ['a']\nvalence = 'warm'", "valence"),
        ("a.toml", "[bank.envy]\ntexts = ['a']", "cues for \\['envy'\\], which no loop gives"),
        ("none.toml", None, "No such file"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_cues_is_refused_in_one_line(tmp_path, name, content, why):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidInput, match=why) as refused:
        bank(path)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


CUE = "I am angry that something like this has slipped through."


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("You are ANGRY that -- something like this has hurt.", "angry that something like this"),
        (CUE, "i am angry that something"),
        ("I am angry that it rains.", ""),
        ("Something slipped.", ""),
    ],
)
def test_a_run_of_five_words_betrays_a_cue(reply, found):
    assert leaked(CUE, reply) == found


def test_words_of_the_visible_dialogue_may_be_repeated():
    said = "I am angry that something broke."
    assert leaked(CUE, f"You said: {said}", [said]) == ""


def test_a_short_cue_leaks_as_a_whole():
    assert leaked("Are you sure?", "Are you sure about that?") == "are you sure"
    assert leaked("Are you sure?", "You are sure.") == ""
