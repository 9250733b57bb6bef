"""The trained policy inside Lightning: loading, sharding, optimizer steps, checkpoints. Knows no algorithm."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from lgrpo_lightning.checkpoints import state
from lgrpo_lightning.checkpoints.code import changed_code, code_of
from lgrpo_lightning.checkpoints.resume import check_weights, other_world_size
from lgrpo_lightning.distributed.fsdp2 import register, sharding_of
from lgrpo_lightning.distributed.precision import check_optimizer, settle_precision, small_step_warning
from lgrpo_lightning.distributed.ranks import Ranks, gathered, gradient_sync, ranks
from lgrpo_lightning.distributed.sharding import shard
from lgrpo_lightning.distributed.tensor_parallel import agree_gradients
from lgrpo_lightning.distributed.terminal import say
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource, Reference, reference_of
from lgrpo_lightning.policy.end_of_sequence import announcement, end_of_sequence
from lgrpo_lightning.policy.loading import context_length, load_config, load_tokenizer
from lgrpo_lightning.policy.lora import is_adapter_weight
from lgrpo_lightning.policy.reference_sync import ReferenceSync, load_reference_state, own, reference_state
from lgrpo_lightning.policy.sharded_weights import gather_whole
from lgrpo_lightning.run_folder.plain import plain
from lgrpo_lightning.training import Schedule
from lgrpo_lightning.training.alike import check_alike
from lgrpo_lightning.training.guard import StepGuard
from lgrpo_lightning.training.optimizers import (
    build_optimizer,
    build_scheduler,
    clip,
    compute_gradient_norm,
    read_rates,
    take_over_rates,
)
from lgrpo_lightning.training.options import OnNonFinite
from lgrpo_lightning.training.pending_step import PendingStep
from lgrpo_lightning.types import Rollout

register()


class PolicyModule(LightningModule):
    """Owns the policy, and its reference where there is one; steps the optimizer by hand.

    Args:
        policy: What to load.
        with_reference: Whether a frozen reference is needed.
        reference_sync: How it follows the policy; None: it stays the starting model.
        optimizer: Makes the optimizer of the trainable parameters.
        schedule: Learning rate over optimizer steps.
        gradient_clip_val: Largest norm of the gradient, or None.
        on_nonfinite: What to do with an optimizer step whose loss or gradient is not finite.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        *,
        with_reference: bool,
        reference_sync: ReferenceSync | None = None,
        optimizer: OptimizerCallable,
        schedule: Schedule,
        gradient_clip_val: float | None,
        on_nonfinite: OnNonFinite = "stop",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.policy_config = policy
        self.with_reference = with_reference
        self.reference_sync = reference_sync
        self.optimizer_factory = optimizer
        self.schedule = schedule
        self.gradient_clip_val = gradient_clip_val
        self.on_nonfinite = on_nonfinite
        self.guard: StepGuard
        self.rollout_index = 0
        self._rollouts_with_step = 0  # done when the last optimizer step of this fit was made
        self._steps = self._epoch = 0  # that the weights have had, where the Trainer does not know
        self.step_metrics: dict[str, float] = {}
        self.stateful: dict[str, Any] = {}  # parts whose state a checkpoint keeps, by name
        self.reference: Reference | None
        self._saved_rng: list[Any] | None = None
        self._code: dict[str, str] = {}
        self._rates: list[dict[str, Any]] = []  # what the optimizer was told
        self._rates_before: list[dict[str, Any]] = []  # what that of the checkpoint was told
        self._layout_announced = ""
        self._tokens_announced = False
        self.strict_loading = policy.lora is None  # an adapter's checkpoint holds no other weights

    @cached_property
    def tokenizer(self) -> Any:
        """The policy's tokenizer."""
        return load_tokenizer(self.policy_config)

    @cached_property
    def end_of_sequence(self) -> dict[int, tuple[str, ...]]:
        """The ids that end a completion, and who says so."""
        return end_of_sequence(self.policy_config, self.tokenizer)

    @cached_property
    def context_length(self) -> int:
        """Most tokens that a prompt and its completion may have together."""
        return context_length(load_config(self.policy_config))

    @cached_property
    def vocabulary_size(self) -> int:
        """Token ids that the model has embeddings for."""
        return int(load_config(self.policy_config).get_text_config().vocab_size)

    @property
    def ranks(self) -> Ranks:
        """The processes of this run."""
        return ranks(self.trainer)

    @property
    def planned_steps(self) -> int | None:
        """Optimizer steps of the run where they are known."""
        return self.trainer.max_steps if self.trainer.max_steps > 0 else None

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
            )
            self.context_length = self.policy.context_length
            self.policy.restrict(self.tokenizer, ends)
            # outside the module tree: never saved, trained or wrapped
            self.__dict__["reference"] = reference_of(self.policy) if self.with_reference else None
            if self.reference_sync is not None:
                own(self.reference)  # refused before the first step where it has no weights of its own
        models = [m for m in (self.policy, self.reference) if isinstance(m, Policy)]
        sharding = None if self._trainer is None else sharding_of(self.trainer.strategy)
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
        self._saved_rng, self.step_metrics, self._rates_before = None, {}, []
        self._code = code_of(self.stateful)

    def announce_tokens(self) -> None:
        """Say once which tokens end a completion, and which ids are never drawn."""
        if self._tokens_announced:
            return
        self._tokens_announced = True
        say(self.trainer, announcement(self.end_of_sequence, self.tokenizer))
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
        )

    def configure_optimizers(self) -> Any:
        """The optimizer over the trainable parameters, and its schedule."""
        optimizer = build_optimizer(
            self.optimizer_factory, [p for p in self.policy.parameters() if p.requires_grad]
        )
        check_optimizer(self.trainer.precision, optimizer)
        self._rates = read_rates(optimizer, self.schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": build_scheduler(optimizer, self.schedule, total_steps=self.planned_steps),
        }

    def backward_pass(self, loss: Tensor, last: bool) -> None:
        """Add a micro-batch's gradient; ``last`` of its optimizer step, it is averaged over ranks."""
        with gradient_sync(self.trainer, self.policy, last):
            self.manual_backward(loss)
        if last:
            agree_gradients(self.policy)

    def allows_step(self, rollout: Rollout, pending: PendingStep) -> bool:
        """Whether loss and gradient are finite; where not, and the run goes on, the gradient is gone."""
        allowed = self.guard.allows(rollout, pending, self.global_step)
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
        self._rollouts_with_step = self.rollout_index + 1
        self.guard.check_weights(self.global_step)
        if self.reference_sync is not None and self.reference_sync.due(self.global_step):
            self.reference_sync.update(self.reference, self.policy)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the gradient: here it is complete, averaged and unscaled."""
        norm = compute_gradient_norm(self.policy.parameters()) if self.guard.norm is None else self.guard.norm
        clip(self.policy.parameters(), norm, self.gradient_clip_val)
        self.step_metrics = {
            "grad_norm": float(gather_whole(norm)),
            "learning_rate": optimizer.param_groups[0]["lr"],
        }

    def on_fit_start(self) -> None:
        """Move the reference beside the policy; warn where steps are too small for the type of the weights."""
        if isinstance(self.reference, Policy) and self.reference.compute_device is None:
            self.reference.to(self.device)
        for optimizer in self.trainer.optimizers:
            options = {"class_path": type(optimizer).__name__, **optimizer.defaults}
            check_alike(self.trainer, {f"model.optimizer.{name}": str(v) for name, v in options.items()})
        groups = [g for optimizer in self.trainer.optimizers for g in optimizer.param_groups]
        rate = max((float(g.get("initial_lr", g["lr"])) for g in groups), default=0.0)
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        if groups and (warning := small_step_warning(trained, rate)):
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
            "world_size": self.trainer.world_size,
            "rng": gathered(self.trainer, state.rng_state()),
            "components": state.component_state(self.stateful),
            "code": self._code,
            "rates": self._rates,
            "policy": plain(asdict(self.policy_config)),
        }
        if self.reference_sync is not None:
            checkpoint["lgrpo"]["reference"] = reference_state(self.reference)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the rollout counter and component state; the generators follow when training starts."""
        saved = checkpoint["lgrpo"]
        self._steps, self._epoch = (int(checkpoint.get(name, 0)) for name in ("global_step", "epoch"))
        check_weights(checkpoint.get("state_dict", {}), self)
        self.rollout_index = saved["rollout_index"]
        state.load_component_state(self.stateful, saved["components"])
        if self.reference_sync is not None and "reference" in saved:
            load_reference_state(self.reference, saved["reference"])
        if self._trainer is None:
            return
        self._saved_rng = saved["rng"] if saved["world_size"] == self.trainer.world_size else None
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        self._rates_before = saved.get("rates", [])
        if self._saved_rng is None:
            say(self.trainer, other_world_size(saved["world_size"], self.trainer.world_size))
        if lines := changed_code(saved.get("code", {}), self._code):
            say(
                self.trainer,
                "\n".join(["Going on with other code than the checkpoint was made with:", *lines]),
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Forget the last rollout's step, so that it is not logged again where none is made."""
        self.step_metrics = {}

    def on_train_start(self) -> None:
        """Put the generators back as the checkpoint had them, let rates be as told, and guard the steps to come."""
        trainer: Any = self.trainer
        self.guard = StepGuard(
            self.policy,
            ranks=self.ranks,
            rank=self.global_rank,
            root=None if trainer.fast_dev_run else Path(trainer.default_root_dir),
            on_nonfinite=self.on_nonfinite,
            say=lambda text: say(trainer, text),
            scaler=getattr(trainer.precision_plugin, "scaler", None),
        )
        if said := take_over_rates(
            trainer.optimizers[0], self.lr_schedulers(), self._rates, self._rates_before
        ):
            say(trainer, f"The optimizer goes on with {said}.")
        if self._saved_rng is not None:
            state.set_rng_state(self._saved_rng[self.global_rank])
