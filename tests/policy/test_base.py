import shutil

import pytest

from heartloop.errors import InvalidInput, UnknownName
from heartloop.policy import scripted
from heartloop.policy.base import Prompt, check_policy, make_policy, policy_names
from heartloop.policy.loops import LOOPS, Loop
from heartloop.policy.model import ModelPolicy, Sampling
from heartloop.types import Message
from tests.policy.seedling.tiny import tiny


@pytest.mark.parametrize("name", scripted.SCRIPTED)
def test_scripted_policies_are_made_by_name(name):
    assert make_policy(name).name == name
    assert name in policy_names()


def test_folders_and_runs_are_found(tmp_path):
    pytest.importorskip("torch")
    model = tiny(tmp_path / "run" / "checkpoint-9")
    shutil.copytree(model, tmp_path / "run" / "checkpoint-30")
    (model / "config.json").unlink()
    for spec in (f"hf:{tmp_path}/run/checkpoint-30", str(tmp_path / "run")):
        policy = make_policy(spec, Sampling(max_new_tokens=3))
        assert isinstance(policy, ModelPolicy)
        assert policy.name == spec


def test_a_folder_without_a_model_says_what_was_expected(tmp_path):
    with pytest.raises(InvalidInput, match=r"expected tokenizer_config\.json"):
        make_policy(str(tmp_path))


def test_an_unknown_policy_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'oracle'"):
        make_policy("orackle")


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_named_before_its_policy(name):
    loop = make_policy(f"{name}:listener")
    assert isinstance(loop, Loop)
    assert loop.name == f"{name}(listener)"
    assert loop.policy == make_policy("listener")


def test_a_loop_draws_the_samples_that_are_named_and_says_so():
    loop = make_policy("best-of-n@3:listener")
    trace = loop.run(Prompt((Message(role="user", content="My dog died."),), 5))
    assert (loop.name, trace.samples) == ("best-of-n@3(listener)", 3)


@pytest.mark.parametrize("samples", ["0", "-1", "x", "", "²", "2.5"])
def test_samples_that_are_no_number_are_named(samples):
    with pytest.raises(InvalidInput, match="expected a number of samples above 0"):
        make_policy(f"heart@{samples}:listener")


def test_a_misspelt_loop_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'heart:listener'"):
        make_policy("haert:listener")


@pytest.mark.parametrize("spec", ["listener", "heart@3:listener", "seedling", "openai:a@http://b"])
def test_a_known_policy_is_checked_without_being_made(spec):
    check_policy(spec)


@pytest.mark.parametrize("spec", ["orackle", "heart:orackle", "haert:listener"])
def test_an_unknown_policy_is_named_without_loading_anything(spec):
    with pytest.raises(UnknownName, match="did you mean"):
        check_policy(spec)


def test_a_loop_in_a_loop_is_refused():
    with pytest.raises(InvalidInput, match="needs a plain policy"):
        make_policy("heart:best-of-n:listener")


def test_a_loop_around_an_unknown_policy_names_the_policy():
    with pytest.raises(UnknownName, match="did you mean 'listener'"):
        make_policy("heart:lisener")


def test_a_reward_hacker_is_a_policy_too_also_within_a_loop():
    check_policy("hacker:flattery")
    assert make_policy("hacker:flattery").name.endswith("flattery")
    assert "flattery" in make_policy("best-of-n:hacker:flattery").name
    for find in (check_policy, make_policy):
        with pytest.raises(UnknownName, match="did you mean 'flattery'"):
            find("hacker:flatter")
