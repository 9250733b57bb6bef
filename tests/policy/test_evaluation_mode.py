"""Nothing is drawn in a pass that is not trained: dropout stands in the passes with gradients alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lgrpo_lightning.policy import Policy, PolicyConfig, make_reference
from lgrpo_lightning.policy.lora import Lora
from tests.policy.test_policy import rows
from tests.runs import fit, train_metrics

NOISY: dict[str, Any] = {"dropout": 0.5}
ADAPTER: dict[str, Any] = NOISY | {"lora": Lora(rank=2, dropout=0.5)}
SEEN: list[tuple[bool, bool]] = []


@pytest.mark.parametrize("options", [NOISY, ADAPTER], ids=["all", "lora"])
def test_the_untrained_policy_is_its_reference(options: dict[str, Any], model_folder: Callable[[str], Path]) -> None:
    policy = Policy(PolicyConfig(path=str(model_folder("gpt2")), **options))
    before = torch.get_rng_state()
    with torch.no_grad():
        scored, reference = policy(*rows()).logprobs, make_reference(policy)(*rows()).logprobs
        assert torch.equal(scored, reference)
        assert torch.equal(scored, policy.eval()(*rows()).logprobs)
    assert torch.equal(before, torch.get_rng_state())
    policy.train()
    assert not torch.equal(scored, policy(*rows()).logprobs.detach())  # with gradients it is trained
    assert policy.model.training


class Watched(Callback):
    """Notes of every pass through a dropout module whether it drops, and whether there are gradients."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        for module in pl_module.policy.modules():
            if isinstance(module, torch.nn.Dropout):
                module.register_forward_hook(lambda m, *_: SEEN.append((m.training, torch.is_grad_enabled())))


OBJECTIVES: dict[str, dict[str, Any]] = {
    "loss": {"model__objective__kl_coef": 0.1, "model__objective__top_entropy": 0.5},
    "reward": {
        "model__objective__kl_coef": 0.1,
        "model__objective__kl_place": "reward",
        "model__objective__kl_estimator": "k1",
    },
}


@pytest.mark.parametrize("place", [pytest.param("loss", marks=pytest.mark.slow), "reward"])
def test_every_pass_of_a_run_that_is_not_trained(place: str, tmp_path: Path) -> None:
    SEEN.clear()
    more = {"model__policy__dropout": 0.1, "model__policy__lora": "{rank: 2, dropout: 0.5}"}
    callback = '[{"class_path": "tests.policy.test_evaluation_mode.Watched"}]'
    run = fit(
        tmp_path,
        trainer__max_steps=2,
        trainer__callbacks=callback,
        model__updates__iterations=2,
        **more,
        **OBJECTIVES[place],
    )
    assert {(True, True), (False, False)} == set(SEEN)
    if place == "reward":  # the policy before its first update is the reference
        assert train_metrics(run)["kl"].iloc[0] == 0.0
