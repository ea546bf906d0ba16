"""RLVER profile rows (arXiv 2507.03112) as scenarios: Chinese free text with fixed labels.

Nothing is translated or rewritten; what the text does not state (felt emotion, display rule) is
inferred by plain rules given here.
"""

from __future__ import annotations

import re
from typing import Any

from heartloop.errors import InvalidInput
from heartloop.types import (
    DisplayRule,
    HiddenGoal,
    Moment,
    Persona,
    PersonaGroup,
    Provenance,
    Scenario,
    Situation,
)

GOALS = {
    "你希望对方辩证地分析事件中的问题": HiddenGoal.ANALYSIS,
    "你想获得能真实帮助你解决当下困境的建议": HiddenGoal.ADVICE,
    "你想分析事件中其他人物这么做的原因": HiddenGoal.OTHERS,
    "你希望对方引导你针对事件进行自我反思，收获自我成长": HiddenGoal.REFLECTION,
    "你希望对方真诚地夸奖你在事件中的具体行为": HiddenGoal.PRAISE,
    "你希望对方用心倾听你的情绪宣泄": HiddenGoal.LISTENING,
    "你希望对方深刻共情你的感受，而不是简单的安慰": HiddenGoal.EMPATHY,
    "你认为自己在事件中没有任何责任和错误，你想要对方也认同你没有错": HiddenGoal.AGREEMENT,
}
GROUPS = {
    "负面型": PersonaGroup.NEGATIVE,
    "被动型": PersonaGroup.PASSIVE,
    "回避型": PersonaGroup.AVOIDANT,
}
_FEELINGS = {
    "委屈": "hurt",
    "失望": "disappointment",
    "焦虑": "anxiety",
    "愤怒": "anger",
    "孤独": "loneliness",
    "无助": "hopelessness",
    "沮丧": "dejection",
    "压力": "distress",
    "不安": "uneasiness",
    "恐惧": "fear",
    "内疚": "guilt",
    "愧疚": "guilt",
    "羞": "shame",
    "尴尬": "embarrassment",
    "嫉妒": "jealousy",
    "挫败": "frustration",
    "烦躁": "irritation",
    "不满": "resentment",
    "绝望": "despair",
    "悲伤": "sadness",
}
"""Feeling words of the scenes; the commonest in a scene is taken as felt."""
_DISPLAY = {PersonaGroup.AVOIDANT: DisplayRule.DEAMPLIFY}
_MARK = "####隐藏主题"
_HEADING = re.compile(r"^[\s#*\-]*(?P<name>[^\n：:*#]{2,24}?)[*\s]*[：:]?[*\s]*$", re.MULTILINE)


def scenario(row: dict[str, Any]) -> Scenario:
    """A profile row as a scenario.

    Raises:
        InvalidInput: the hidden goal or persona group is unknown, the goal at the end of the scene
            contradicts the goal field, or the persona has no name.
    """
    goal, group = _known(GOALS, row["task"], "task"), _known(GROUPS, row["main_cha"], "main_cha")
    story = _story(row["scene"], row["task"])
    return Scenario(
        id=str(row["id"]),
        persona=_persona(row["player"]),
        group=group,
        traits=_traits(row["cha_group"]),
        situation=_situation(story),
        goal=goal,
        needs=tuple(x for x in (_block(story, "贴合隐藏", "上升", "提升", "正面影响"),) if x),
        felt=_felt(story),
        intensity=0.7,
        display=_DISPLAY.get(group, DisplayRule.EXPRESS),
        opener=row.get("first_talk", ""),
        language="zh",
        provenance=Provenance(source="RLVER profile", licence="MIT"),
    )


def _traits(words: object) -> tuple[str, ...]:
    if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
        raise InvalidInput(f"cha_group must be a list of words, got {words!r}")
    return tuple(words)


_Known = dict[str, Any]


def _known(table: _Known, key: str, field: str) -> Any:
    if key not in table:
        raise InvalidInput(f"{field} must be one of {list(table)}, got {key!r}")
    return table[key]


def _story(scene: str, task: str) -> str:
    """The scene without its last lines, which repeat the hidden goal."""
    story, mark, tail = scene.rpartition(_MARK)
    stated = tail.strip(":：*# \n")
    if mark and stated != task:
        raise InvalidInput(f"the scene ends with goal {stated!r}, the task field says {task!r}")
    return (story if mark else scene).rstrip("# \n")


def _persona(text: str) -> Persona:
    """The labelled lines of a persona."""
    labels = "姓名|年龄|性别|职业|个人爱好|习惯和行为特点|说话风格|说话方式"
    parts = re.split(rf"^[*\s]*({labels})[*]*\s*[：:]", text, flags=re.MULTILINE)
    fields = dict(zip(parts[1::2], (p.strip(" *\n") for p in parts[2::2]), strict=True))
    if not fields.get("姓名"):
        raise InvalidInput(f"player must name the person (姓名), got {text[:40]!r}")
    age = re.search(r"\d+", fields.get("年龄", ""))
    hobbies = re.split(r"\n?\s*\d+[.、]\s*", fields.get("个人爱好", ""))
    return Persona(
        name=fields["姓名"],
        age=int(age[0]) if age else None,
        gender={"女": "woman", "男": "man"}.get(fields.get("性别", "")[:1], fields.get("性别", "")),
        occupation=fields.get("职业", ""),
        hobbies=tuple(h.strip() for h in hobbies if h.strip()),
        habits=fields.get("习惯和行为特点", ""),
        style="\n".join(fields[k] for k in ("说话风格", "说话方式") if k in fields),
    )


def _situation(story: str) -> Situation:
    course = _block(story, "经过", "时间线", "经历")
    moments = _moments(course)
    return Situation(
        domain="",
        title=_first_sentence(_block(story, "冲突事件", "冲突") or story),
        cause=_block(story, "起因", "背景"),
        timeline=moments,
        facts=tuple(m.what for m in moments),
        conflict=_block(story, "主要冲突", "冲突"),
        tried=_block(story, "尝试过", "困难"),
        stuck=_block(story, "面对的问题", "面临的问题", "当前状态", "现状"),
    )


def _block(story: str, *names: str) -> str:
    """The text under the first heading or label that contains one of the names."""
    for name in names:
        for found in re.finditer(rf"^[^\n]*{name}[^\n]*$", story, re.MULTILINE):
            line, rest = found[0], story[found.end() :]
            inline = re.split(r"[：:]", line, maxsplit=1)[-1].strip(" *#-\n")
            if len(inline) > 12 and inline not in line[: len(line) // 3]:
                return inline
            body = re.split(r"\n\s*(?:#+ |\*\*[^*\n]+\*\*[：:]?\s*\n)", rest, maxsplit=1)[0]
            if body.strip(" *#-\n"):
                return body.strip(" *#-\n")
    return ""


def _moments(course: str) -> tuple[Moment, ...]:
    """Bullets "when: what" of the course of events."""
    found = []
    for item in re.split(r"\n\s*(?:[-*•]|\d+[.、])\s+", "\n" + course):
        text = re.sub(r"[*#]", "", item).strip(" -\n")
        when, colon, what = text.partition("：")
        if colon and len(when) <= 24 and what.strip():
            found.append(Moment(when=when.strip(), what=" ".join(what.split())))
        elif len(text) > 12:
            found.append(Moment(when="", what=" ".join(text.split())))
    return tuple(found)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[。！？\n])", re.sub(r"[*#]", "", text).strip(" -\n"), maxsplit=1)[
        0
    ].strip()


def _felt(story: str) -> str:
    counts = {word: story.count(word) for word in _FEELINGS}
    best = max(counts, key=lambda word: counts[word])
    return _FEELINGS[best] if counts[best] else "distress"
