"""Code written for an older layout of the package finds what it names."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from lgrpo_lightning.moved import MOVED
from lgrpo_lightning.samplers import TransformersSampler

NEEDS_VLLM = {"samplers.vllm_worker"}


@pytest.mark.parametrize("old", sorted(MOVED.keys() - NEEDS_VLLM))
def test_an_old_path_leads_to_the_same_objects(old):
    new = import_module(f"lgrpo_lightning.{MOVED[old]}")
    sys.modules.pop(f"lgrpo_lightning.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"lgrpo_lightning.{MOVED[old]} now"):
        module = import_module(f"lgrpo_lightning.{old}")
    public = [name for name in vars(new) if not name.startswith("__")]
    assert public
    assert all(getattr(module, name) is getattr(new, name) for name in public)


def test_names_that_stayed_and_names_that_never_were():
    code = """
from lgrpo_lightning.callbacks import LastCheckpoint, RolloutCallback, complete_trainer
from lgrpo_lightning.callbacks.last_checkpoint import LastCheckpoint as Old
from lgrpo_lightning.loggers import MetricsCSV
from lgrpo_lightning.samplers.vllm import VLLMSampler
from lgrpo_lightning.training import FSDP2Strategy, Objective
from lgrpo_lightning.training.fsdp2 import FSDP2Strategy as OldStrategy
from lgrpo_lightning.run_folder import CHECKPOINTS
from lgrpo_lightning.processes import process_gone
assert Old is LastCheckpoint and OldStrategy is FSDP2Strategy
try:
    import lgrpo_lightning.callbacks.nothing
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "No module named 'lgrpo_lightning.callbacks.nothing'" in done.stdout


def test_a_sampler_written_before_release_was_called_so():
    called = []
    with pytest.warns(DeprecationWarning, match="Older.rest is called release now"):

        class Older(TransformersSampler):
            def rest(self) -> None:
                called.append("rest")

    Older().release()
    assert called == ["rest"]


def test_what_became_two_things_says_so() -> None:
    with pytest.raises(ImportError, match="two things now"):
        from lgrpo_lightning.training import Loss  # noqa: F401
