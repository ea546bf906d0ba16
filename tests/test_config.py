"""Settings are checked before anything starts, and say what is wrong in one line."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartloop import config
from heartloop.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


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
    path.write_text("[rl]\nsteps = 3\n[run]\nname = 'x'\n")
    loaded = config.load(path, ["rl.steps=5", "run.seed = 9", "reward.spec=final+0.1*length"])
    assert (loaded.rl.steps, loaded.run.seed, loaded.run.name) == (5, 9, "x")
    assert loaded.reward.spec == "final+0.1*length"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("rl.stepz", "rl.steps"),
        ("grop.steps", "rl.steps"),
        ("steps", "rl.steps"),
        ("learning_rat", "rl.learning_rate"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(key, nearest):
    message = one_line([f"{key}=1"])
    assert repr(key) in message
    assert repr(nearest) in message


def test_an_unknown_key_of_a_file_names_the_file():
    message = one_line(tables={"rl": {"qqqq": 1}})
    assert message.startswith("a.toml: no setting 'rl.qqqq'; known: rl.algorithm")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("rl.steps=many", "rl.steps should be a valid integer"),
        ("rl.group=0", "greater than or equal to 1, got 0"),
        ("rl.group=1", "only ppo goes without"),
        ("rl.minibatches=5", "must divide prompts_per_step * group = 32, got 5; try 4"),
        ("rl.iterations=7", "rl.steps must be a multiple of the 7 steps on a batch"),
        ("warmup.micro_batch=3", "warmup.dialogues = 8, got 3; try 2"),
        ("run.stages=[]", "at least 1 item"),
        ("rl.learning_rate=0", "greater than 0, got 0"),
        ("rl.loss_type=ppo", "got 'ppo'"),
        ("rl=3", "'rl' is a table"),
        ("rl.steps", "expected --set section.key=value"),
        ("rl.micro_batch=7", "try 4"),
    ],
)
def test_a_bad_value_says_what_was_expected_and_what_came(override, part):
    assert part in one_line([override])


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml: No such file"):
        config.load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[rl\n")
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
        "rl": {"learning_rate": rate},
        "policy": {"think": think},
    }
    made = config.settings(tables)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(made.model_dump_json(), "utf-8")
        assert config.load(path) == made


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_that_is_shipped_is_valid(path):
    found = config.load(path)
    assert found.run.out.name == path.stem
    if found.policy.system:
        assert (CONFIGS.parent / found.policy.system).read_text().strip()


def test_both_arms_of_the_published_recipe_take_the_same_steps():
    thinks = ["policy.think=true", "policy.system=configs/rlver-think.txt"]
    for name in ("rlver-ppo", "rlver-grpo"):
        plain, thinking = (config.load(CONFIGS / f"{name}.toml", over) for over in ([], thinks))
        assert plain.rl == thinking.rl
        assert plain.rl.minibatches * plain.rl.iterations == 1
