"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start, too

import torch

from lgrpo_lightning.callbacks import reward_plot
from tests.models import make_model

torch.set_num_threads(1)  # the models are tiny, and threads that wait for each other crawl on a busy machine


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``model_folder(architecture)``: a tiny model of it, made once."""
    made: dict[str, Path] = {}

    def get(architecture: str = "llama") -> Path:
        if architecture not in made:
            made[architecture] = make_model(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return get


@pytest.fixture(scope="session", autouse=True)
def _pictures() -> Iterator[pytest.MonkeyPatch]:
    """Hundreds of short runs end with a picture, which takes longer than many of them: an empty file stands for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reward_plot, "draw_run", lambda metrics, path: path.touch())
        yield patch


@pytest.fixture(scope="module")
def real_pictures(_pictures: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs of this module draw theirs."""
    empty = reward_plot.draw_run
    _pictures.undo()
    yield
    _pictures.setattr(reward_plot, "draw_run", empty)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
