"""Published SAGE result files: what is true loads, what does not add up is named."""

import copy
import json

import pytest

from heartloop.errors import InvalidInput, RecordError
from heartloop.simusers.transcripts import load_transcripts
from heartloop.types import HiddenGoal, PersonaGroup

PARTS = {
    "content": "对方在问假期的事。",
    "TargetCompletion": "部分达到。",
    "activity": "他总算听进去了。\nAnalyse:  \n还行",
    "analyse": "心里松了一点。",
}


def planning(change, **other):
    return PARTS | {"change": change} | other


def said(role, content, **more):
    return {"role": role, "content": content} | more


def row(*changes, unscored=None):
    """A row in the published shape, with a dialogue of these changes."""
    emotion, history = 40, [said("user", "我的假没了。", **{"emotion-point": 40})]
    for number, change in enumerate(changes):
        emotion = min(100, emotion + change)
        history.append(said("assistant", f"怎么会这样？{number}"))
        felt = {"thinking": "想一想", "emotion-point": emotion, "planning": planning(change)}
        history.append(said("user", f"就是这样。{number}", **felt))
    if unscored:
        history.append(said("assistant", unscored))
    return {
        "id": "一",
        "emo_point": emotion,
        "emo_state": "Emotion-B",
        "target": "eq",
        "player": "* 姓名：周敏\n* 年龄：29岁\n* 性别：女",
        "scene": "她的年假给了别人，很委屈。\n####隐藏主题:\n***你希望对方用心倾听你的情绪宣泄",
        "character": "被动型",
        "topic": "年假",
        "task": "你希望对方用心倾听你的情绪宣泄",
        "history": history,
    }


def loaded(tmp_path, *rows):
    path = tmp_path / "result.jsonl"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    return load_transcripts(path)


def reason(tmp_path, broken):
    """Why a file with a good row and then this one is refused."""
    with pytest.raises(RecordError) as caught:
        loaded(tmp_path, row(5), broken)
    assert caught.value.line == 2
    return caught.value.reason


def changed(path, value, changes=(5, -5)):
    """A row with one value replaced; a path as "history.2.content"."""
    made = copy.deepcopy(row(*changes))
    *way, last = (int(step) if step.isdigit() else step for step in path.split("."))
    at = made
    for step in way:
        at = at[step]
    at[last] = value
    return made


def test_a_row_becomes_a_scenario_and_its_scored_turns(tmp_path):
    (found,) = loaded(tmp_path, row(10, -5, 5, unscored="再说说？"))
    assert (found.scenario.persona.name, found.scenario.opener) == ("周敏", "我的假没了。")
    assert (found.scenario.goal, found.scenario.group) == (
        HiddenGoal.LISTENING,
        PersonaGroup.PASSIVE,
    )
    assert [(t.reply, t.change, t.emotion, t.text) for t in found.turns] == [
        ("怎么会这样？0", 10, 50, "就是这样。0"),
        ("怎么会这样？1", -5, 45, "就是这样。1"),
        ("怎么会这样？2", 5, 50, "就是这样。2"),
    ]
    assert (found.final, found.unscored) == (50, "再说说？")
    assert found.turns[0].appraised.completion == "部分达到。"


def test_emotion_stops_at_the_top_of_the_scale(tmp_path):
    (found,) = loaded(tmp_path, row(*[10] * 5, 5, 10))
    assert found.final == 100


def test_an_answer_that_was_not_taken_apart_is_read_whole(tmp_path):
    answer = '```json\n{"Content": "他问", "Activity": "嗯", "Change": "-5"}\n```'
    whole = dict.fromkeys(PARTS, answer)
    (found,) = loaded(tmp_path, changed("history.2.planning", planning(-5, **whole), (-5,)))
    assert (found.turns[0].change, found.turns[0].appraised.activity) == (-5, "嗯")
    lied = changed("history.2.planning", planning(5, **whole))
    assert "planning.change of turn 1: recorded 5.0, the rules make it -5" in reason(tmp_path, lied)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("history.2.emotion-point", 55, "emotion-point of turn 1: recorded 55, the rules make"),
        ("history.0.emotion-point", 30, "the first emotion-point: recorded 30"),
        ("history.4.planning.change", 5, "emotion-point of turn 2"),
        ("history.4.planning.change", 25, "planning.change of turn 2: recorded 25.0"),
        ("history.4.planning.change", "a lot", "expected one number, got 'a lot'"),
        ("history.4.planning", {}, "expected a field"),
        ("history.1.role", "user", "expected user and assistant in turns"),
        ("history", [], "expected user and assistant in turns"),
        ("emo_point", 90, "emo_point: recorded 90, the rules make it 40"),
        ("character", "新型", "main_cha must be one of"),
        ("history.3.content", None, "reply: Input should be a valid string"),
        ("player", None, ""),
    ],
)
def test_a_row_that_does_not_add_up_is_named_by_line_and_reason(tmp_path, path, value, named):
    assert named in reason(tmp_path, changed(path, value))


def test_a_missing_field_and_a_line_that_is_no_json_are_named(tmp_path):
    broken = row(5)
    del broken["task"]
    assert reason(tmp_path, broken) == "expected a field 'task', found none"
    path = tmp_path / "torn.jsonl"
    path.write_text(json.dumps(row(5)) + "\n\n" + json.dumps(row(5))[:-9])
    with pytest.raises(RecordError, match=r"torn\.jsonl:3: "):
        load_transcripts(path)


def test_a_file_without_rows_and_one_that_is_not_there_are_refused(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    for path in (empty, tmp_path / "nowhere.jsonl"):
        with pytest.raises(InvalidInput, match=path.name):
            load_transcripts(path)
