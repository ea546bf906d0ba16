import shutil

import pytest

from heartloop.errors import InvalidInput, UnknownName
from heartloop.policy import scripted
from heartloop.policy.base import make_policy, policy_names
from heartloop.policy.model import ModelPolicy, Sampling
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
