"""What is compared between the processes of a run, in one process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lgrpo_lightning import UserError
from lgrpo_lightning.environments import GuessingGame
from lgrpo_lightning.samplers import EnvironmentSampler, ForkingSampler, TransformersSampler
from lgrpo_lightning.training.alike import _options, check_alike


def test_options_of_samplers_in_samplers_are_among_them() -> None:
    inner = TransformersSampler(max_batch_tokens=77)
    sampler = EnvironmentSampler(GuessingGame(highest=20), sampler=ForkingSampler(sampler=inner))
    found = dict(_options("samplers", [sampler]))
    assert found["samplers.0.sampler"] == "ForkingSampler"
    assert found["samplers.0.environment.highest"] == "20"
    assert found["samplers.0.sampler.sampler.max_batch_tokens"] == "77"


@pytest.mark.parametrize("second", [{"a": "1", "b": "2", "c": "4"}, {"a": "1"}, {"a": "1", "b": "3"}])
def test_ranks_that_were_given_other_values_are_refused(
    second: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather_all(out: list[Any], value: dict[str, str]) -> None:
        out[:] = [value, second]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather_all)
    trainer = SimpleNamespace(world_size=2)
    if second.get("b") == "3":
        with pytest.raises(UserError, match=r"the same:\n  b is 2 on rank 0, 3 on rank 1\nGive"):
            check_alike(trainer, {"a": "1", "b": "2"})
    else:
        check_alike(trainer, {"a": "1", "b": "2"})
