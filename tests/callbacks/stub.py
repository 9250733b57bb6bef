"""A module that goes through the motions of a run: rollouts, optimizer steps, validation, resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lgrpo_lightning.callbacks import call_rollout_callbacks, complete_trainer, list_missing_callbacks
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Completion, Credit, Group, Prompt, Rewards, Rollout


def group(
    sequences: list[list[int]], *, uid: str = "p0", masks: list[list[bool]] | None = None, **columns: Any
) -> Group:
    rollouts = tuple(
        Completion(
            token_ids=tuple(ids),
            logprobs=torch.zeros(len(ids)),
            text=" ".join(map(str, ids)),
            text_ends=tuple(range(1, len(ids) + 1)),
            finish_reason="stop",
            mask=torch.tensor(masks[i] if masks else [True] * len(ids), dtype=torch.bool),
            weight_version=7,
        )
        for i, ids in enumerate(sequences)
    )
    return Group(prompt=Prompt(uid=uid, text=f"say {uid}", token_ids=(9,), columns=columns), completions=rollouts)


def batch(index: int, groups: list[Group], rewards: list[Rewards], trained: bool = True) -> Rollout:
    trees = tuple(ProcessTree.from_sequences(g.sequences).masked(g.mask) for g in groups)
    credits = []
    for tree, r in zip(trees, rewards, strict=True):
        centred = (r.outcome - r.outcome.nanmean())[:, None] * (tree.set_sizes() > 0)
        credits.append(Credit(advantages=centred, weights=torch.ones_like(centred)))
    return Rollout(
        index=index,
        groups=tuple(groups),
        trees=trees,
        rewards=tuple(rewards),
        credits=tuple(credits),
        trained=(trained,) * len(groups),
    )


def simple_batch(index: int, outcome: tuple[float, ...] = (1.0, 0.0, 0.5), rank: int = 0) -> Rollout:
    rewards = Rewards(outcome=torch.tensor(outcome), parts={"exact": torch.tensor(outcome)})
    return batch(index, [group([[1, 2, 3], [1, 2, 4], [5]], uid=f"p{index}r{rank}", answer=index)], [rewards])


class Loader:
    """A sized loader that remembers its position."""

    def __init__(self, size: int) -> None:
        self.size, self.at = size, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        self.at %= self.size
        while self.at < self.size:
            self.at += 1
            yield self.at - 1

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class FailureError(Exception):
    pass


class StubModule(LightningModule):
    """One weight, moved by noise and by the data: any difference after a resume shows in it."""

    def __init__(
        self,
        *,
        rollouts: int = 5,
        steps: int = 2,
        fail: tuple[int, str] | None = None,
        error: type = FailureError,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.size, self.steps, self.fail, self.error = rollouts, steps, fail, error
        self.rollout_index = 0
        self.seen: list[int] = []

    def training_step(self, item: int, batch_idx: int) -> None:
        self.seen.append(int(item))
        noise = torch.rand(1)
        self._maybe_fail("sample")
        call_rollout_callbacks(self.trainer, self, simple_batch(self.rollout_index, rank=self.global_rank))
        for _ in range(self.steps):
            self.manual_backward((self.weight * (noise + item)).sum())
            self.optimizers().step()
            self.optimizers().zero_grad()
            self._maybe_fail("update")
        self.rollout_index += 1
        reward = self.rollout_index / 10
        self.log_dict(
            {"reward": reward, "loss": 0.25, "completions/mean_length": 2.0, "step": float(self.global_step)},
            batch_size=1,
        )

    def _maybe_fail(self, when: str) -> None:
        if self.fail == (self.rollout_index, when):
            raise self.error("as asked")

    def validation_step(self, item: int, batch_idx: int) -> None:
        self.log_dict({"val/accuracy": float(self.rollout_index) / 10, "step": float(self.global_step)}, batch_size=1)

    def predict_step(self, item: int, batch_idx: int) -> Any:
        return simple_batch(batch_idx, rank=self.global_rank)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def configure_callbacks(self) -> list[Callback]:
        complete_trainer(self.trainer)
        return list_missing_callbacks(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stub"] = {"rollout_index": self.rollout_index, "rng": torch.get_rng_state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.rollout_index = checkpoint["stub"]["rollout_index"]
        self.rng = checkpoint["stub"]["rng"]

    def on_train_start(self) -> None:
        torch.manual_seed(0)
        if hasattr(self, "rng"):
            torch.set_rng_state(self.rng)

    def train_dataloader(self) -> Any:
        return Loader(self.size)

    def val_dataloader(self) -> Any:
        return Loader(1)

    def predict_dataloader(self) -> Any:
        return Loader(2)


def trainer(root: Path, *callbacks: Callback, **options: Any) -> Trainer:
    settings = {
        "max_epochs": 1,
        "limit_val_batches": 0,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    return Trainer(default_root_dir=str(root), callbacks=list(callbacks), **settings | options)


def fit(
    root: Path,
    *callbacks: Callback,
    ckpt_path: str | None = None,
    module: StubModule | None = None,
    **options: Any,
):
    module = module or StubModule()
    running = trainer(root, *callbacks, **options)
    if ckpt_path == "last":
        complete_trainer(running)
    running.fit(module, ckpt_path=ckpt_path)
    return module
