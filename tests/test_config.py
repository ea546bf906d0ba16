"""Settings are checked before anything starts, and say what is wrong in one line."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop import config
from heartloop.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def one_line(overrides=(), tables=None) -> str:
    with pytest.raises(ConfigError) as caught:
        config.settings(tables or {}, overrides, source="a.toml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_recipe_loads():
    assert config.load(ROOT / "configs/seedling.toml").policy.spec == "seedling"


def test_every_setting_has_a_description():
    for section in config.TrainConfig.model_fields.values():
        assert section.description
        assert all(field.description for field in section.annotation.model_fields.values())


def test_an_override_beats_the_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[grpo]\nsteps = 3\n[run]\nname = 'x'\n")
    loaded = config.load(path, ["grpo.steps=5", "run.seed = 9", "reward.spec=final+0.1*length"])
    assert (loaded.grpo.steps, loaded.run.seed, loaded.run.name) == (5, 9, "x")
    assert loaded.reward.spec == "final+0.1*length"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("grpo.stepz", "grpo.steps"),
        ("grop.steps", "grpo.steps"),
        ("steps", "grpo.steps"),
        ("learning_rat", "grpo.learning_rate"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(key, nearest):
    message = one_line([f"{key}=1"])
    assert repr(key) in message
    assert repr(nearest) in message


def test_an_unknown_key_of_a_file_names_the_file():
    message = one_line(tables={"grpo": {"qqqq": 1}})
    assert message.startswith("a.toml: no setting 'grpo.qqqq'; known: grpo.steps")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("grpo.steps=many", "grpo.steps should be a valid integer"),
        ("grpo.group=1", "greater than or equal to 2, got 1"),
        ("grpo.learning_rate=0", "greater than 0, got 0"),
        ("grpo.loss_type=ppo", "got 'ppo'"),
        ("grpo=3", "'grpo' is a table"),
        ("grpo.steps", "expected --set section.key=value"),
        ("grpo.micro_batch=7", "try 4"),
    ],
)
def test_a_bad_value_says_what_was_expected_and_what_came(override, part):
    assert part in one_line([override])


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml: No such file"):
        config.load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[grpo\n")
    with pytest.raises(ConfigError, match=r"broken\.toml is not TOML: .*line 1"):
        config.load(broken)
    rows = tmp_path / "rows.json"
    rows.write_text("[1]")
    with pytest.raises(ConfigError, match=r"expected tables of settings, got \[1\]"):
        config.load(rows)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(1e-9, 1), st.booleans())
def test_settings_survive_being_written_and_read(name, rate, think):
    tables = {
        "run": {"name": name, "out": "a b/c"},
        "grpo": {"learning_rate": rate},
        "policy": {"think": think},
    }
    made = config.settings(tables)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(made.model_dump_json(), "utf-8")
        assert config.load(path) == made
