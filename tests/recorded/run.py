"""One fit on the recorded rollouts, and everything by which two fits are compared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor

from lgrpo_lightning import GRPOModule, PromptDataModule, Sampling
from lgrpo_lightning.callbacks import RolloutCallback
from lgrpo_lightning.data.arithmetic import ArithmeticTasks
from lgrpo_lightning.distributed.fsdp2 import FSDP2Strategy
from lgrpo_lightning.losses import ClippedSurrogate
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.rewards import ExactMatch
from lgrpo_lightning.training import Objective, Updates, Validation
from tests.recorded.components import Digits, RecordedReward, RecordedSampler

STEPS, GROUP_SIZE, PROMPTS = 8, 4, 8


@dataclass
class Outcome:
    """What a fit did.

    Attributes:
        parameters: After the last optimizer step, whole.
        gradients: Of the first optimizer step, whole, before they are clipped.
        losses, norms: Of each optimizer step: its loss, and the norm of its gradient before it is clipped.
        passes: Micro-batches of each optimizer step on this rank.
        completions: Token ids by rollout and prompt.
        computed: Type of the weights as they are computed with.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    completions: dict[str, list[list[int]]] = field(default_factory=dict)
    computed: str = ""


def whole(tensor: Tensor) -> Tensor:
    """A copy of it, gathered where it is sharded."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().cpu().clone()


class Observed(GRPOModule):
    """Notes the loss of every optimizer step."""

    def __init__(self, outcome: Outcome, **options: Any) -> None:
        super().__init__(**options)
        self.outcome, self.micro = outcome, list[float]()

    def backward_pass(self, loss: Tensor, last: bool) -> None:
        super().backward_pass(loss, last)
        self.micro.append(float(loss.detach()))
        if last:  # each rank's loss is scaled by the number of ranks, for gradients are averaged
            total = self.ranks.sum(torch.tensor(sum(self.micro), dtype=torch.float64))
            self.outcome.losses.append(float(total) / self.ranks.world_size)
            self.outcome.passes.append(len(self.micro))
            self.micro = []


class Observer(RolloutCallback):
    """Notes gradients, completions and the parameters at the end."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        named = pl_module.policy.named_parameters()
        gradients = {n: whole(p.grad) for n, p in named if p.grad is not None}
        self.outcome.gradients = self.outcome.gradients or gradients
        self.outcome.norms.append(float(torch.stack([g.double().norm() for g in gradients.values()]).norm()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.outcome.parameters = {n: whole(p) for n, p in pl_module.policy.named_parameters()}
        with pl_module.policy.generation_model() as model:
            self.outcome.computed = str(next(model.parameters()).dtype)

    def on_rollout_end(self, trainer: Trainer, pl_module: LightningModule, rollout: Any) -> None:
        for group in rollout.groups:
            self.outcome.completions[f"{rollout.index}/{group.prompt.uid}"] = group.sequences


def module(outcome: Outcome, **options: Any) -> GRPOModule:
    """λ-GRPO with μ = 2 and a KL term on the recorded rollouts, unless ``options`` say otherwise."""
    policy = {"path": "lgrpo:arithmetic"} | options.pop("policy", {})
    free = options.pop("free", False)
    judge = Digits() if options.pop("digits", False) else ExactMatch()
    defaults: dict[str, Any] = {
        "reward_model": judge if free else RecordedReward(),
        "sampler": None if free else RecordedSampler(),
        "policy": PolicyConfig(**policy),
        "group_size": GROUP_SIZE,
        "sampling": Sampling(max_new_tokens=32, temperature=3.0),
        "loss": ClippedSurrogate(**options.pop("loss", {})),
        "objective": Objective(**({"kl_coef": 0.04, "importance": "none"} | options.pop("objective", {}))),
        "updates": Updates(iterations=2),
        "optimizer": lambda p: torch.optim.AdamW(p, lr=1e-3, eps=1e-5, weight_decay=0.0),
        "validation": Validation(at_start=False, at_end=False),
    }
    return Observed(outcome, **(defaults | options))


def fit(root: Path, *, devices: int = 1, strategy: Any = "auto", steps: int = STEPS, **options: Any) -> Outcome:
    """Train in the folder ``root``. ``options`` are those of ``module``, and ``trainer``: more of the Trainer's."""
    seed_everything(0, verbose=False)
    outcome, more = Outcome(), options.pop("trainer", {})
    data = PromptDataModule(train=ArithmeticTasks(count=16), prompts_per_step=PROMPTS, seed=0)
    Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_steps=steps, max_epochs=-1, default_root_dir=root,
        callbacks=[Observer(outcome), *more.pop("callbacks", [])], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, **more,
    ).fit(module(outcome, **options), datamodule=data)  # fmt: skip
    return outcome


def strategy(named: str | dict[str, Any]) -> Any:
    """A strategy by name; or ``FSDP2Strategy`` with these options."""
    return FSDP2Strategy(**named) if isinstance(named, dict) else named


def several(out: str, fits: Sequence[dict[str, Any]]) -> None:
    """Be one of several processes that run fits, one after the other; rank 0 saves their outcomes."""
    devices = int(os.environ["WORLD_SIZE"])
    outcomes = [
        fit(Path(out).parent / str(i), devices=devices, **o | {"strategy": strategy(o["strategy"])})
        for i, o in enumerate(fits)
    ]
    for outcome in outcomes:
        shares: list[Any] = [None] * devices
        torch.distributed.all_gather_object(shares, outcome.completions)
        outcome.completions = {key: value for share in shares for key, value in share.items()}
    if torch.distributed.get_rank() == 0:
        torch.save([vars(o) for o in outcomes], out)
