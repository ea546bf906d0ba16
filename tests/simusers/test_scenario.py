import json
from collections import Counter
from pathlib import Path

import pytest

from heartloop.errors import InvalidInput, OutputRefused, RecordError, UnknownName
from heartloop.simusers import compose, scenario
from heartloop.types import DisplayRule, HiddenGoal, PersonaGroup
from tests.paths import data


def test_the_pack_has_500_train_and_100_test_scenarios_over_80_situations():
    assert len(scenario.pack("train")) >= 500
    assert len(scenario.pack("test")) >= 100
    events = {s.provenance.parts[0] for split in compose.PACK for s in scenario.pack(split)}
    assert len(events) >= 80
    assert len({s.situation.domain for s in scenario.pack("train")}) >= 10


def test_train_and_test_share_no_persona_scene_or_opener():
    train, test = scenario.pack("train"), scenario.pack("test")
    for key in (
        lambda s: s.persona.name,
        lambda s: s.provenance.parts[0],
        lambda s: s.situation.title,
        lambda s: s.opener,
    ):
        assert not {key(s) for s in train} & {key(s) for s in test}


@pytest.mark.parametrize("split", ["train", "test"])
def test_goals_groups_and_display_rules_are_all_well_represented(split):
    pack = scenario.pack(split)
    for kind, key in ((HiddenGoal, "goal"), (DisplayRule, "display"), (PersonaGroup, "group")):
        counts = Counter(getattr(s, key) for s in pack)
        assert set(counts) == set(kind)
        assert min(counts.values()) >= 0.5 * len(pack) / len(kind)


def test_the_composer_rebuilds_the_shipped_pack():
    for split, number in compose.PACK.items():
        assert tuple(compose.compose(split, number)) == scenario.pack(split)


def test_another_seed_composes_other_scenarios():
    assert compose.compose("train", 20, seed=1) != compose.compose("train", 20, seed=2)


def test_people_only_meet_situations_they_can_be_in():
    by_id = {s.id: s for s in compose.situations()}
    for split in compose.PACK:
        for s in scenario.pack(split):
            event = by_id[s.provenance.parts[0]]
            assert event.age[0] <= s.persona.age <= event.age[1]


def test_scenarios_survive_a_round_trip_through_a_file(tmp_path: Path):
    path = tmp_path / "mine.jsonl"
    scenario.save(path, scenario.pack("test"))
    assert tuple(scenario.load(path)) == scenario.pack("test")
    with pytest.raises(OutputRefused, match="exists"):
        scenario.save(path, [])


def test_all_rlver_profiles_load_with_their_fields():
    found = scenario.load(data("rlver/train_profile.jsonl"))
    assert len(found) == 500
    assert Counter(s.goal for s in found)[HiddenGoal.ADVICE] == 58
    assert Counter(s.group for s in found) == {"negative": 183, "passive": 174, "avoidant": 143}
    for s in found:
        p = s.persona
        assert p.name and p.age and p.gender in ("woman", "man") and p.occupation and p.style
        assert len(p.hobbies) >= 1 and len(s.traits) == 3
        assert s.situation.cause and s.situation.conflict and s.language == "zh"
    assert sum(bool(s.situation.facts) for s in found) >= 480


def test_a_broken_profile_row_is_named_by_line_and_reason(tmp_path: Path):
    lines = data("rlver/train_profile.jsonl").read_text("utf-8").splitlines()[:3]
    row = json.loads(lines[2])
    row["task"] = "something else"
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join([*lines[:2], json.dumps(row, ensure_ascii=False)]), "utf-8")
    with pytest.raises(RecordError, match=r"broken\.jsonl:3: task must be one of"):
        scenario.load(path)


def test_a_scene_whose_goal_contradicts_the_task_is_refused(tmp_path: Path):
    lines = data("rlver/train_profile.jsonl").read_text("utf-8").splitlines()[:2]
    first, second = map(json.loads, lines)
    first["task"] = second["task"]
    path = tmp_path / "swap.jsonl"
    path.write_text(json.dumps(first, ensure_ascii=False), "utf-8")
    with pytest.raises(RecordError, match="the scene ends with goal"):
        scenario.load(path)


def test_sentences_of_real_people_open_scenarios_without_the_grave_and_the_mild():
    path = data("sad/sentences.jsonl")
    found = scenario.load(path)
    texts = {json.loads(x)["text"].strip() for x in path.open()}
    assert len(found) >= 100
    assert all(s.opener in texts and len(s.opener.split()) >= 7 for s in found)
    assert found == scenario.load(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{not json", "not JSON"),
        ("[1]", "expected an object"),
        ('{"id": "x"}', "Field required"),
        ('{"id": "x", "colour": 1}', "Field required|Extra inputs"),
    ],
)
def test_a_broken_line_is_named_with_its_reason(tmp_path: Path, text, reason):
    path = tmp_path / "s.jsonl"
    good = scenario.pack("test")[0].model_dump_json()
    path.write_text(f"{good}\n{text}\n", "utf-8")
    with pytest.raises(RecordError, match=rf"s\.jsonl:2: .*({reason})"):
        scenario.load(path)


def test_a_repeated_id_is_refused(tmp_path: Path):
    path = tmp_path / "twice.jsonl"
    good = scenario.pack("test")[0].model_dump_json()
    path.write_text(f"{good}\n{good}\n", "utf-8")
    with pytest.raises(RecordError, match="was used on line 1"):
        scenario.load(path)


def test_a_missing_file_or_split_says_what_to_give():
    with pytest.raises(InvalidInput, match="cannot read scenarios"):
        scenario.scenarios("nowhere.jsonl")
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        scenario.pack("trian")
