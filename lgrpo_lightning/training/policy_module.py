"""The trained policy inside Lightning: loading, sharding, optimizer steps, checkpoints. Knows no algorithm."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from lgrpo_lightning.checkpoints.checkpoint_check import check_weights
from lgrpo_lightning.distributed.fsdp2 import find_sharding, register
from lgrpo_lightning.distributed.precision import check_optimizer, explain_small_step, settle_precision
from lgrpo_lightning.distributed.ranks import Ranks, find_ranks, set_gradient_sync
from lgrpo_lightning.distributed.sharding import shard
from lgrpo_lightning.distributed.tensor_parallel import agree_gradients
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.monitoring.metrics import Means
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource, Reference, make_reference
from lgrpo_lightning.policy.end_of_sequence import describe_ends, find_end_tokens
from lgrpo_lightning.policy.loading import find_context_length, load_config, load_tokenizer
from lgrpo_lightning.policy.lora import is_adapter_weight
from lgrpo_lightning.policy.processor import PromptProcessor
from lgrpo_lightning.policy.reference import gather_reference_state, load_reference_state, require_weights
from lgrpo_lightning.policy.sharded_weights import gather_whole
from lgrpo_lightning.rollouts.plain import to_plain
from lgrpo_lightning.training import Objective, Schedule, Updates
from lgrpo_lightning.training.alike import check_alike
from lgrpo_lightning.training.guard import StepGuard
from lgrpo_lightning.training.layout_trial import LayoutTrial
from lgrpo_lightning.training.optimizers import (
    build_optimizer,
    build_scheduler,
    clip,
    compute_gradient_norm,
    describe_optimizer,
    read_rates,
)
from lgrpo_lightning.training.pending_step import PendingStep
from lgrpo_lightning.training.run_limits import count_planned_steps
from lgrpo_lightning.training.run_state import RunState
from lgrpo_lightning.training.token_loss import EntropyBonus
from lgrpo_lightning.types import Progress, Rollout

register()


class PolicyModule(LightningModule):
    """Owns the policy, and its reference where there is one; steps the optimizer by hand.

    The arguments are those of ``GRPOModule``.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        *,
        objective: Objective,
        updates: Updates,
        optimizer: OptimizerCallable,
        schedule: Schedule,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy_config = policy
        self.objective = objective
        self.updates = updates
        self.optimizer_factory = optimizer
        self.schedule = schedule
        self.guard: StepGuard
        self.rollout_index = 0
        self.rollouts_at_last_step = 0  # done at the last optimizer step, or at the start of this fit
        self._steps = self._epoch = 0  # that the weights have had, where the Trainer does not know
        self.step_metrics: dict[str, float] = {}
        self.entropy_bonus = EntropyBonus(objective)
        self.run_state = RunState()
        self.layout_trial = LayoutTrial()
        self.run_state.parts |= {"entropy_bonus": self.entropy_bonus, "layout": self.layout_trial}
        self.reference: Reference | None
        self._layout_announced = ""
        self._tokens_announced = False
        self.strict_loading = policy.lora is None  # an adapter's checkpoint holds no other weights

    @cached_property
    def tokenizer(self) -> Any:
        """The policy's tokenizer."""
        return load_tokenizer(self.policy_config)

    @cached_property
    def processor(self) -> PromptProcessor:
        """Reads prompts with images."""
        return PromptProcessor(self.policy_config)

    @cached_property
    def end_of_sequence(self) -> dict[int, tuple[str, ...]]:
        """The ids that end a completion, and who says so."""
        return find_end_tokens(self.policy_config, self.tokenizer)

    @cached_property
    def context_length(self) -> int:
        """Most tokens that a prompt and its completion may have together."""
        return find_context_length(load_config(self.policy_config))

    @cached_property
    def vocabulary_size(self) -> int:
        """Token ids that the model has embeddings for."""
        return int(load_config(self.policy_config).get_text_config().vocab_size)

    @property
    def ranks(self) -> Ranks:
        """The processes of this run."""
        return find_ranks(self.trainer)

    @property
    def needs_reference(self) -> bool:
        """Whether the run keeps a reference."""
        return self.objective.kl_coef > 0

    @property
    def planned_steps(self) -> int | None:
        """Upper bound on the optimizer steps of the run, those of whole rollouts; None: there is none."""
        return count_planned_steps(self.trainer, self.updates)

    @property
    def progress(self) -> Progress:
        """Where the run is."""
        return Progress(
            rollout=self.rollout_index,
            global_step=self.weight_version,
            epoch=self.current_epoch or self._epoch,  # that of the checkpoint where no Trainer counts
            max_steps=self.planned_steps or -1,
            max_rollouts=self.updates.max_rollouts,
        )

    def configure_model(self) -> None:
        """Load the policy and, where it is needed, the reference; shard them under FSDP2.

        Without a Trainer, as in ``load_from_checkpoint``, they are loaded as they are configured; a Trainer that comes
        later shards them and settles the type of their weights.
        """
        if self._trainer is not None:
            self.policy_config = settle_precision(self.trainer, self.policy_config)
        if not hasattr(self, "policy"):
            ends = tuple(self.end_of_sequence)
            data = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
            self.policy = Policy(
                self.policy_config,
                pad=self.tokenizer.pad_token_id or 0,
                longest=getattr(data, "longest_sequence", None),
                processor=self.processor,
                reads_images=bool(getattr(data, "has_images", False)),
            )
            self.context_length = self.policy.context_length
            self.policy.restrict(self.tokenizer, ends)
            # outside the module tree: never saved, trained or wrapped
            self.__dict__["reference"] = make_reference(self.policy) if self.needs_reference else None
            if self.objective.reference_sync is not None:
                # refused before the first step where it has no weights of its own
                require_weights(self.reference)
        models = [m for m in (self.policy, self.reference) if isinstance(m, Policy)]
        sharding = None if self._trainer is None else find_sharding(self.trainer.strategy)
        for model in models:
            model.take_type(self.policy_config)
            if sharding is not None and not isinstance(model, FSDPModule):
                shard(model, **sharding)

    def begin_fit(self) -> None:
        """Count from 0 with a new Trainer: that is a new run, whose place a checkpoint may set afterwards.

        A Trainer that has fitted before goes on, as its own count of steps does.
        """
        if self.trainer.global_step == 0:
            self.rollout_index = self._steps = self._epoch = 0
            self.layout_trial.fastest = None
        self.step_metrics = {}
        self.run_state.begin()

    def announce_tokens(self) -> None:
        """Say once which tokens end a completion, and which ids are never drawn."""
        if self._tokens_announced:
            return
        self._tokens_announced = True
        say(self.trainer, describe_ends(self.end_of_sequence, self.tokenizer))
        if not self.policy.vocabulary.complete:
            say(self.trainer, self.policy.vocabulary.announcement())

    def announce_layout(self) -> None:
        """Say which layout the update took, the first time and whenever it changes."""
        choice = self.policy.choice
        if choice is not None and choice.layout != self._layout_announced:
            say(self.trainer, f"Layout of the update: {choice.layout}; {choice.reason}.")
            self._layout_announced = choice.layout

    @property
    def weight_version(self) -> int:
        """Optimizer steps that the weights have had: in this run, in an earlier one, or in that of the checkpoint."""
        return self.global_step or self._steps

    def source(self, temperature: float) -> PolicySource:
        """What a sampler may know of the policy, whose log-probs are taken at ``temperature``."""
        data = getattr(self.trainer, "datamodule", None)
        return PolicySource(
            self.policy,
            tokenizer=self.tokenizer,
            eos_token_ids=tuple(self.end_of_sequence),
            version=lambda: self.weight_version,
            longest_sequence=getattr(data, "longest_sequence", None),
            temperature=temperature,
            precision=self.trainer.precision_plugin.forward_context,
            reference=self.reference,
        )

    def configure_optimizers(self) -> Any:
        """The optimizer over the trainable parameters, and its schedule."""
        optimizer = build_optimizer(self.optimizer_factory, [p for p in self.policy.parameters() if p.requires_grad])
        check_optimizer(self.trainer.precision, optimizer)
        self.run_state.rates = read_rates(optimizer, self.schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": build_scheduler(optimizer, self.schedule, total_steps=self.planned_steps),
        }

    def backward_pass(self, loss: Tensor, last: bool) -> None:
        """Add a micro-batch's gradient; ``last`` of its optimizer step, it is averaged over ranks."""
        with set_gradient_sync(self.trainer, self.policy, last):
            self.manual_backward(loss)
        if last:
            agree_gradients(self.policy)

    def allows_step(self, rollout: Rollout, pending: PendingStep, means: Means) -> bool:
        """Whether loss and gradient are finite. Where not, and the run goes on, the gradient is gone. Collective."""
        allowed = self.guard.allows(rollout, pending)
        means.put("updates/nonfinite", float(not allowed))
        if not allowed:
            self.optimizers().zero_grad(set_to_none=True)  # type: ignore[union-attr]
        return allowed

    def step_optimizer(self) -> None:
        """One step of the optimizer and of the schedule."""
        optimizer: Any = self.optimizers()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedulers: Any = self.lr_schedulers()
        schedulers.step()
        self._steps, self._epoch = self.global_step, self.current_epoch
        self.rollouts_at_last_step = self.rollout_index + 1
        if (sync := self.objective.reference_sync) is not None and sync.is_due(self.global_step):
            sync.update(self.reference, self.policy)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the gradient: here it is complete, averaged and unscaled."""
        if (known := self.guard.norm) is None:
            norm = compute_gradient_norm(self.policy.parameters())
            known = norm, float(gather_whole(norm))
        clip(self.policy.parameters(), known[0], self.updates.gradient_clip_val)
        self.step_metrics = {"grad_norm": known[1], "learning_rate": optimizer.param_groups[0]["lr"]}

    def on_fit_start(self) -> None:
        """Move the reference beside the policy; warn where steps are too small for the type of the weights."""
        if isinstance(self.reference, Policy) and self.reference.compute_device is None:
            self.reference.to(self.device)
        for optimizer in self.trainer.optimizers:
            check_alike(self.trainer, describe_optimizer(optimizer))
            rate = max(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups)
            if warning := explain_small_step([p for p in self.policy.parameters() if p.requires_grad], rate):
                rank_zero_warn(warning)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning leaves out: the rollout counter, every rank's generators, component state.

        With LoRA the weights are those of the adapter alone.
        """
        if self.policy_config.lora:
            weights = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: t for name, t in weights.items() if is_adapter_weight(name)}
        checkpoint["lgrpo"] = {
            "rollout_index": self.rollout_index,
            "policy": to_plain(asdict(self.policy_config)),
            **self.run_state.save(self.trainer),
        }
        if self.objective.reference_sync is not None:
            checkpoint["lgrpo"]["reference"] = gather_reference_state(self.reference)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the rollout counter and component state; the generators follow when training starts."""
        saved = checkpoint["lgrpo"]
        self._steps, self._epoch = (int(checkpoint.get(name, 0)) for name in ("global_step", "epoch"))
        check_weights(checkpoint.get("state_dict", {}), self)
        self.rollout_index = saved["rollout_index"]
        if self.objective.reference_sync is not None and "reference" in saved:
            load_reference_state(self.reference, saved["reference"])
        self.run_state.load(saved, self._trainer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Forget the last rollout's step, so that it is not logged again where none is made."""
        self.step_metrics = {}

    def on_train_start(self) -> None:
        """Put the generators back as the checkpoint had them, let rates be as told, and guard the steps to come."""
        trainer: Any = self.trainer
        self.rollouts_at_last_step = self.rollout_index
        self.guard = StepGuard(trainer, self.policy, self.updates.on_nonfinite)
        self.run_state.restore(trainer, self.lr_schedulers())
