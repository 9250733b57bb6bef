"""The loss of an imported configuration is that of TRL's own trainer, on recorded rollouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from lgrpo_lightning.commands.import_trl import convert_file
from lgrpo_lightning.commands.run import TRAINER_DEFAULTS
from lgrpo_lightning.datamodule import PromptDataModule
from lgrpo_lightning.distributed.ranks import Ranks
from lgrpo_lightning.module import GRPOModule
from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.registry import lookup
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.training.update import Update
from lgrpo_lightning.types import Rewards, TrainBatch
from tests.docs.parse_commands import BuildCLI
from tests.migration.trl_trainer import trl_advantages, trl_config, trl_loss
from tests.recorded.components import recorded
from tests.updates import run_update

pytest.importorskip("trl.trainer.grpo_trainer")

BASE = {
    "num_generations": 4,
    "per_device_train_batch_size": 32,
    "max_completion_length": 32,
    "temperature": 0.9,
}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "grpo with KL": {"loss_type": "grpo", "beta": 0.04, "epsilon_high": 0.28},
    "KL that is not corrected": {"beta": 0.04, "use_bias_correction_kl": False},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": False},
    "bnpo": {"loss_type": "bnpo", "scale_rewards": "batch"},
    "dual clip": {"delta": 1.5, "epsilon": 0.1},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.2},
    "cispo without a bound": {"loss_type": "cispo"},
    "sapo": {"loss_type": "sapo", "sapo_temperature_neg": 2.0, "beta": 0.1},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-3, "beta": 0.04},
    "gspo by tokens": {"importance_sampling_level": "sequence", "epsilon": 3e-3, "epsilon_high": 4e-3},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence", "epsilon": 3e-3, "beta": 0.04},
    "luspo of tokens": {"loss_type": "luspo"},
    "vespo": {"loss_type": "vespo", "vespo_k_pos": 1.0, "beta": 0.04},
    "entropy bonus": {"entropy_coef": 0.01},
    "undecided tokens": {"top_entropy_quantile": 0.4, "entropy_coef": 0.01, "beta": 0.04},
    "off-policy mask": {"off_policy_mask_threshold": 0.01, "loss_type": "grpo"},
}


def module(options: dict[str, Any], folder: Path) -> GRPOModule:
    """What ``lgrpo fit`` makes of the imported configuration, with the small model in the package."""
    lookup.components()
    (folder / "trl.yaml").write_text(yaml.safe_dump(options | {"bf16": False, "max_steps": 2}))
    config = yaml.safe_load(convert_file(folder / "trl.yaml"))
    config["model"]["reward_model"] = "ExactMatch"
    config["model"]["policy"]["path"] = "lgrpo:arithmetic"
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    flags = [
        "--trainer.accelerator=cpu",
        f"--trainer.default_root_dir={folder}",
        "--data.train=ArithmeticTasks",
    ]
    made = BuildCLI(
        GRPOModule,
        PromptDataModule,
        args=["fit", f"--config={folder / 'run.yaml'}", *flags],
        save_config_callback=None,
        seed_everything_default=0,
        trainer_defaults=TRAINER_DEFAULTS,
    ).model
    made.configure_model()
    return made


def recorded_batch(made: GRPOModule) -> tuple[TrainBatch, torch.Tensor]:
    """The first recorded rollout, with the credit of the module's estimator; its rewards ``[B, G]``."""
    found = [group for key, group in recorded().items() if key.startswith("0/")]
    tokens = [[c["token_ids"] for c in group["completions"]] for group in found]
    rewards = torch.tensor([group["rewards"] for group in found])
    groups = [toy_group(sequences, uid=str(n), prompt="!") for n, sequences in enumerate(tokens)]
    trees = [ProcessTree.from_sequences(sequences) for sequences in tokens]
    judged = [Rewards(outcome=row) for row in rewards]
    credits = made.components.advantage_estimator.estimate_batch(judged, trees, reduce=lambda x: x)
    return TrainBatch.from_groups(groups, credits), rewards


def our_loss(made: GRPOModule, reference: Any, batch: TrainBatch) -> float:
    means = Means()
    run_update(
        Update(
            policy=made.policy,
            reference=reference,
            loss=made.loss,
            objective=made.objective,
            bonus=made.entropy_bonus,
            updates=replace(made.updates, old_logprobs="sampler"),
            temperature=made.sampling.temperature,
            max_length=made.sampling.max_new_tokens,
            ranks=Ranks(),
            backward=lambda value, last: value.backward(),  # type: ignore[no-untyped-call]
        ),
        batch,
        [range(len(batch))],
        means,
    )
    return means.values()["loss"]


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_trl(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the policy, and away from the reference, so that everything counts."""
    options = BASE | CASES[case]
    made = module(options, tmp_path)
    data, rewards = recorded_batch(made)
    reference = made.policy.copy_frozen() if made.objective.kl_coef else None
    with torch.no_grad():
        for p in made.policy.parameters():
            p.mul_(1.01)
        scored = {"temperature": options["temperature"]}
        now = made.policy(data.prompts, data.completions, **scored)
        ref = now.logprobs if reference is None else reference(data.prompts, data.completions, **scored).logprobs
    old = torch.where(data.mask, now.logprobs + 0.3 * torch.randn(now.logprobs.shape), 0.0)
    config = trl_config(options, tmp_path)
    theirs = trl_loss(
        config,
        SimpleNamespace(
            logprobs=now.logprobs,
            entropies=now.entropies,
            old=old,
            ref=ref,
            mask=data.mask,
            advantages=trl_advantages(rewards, config.scale_rewards),
        ),
    )
    ours = our_loss(made, reference, TrainBatch(**{**vars(data), "sampler_logprobs": old}))
    assert abs(theirs.item()) > 1e-4
    assert ours == pytest.approx(theirs.item(), rel=1e-5, abs=1e-6)
