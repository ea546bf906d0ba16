"""Chat models that are functions, and a scenario in Chinese, for the checks of the SAGE user."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from heartloop.llm.base import Completion, Decoding
from heartloop.simusers import dynamics
from heartloop.simusers.sage import SageUser
from heartloop.types import (
    DisplayRule,
    HiddenGoal,
    Message,
    Moment,
    Persona,
    PersonaGroup,
    Scenario,
    Situation,
)
from tests.fakes import toy_scenario

STYLES = ("evaluator", "trainer", "single")
DEFAULT = dynamics.preset("default")
CHINESE = Scenario(
    id="zh-toy",
    persona=Persona(
        name="周敏",
        age=29,
        gender="woman",
        occupation="护士",
        hobbies=("夜里跑步", "养多肉"),
        style="说话直，爱反问",
    ),
    group=PersonaGroup.NEGATIVE,
    traits=("急躁", "多疑"),
    situation=Situation(
        domain="",
        title="护士长把她的年假给了别人",
        cause="年假三月就批下来了。",
        timeline=(Moment(when="周一", what="排班表上她的名字被划掉了。"),),
        facts=("排班表上她的名字被划掉了。", "机票退不了，亏了两千。"),
        conflict="她和护士长当众吵了一架。",
        tried="找过科主任，没有下文。",
        stuck="明天还要和护士长一起上夜班。",
    ),
    goal=HiddenGoal.AGREEMENT,
    needs=("有人肯定地说她没做错",),
    felt="anger",
    display=DisplayRule.AMPLIFY,
    opener="你说气不气人，我的假就这么没了。",
    language="zh",
)

Answer = str | Completion | Exception
Script = Callable[[str, dict[str, str], Decoding], Answer]


def blocks(prompt: str) -> dict[str, str]:
    return dict(re.findall(r"<(\w+)>(.*?)</\1>", prompt, re.DOTALL))


def usual(purpose: str, block: dict[str, str], decoding: Decoding) -> Answer:
    """Likes long replies; says something new each time; all from the prompt alone."""
    last = json.loads(block["last_reply"])
    told = len(json.loads(block["dialogue"]))
    judged = {
        "content": "talks",
        "completion": f"hears {len(last)}",
        "activity": "Aha.",
        "analysis": "fine",
        "change": min(9, len(last.split())) - 4,
    }
    said = {
        "thinking": "go on",
        "draft": "So.",
        "reply": f"So, {told} and {len(last)}.",
        "shown": "sadness",
        "farewell": last == "bye",
    }
    wanted = {"appraise": judged, "turn": judged | said}.get(purpose, said)
    return json.dumps(wanted, ensure_ascii=False)


class Scripted:
    """A chat model that is a function; keeps what it was asked."""

    def __init__(self, script: Script = usual) -> None:
        self.script, self.spec = script, "scripted/1"
        self.asked: list[tuple[str, list[Message], Decoding]] = []

    async def __call__(
        self, messages: Sequence[Message], decoding: Decoding, purpose: str = ""
    ) -> Completion:
        self.asked.append((purpose, list(messages), decoding))
        answer = self.script(purpose, blocks(messages[-1].content), decoding)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Completion):
            return answer
        return Completion(text=answer, model="scripted", prompt_tokens=7, completion_tokens=3)

    @property
    def purposes(self) -> list[str]:
        return [purpose for purpose, _, _ in self.asked]

    @property
    def prompts(self) -> list[dict[str, str]]:
        return [blocks(messages[-1].content) for _, messages, _ in self.asked]


def sequence(*answers: Answer) -> Script:
    """Gives the answers one after the other."""
    left = list(answers)
    return lambda purpose, block, decoding: left.pop(0)


def judged(change: object, **more: object) -> str:
    return json.dumps({"completion": "half", "analysis": "so so", "change": change} | more)


def said(text: str, **more: object) -> str:
    return json.dumps({"reply": text, "shown": "anger", "farewell": False} | more)


def history(*texts: str) -> list[Message]:
    roles = ("user", "assistant")
    return [Message(role=roles[n % 2], content=text) for n, text in enumerate(texts)]


def opened(script: Script = usual, **options: Any) -> tuple[SageUser, Scripted]:
    model = Scripted(script)
    user = SageUser(model, options.pop("preset", DEFAULT), **options)
    user.open(toy_scenario(), 5)
    return user, model


TALK = history("I lost my keys again today.", "That is bad luck, was it on the bus today?")
