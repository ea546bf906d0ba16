"""What holds for all tests."""

from importlib.util import find_spec

if find_spec("hypothesis"):  # the environment of vLLM does without
    from hypothesis import settings

    # A bound on how long an example takes says something of the machine, nothing of the project.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
