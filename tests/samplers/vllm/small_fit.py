"""A small fit on CPU ranks; every rank prints a digest of its parameters at the end.

python -m tests.samplers.vllm.small_fit ROOT '{"devices": 2, "strategy": "ddp", "steps": 3, "engine": {}, "server": {}}'
"""

import hashlib
import json
import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lgrpo_lightning import GRPOModule, PromptDataModule, Sampling
from lgrpo_lightning.callbacks import LastCheckpoint
from lgrpo_lightning.data.arithmetic import ArithmeticTasks
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.lora import Lora
from lgrpo_lightning.rewards import ExactMatch
from lgrpo_lightning.samplers.vllm.options import EngineOptions, ServerOptions
from lgrpo_lightning.samplers.vllm.sampler import VLLMSampler
from lgrpo_lightning.training import Updates


class Digest(Callback):
    """Prints what the parameters are at the end, and each step as it ends."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        trainer: Trainer = arguments[0]
        print(f"\nSTEP {trainer.global_step}", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        digest = hashlib.sha256()
        for parameter in pl_module.policy.parameters():
            whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            digest.update(whole.detach().numpy().tobytes())
        print(f"\nDIGEST {trainer.global_rank} {digest.hexdigest()} {trainer.global_step}", flush=True)


def main(root: str, options: str) -> None:
    import torch

    chosen = json.loads(options)
    sampler = VLLMSampler(
        EngineOptions(**chosen.get("engine", {})), ServerOptions(**chosen.get("server", {})), check_every=1
    )
    module = GRPOModule(
        reward_model=ExactMatch(),
        policy=PolicyConfig(path="lgrpo:arithmetic", lora=Lora(rank=4) if chosen.get("lora") else None),
        sampler=sampler,
        group_size=4,
        sampling=Sampling(max_new_tokens=24),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-4),
        updates=Updates(max_rollouts=chosen["steps"], rollouts_ahead=chosen.get("ahead", 0)),
    )
    data = PromptDataModule(
        train=ArithmeticTasks(count=40), validation=ArithmeticTasks(count=5, seed=1), prompts_per_step=4
    )
    trainer = Trainer(
        accelerator="cpu", devices=chosen["devices"], strategy=chosen["strategy"],
        max_steps=chosen["steps"], default_root_dir=root, callbacks=[Digest(), LastCheckpoint(every_n_rollouts=1)],
        enable_progress_bar=False, use_distributed_sampler=False, log_every_n_steps=1, max_epochs=-1,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=chosen.get("resume"))


if __name__ == "__main__":
    main(*sys.argv[1:])
