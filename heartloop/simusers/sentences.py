"""Scenarios opened by real people's sentences, such as those of the Stress Annotated Dataset.

Mauriello et al., "SAD: A Stress Annotated Dataset for Recognizing Everyday Stressors in SMS-like
Conversational Systems", CHI EA 2021. The person has no story beyond the sentence: who they are and
what they want is drawn from the sentence's own id, so a file always gives the same scenarios.
"""

from __future__ import annotations

import re
from random import Random
from typing import Any

from heartloop.simusers import compose
from heartloop.types import DisplayRule, HiddenGoal, Persona, Provenance, Scenario, Situation

_FELT = {
    "Work": ("frustration", "work"),
    "School": ("anxiety", "study"),
    "Financial Problem": ("worry", "money"),
    "Family Issues": ("distress", "family"),
    "Social Relationships": ("hurt", "friendship"),
    "Health, Fatigue, or Physical Pain": ("exhaustion", "health"),
    "Emotional Turmoil": ("sadness", "loneliness"),
    "Everyday Decision Making": ("apprehension", "home"),
    "Other": ("distress", "home"),
}
"""Felt emotion and domain of each stressor label."""
_GRAVE = re.compile(
    r"\b(suicid\w*|kill\w*|self.?harm\w*|raped?|abus\w*|die[sd]?|dying|overdos\w*)\b", re.IGNORECASE
)
LEAST_WORDS, LEAST_SEVERITY = 7, 3.0


def scenario(row: dict[str, Any]) -> Scenario | None:
    """The scenario a sentence opens, or None for one too short, too mild or too grave to play."""
    text = str(row["text"]).strip()
    grave = _GRAVE.search(text)
    mild = float(row["severity_mean"]) < LEAST_SEVERITY or row.get("is_covid")
    if grave or mild or len(text.split()) < LEAST_WORDS:
        return None
    rng = Random(f"sentence:{row['id']}")
    felt, domain = _FELT.get(str(row.get("top_label")), _FELT["Other"])
    somebody = rng.choice(compose.parts("test")[1])
    return Scenario(
        id=f"sentence-{row['id']}",
        persona=Persona.model_validate(somebody.model_dump(include=set(Persona.model_fields))),
        group=somebody.group,
        traits=somebody.traits,
        situation=Situation(domain=domain, title=text, cause=text),
        goal=rng.choice(list(HiddenGoal)),
        felt=felt,
        intensity=min(1.0, max(0.1, float(row["severity_mean"]) / 10)),
        display=DisplayRule.EXPRESS,
        opener=text,
        provenance=Provenance(source=f"sentence {row['id']}", parts=(somebody.id,)),
    )
