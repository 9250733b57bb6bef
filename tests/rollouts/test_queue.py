"""What a checkpoint keeps of the weights that rollouts in the queue were drawn from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lgrpo_lightning import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.kept_weights import KeptWeights
from lgrpo_lightning.rollouts.queue import EARLIER, RolloutQueue


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_the_latest_weights_come_back(ahead: int, model_folder: Callable[..., Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("llama"))))
    states = []
    for version in (1, 2, 3):
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(1.0)
        states.append(KeptWeights.copy_from(policy, version).gather_state(policy))
    components: Any = None  # nothing is drawn
    queue = RolloutQueue(components, group_size=2, sampling=Sampling(), ahead=ahead)
    queue.setup(SimpleNamespace(is_global_zero=True, strategy=None), policy)
    queue.load({EARLIER: states}, policy)
    queue.end_update()  # of a rollout whose weights were not kept
    saved: dict[str, Any] = {"optimizer_states": []}
    queue.save(saved)
    assert (EARLIER in saved) == (ahead > 0)
    assert [state["version"] for state in saved.get(EARLIER, ())] == [1, 2, 3][3 - ahead :]
    for state, expected in zip(saved.get(EARLIER, ()), states[3 - ahead :], strict=True):
        assert all(torch.equal(state["tensors"][name], x) for name, x in expected["tensors"].items())
    weights_only: dict[str, Any] = {}
    queue.save(weights_only)
    queue.clear()
    queue.save(empty := {"optimizer_states": []})
    assert (weights_only, empty.get(EARLIER, [])) == ({}, [])
