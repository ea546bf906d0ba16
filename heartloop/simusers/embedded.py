"""The embedded user: reads, appraises, moves and speaks by rule; no model, no network.

Its score can be recomputed by anyone from the scenario, the seed and the replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from heartloop.errors import InvalidInput
from heartloop.simusers import appraisal, dynamics, voice
from heartloop.simusers.base import UserState
from heartloop.simusers.dynamics import Preset
from heartloop.simusers.lexical import LexicalReader
from heartloop.simusers.reading import Context, Reader, Reading
from heartloop.types import Appraisal, DisplayRule, Message, Reaction, Scenario, StopReason

VERSION = 1
MOOD, MOMENTUM, TEMPER = 2.5, 0.2, 1.5
"""Points of change per unit of mood (-1 to 1), per point of the last change, and SD of the day."""


@dataclass(frozen=True, slots=True)
class _State:
    """Where a dialogue stands."""

    scenario: Scenario
    seed: int
    emotion: float
    change: float = 0.0
    turn: int = 0
    told: int = 0
    used: tuple[str, ...] = ()


class EmbeddedUser:
    """A simulated user without a model, deterministic per scenario and seed."""

    def __init__(self, preset: Preset | None = None, reader: Reader | None = None) -> None:
        """Play by `preset` (default: "default"), reading with `reader` (default: lexical)."""
        self.preset = preset or dynamics.preset("default")
        self._reader: Reader = reader or LexicalReader()
        self.id = f"embedded/{VERSION}.{appraisal.VERSION}+{self._reader.id}"
        self._state: _State | None = None

    def open(self, scenario: Scenario, seed: int) -> Reaction:
        """Begin a dialogue with the scenario's opener.

        Raises:
            InvalidInput: the scenario has no opener, or is not in English.
        """
        if scenario.language != "en":
            raise InvalidInput(
                f"embedded users speak English, scenario {scenario.id!r} is in "
                f"{scenario.language!r}: play it with a user backed by a model"
            )
        if not scenario.opener.strip():
            raise InvalidInput(
                f"scenario {scenario.id!r} has no opener, and embedded users make none: add one"
            )
        self._state = _State(scenario, seed, self.preset.start, used=(scenario.opener,))
        felt, shown, strength = _feeling(scenario, self.preset.start)
        record = Appraisal(felt=felt, shown=shown, intensity=strength, reader=self._reader.id)
        return Reaction(text=scenario.opener, emotion=self.preset.start, appraisal=record)

    def react(self, history: Sequence[Message]) -> Reaction:
        """Read, appraise, move, speak."""
        state = self._opened()
        context, reply = Context.of(state.scenario, list(history))
        reading = self._reader.read(reply, context)
        beliefs = appraisal.believe(reading, state.scenario)
        parts = self._parts(state, beliefs)
        change = round(sum(parts.values()), 2)
        after = dynamics.step(state.emotion, change, self.preset)
        state = replace(state, emotion=after, change=change, turn=state.turn + 1)
        parting = self._parting(after)
        said = self._speak(state, reading, parting)
        self._state = replace(state, told=said.told, used=state.used + said.lines)
        return Reaction(
            text=said.text,
            emotion=after,
            change=change,
            farewell=bool(parting),
            appraisal=self._record(state, reading, beliefs, parts),
        )

    def _opened(self) -> _State:
        if self._state is None:
            raise InvalidInput("no dialogue is open: call open(scenario, seed) first")
        return self._state

    def _parts(self, state: _State, beliefs: dict[str, float]) -> dict[str, float]:
        """Named contributions in hundredths that add up to the change within the preset's clamp."""
        parts = appraisal.contributions(beliefs, state.scenario.group)
        parts["mood"] = MOOD * (state.emotion - 45) / 55
        parts["momentum"] = MOMENTUM * state.change
        parts["temper"] = _rng(state, "temper").gauss(0.0, TEMPER)
        parts = {name: round(value, 2) for name, value in parts.items()}
        total = sum(parts.values())
        excess = dynamics.limit(total, self.preset) - total
        return parts | ({"limit": round(excess, 2)} if abs(excess) >= 0.005 else {})

    def _parting(self, after: float) -> str:
        """Whether the person takes leave, and in which mood."""
        if dynamics.stop(after, 0, False, self.preset) is StopReason.FAILURE:
            return "failure"
        return "success" if after >= 100 else ""

    def _speak(self, state: _State, reading: Reading, parting: str) -> voice.Utterance:
        moment = voice.Moment(
            reading, state.emotion, state.change, state.told, frozenset(state.used), parting
        )
        return voice.speak(state.scenario, moment, _rng(state, "voice"))

    def _record(
        self, state: _State, reading: Reading, beliefs: dict[str, float], parts: dict[str, float]
    ) -> Appraisal:
        felt, shown, strength = _feeling(state.scenario, state.emotion)
        return Appraisal(
            contributions=parts,
            beliefs=beliefs,
            evidence=reading.features,
            felt=felt,
            shown=shown,
            intensity=strength,
            reader=self._reader.id,
        )

    def snapshot(self) -> UserState:
        """The state between two turns, JSON-ready."""
        state = self._opened()
        return {
            "scenario": state.scenario.model_dump(mode="json"),
            "seed": state.seed,
            "emotion": state.emotion,
            "change": state.change,
            "turn": state.turn,
            "told": state.told,
            "used": list(state.used),
        }

    def restore(self, state: UserState) -> None:
        """Continue from a snapshot."""
        fields = dict(state)
        scenario = Scenario.model_validate(fields.pop("scenario"))
        used = tuple(fields.pop("used"))
        self._state = _State(scenario=scenario, used=used, **fields)


def _rng(state: _State, purpose: str) -> Random:
    """A stream of its own for each turn and purpose, the same whatever the replies were."""
    return Random(f"{state.seed}:{state.scenario.id}:{state.turn}:{purpose}")


def _feeling(scenario: Scenario, level: float) -> tuple[str, str, float]:
    """Felt node, shown node and strength at an emotion level."""
    felt = scenario.felt if level < 70 else "relief"
    strength = scenario.intensity * (1.4 - level / 100) if level < 70 else level / 100
    shown, shown_strength = _shown(felt, scenario.display)
    return felt, shown, round(min(1.0, strength * shown_strength), 3)


def _shown(felt: str, rule: DisplayRule) -> tuple[str, float]:
    """What a display rule lets be seen of a felt emotion, and how much of it."""
    if rule is DisplayRule.NEUTRALIZE:
        return "neutral", 0.2
    if rule is DisplayRule.MASK:
        return "amusement", 0.6
    return felt, {DisplayRule.AMPLIFY: 1.3, DisplayRule.DEAMPLIFY: 0.5}.get(rule, 1.0)
