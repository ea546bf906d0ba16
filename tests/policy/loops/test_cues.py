"""Checks of the cue banks and of the guard against their leaking."""

import pytest

from heartloop.errors import InvalidInput
from heartloop.policy.loops.cues import EKMAN, bank, leaked, stimuli
from tests.paths import data


def test_every_emotion_has_cues_of_its_valence():
    for emotion in EKMAN:
        cues = bank(emotion)
        assert len(cues) >= 2
        wanted = "positive" if emotion in ("joy", "surprise") else "negative"
        assert {(c.emotion, c.valence) for c in cues} == {(emotion, wanted)}


def test_controls_match_the_cues_in_length_word_for_word():
    for group in ("neutral", "demand", "random"):
        assert {cue.words for cue in bank(group)} == {cue.words for cue in bank(*EKMAN)} == {10}


def test_only_the_demanding_control_demands():
    assert all(cue.demand for cue in bank("demand"))
    assert not any(cue.demand for cue in bank(*EKMAN, "neutral", "random"))


def test_no_two_cues_share_an_id_or_a_text():
    cues = bank(*EKMAN, "neutral", "demand", "random")
    assert len({c.id for c in cues}) == len({c.text for c in cues}) == len(cues)


def test_an_unknown_group_is_named():
    with pytest.raises(InvalidInput, match="boredom"):
        bank("joy", "boredom")


def test_there_are_eleven_stimuli_of_which_two_demand_nothing():
    own = stimuli()
    assert list(own) == [f"EP{n:02}" for n in range(1, 12)]
    assert [i for i, cue in own.items() if not cue.demand] == ["EP02", "EP08"]


def test_the_published_stimuli_load_and_agree_on_what_is_demanded():
    path = data("testtime/emotionprompt_stimuli.json")
    published, own = stimuli(path), stimuli()
    assert published.keys() == own.keys()
    assert all(published[i].demand == own[i].demand for i in own)
    assert all(published[i].text != own[i].text for i in own)
    assert "promptbench" in published["EP02"].source


@pytest.mark.parametrize("content", ["", "[]", '{"stimuli": [{"id": "EP01"}]}', '{"texts": []}'])
def test_a_file_that_holds_no_stimuli_is_refused(tmp_path, content):
    path = tmp_path / "stimuli.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match="stimuli"):
        stimuli(path)
    with pytest.raises(InvalidInput, match="FileNotFound"):
        stimuli(tmp_path / "none.json")


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
