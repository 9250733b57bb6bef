"""What a run does beside its algorithm: evaluation, logging, and what Lightning asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lgrpo_lightning.ahead_module import AheadModule
from lgrpo_lightning.callbacks import complete_trainer
from lgrpo_lightning.callbacks.end_flights import EndFlights
from lgrpo_lightning.callbacks.rollout_callback import call_rollout_callbacks
from lgrpo_lightning.callbacks.validate_at_ends import ValidateAtEnds
from lgrpo_lightning.distributed.ranks import data_gathered
from lgrpo_lightning.policy.router import check_router
from lgrpo_lightning.training import Validation, fitting_ahead, settings
from lgrpo_lightning.training.alike import check_alike, given
from lgrpo_lightning.training.evaluation import Evaluation, evaluation_metrics, evaluation_names
from lgrpo_lightning.training.metrics import Means, add_rollout_metrics, add_weight_lag, pass_rates
from lgrpo_lightning.training.no_step import check_steps
from lgrpo_lightning.training.timing import Clock
from lgrpo_lightning.training.utilization import utilization_metrics
from lgrpo_lightning.types import Prompt, Rollout


class RolloutModule(AheadModule):
    """A run around its rollouts. ``GRPOModule`` sets the attributes below."""

    validation: Validation

    # ------------------------------------------------------------------------------------------ evaluation

    def on_validation_epoch_start(self) -> None:
        """Fresh metrics for every set."""
        self.land_all()
        self.evaluations = {n: Evaluation(self.validation, self.device) for n in self._set_names()}
        self.begin_evaluation("validation")

    def validation_step(self, prompts: Sequence[Prompt], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Greedy decoding and k samples for every prompt. The noise is the same at every validation."""
        evaluation = list(self.evaluations.values())[dataloader_idx]
        if self.validation.greedy:
            groups = self.sampled(prompts, 1, self.sampling.greedy, random_key := self.random_key("greedy"))
            evaluation.add_greedy(self.scored(groups, self.segmented(groups, random_key), random_key))
        if self.validation.k:
            random_key, count = self.random_key("validation"), self.validation.k
            groups = self.sampled(prompts, count, self.sampling, random_key)
            evaluation.add_samples(
                groups, self.scored(groups, self.segmented(groups, random_key), random_key)
            )

    def on_validation_epoch_end(self) -> None:
        """Log each set, and the mean over the sets under the bare names."""
        self.release_sampler()
        logged = evaluation_metrics(self.evaluations, "test" if self.trainer.testing else "val")
        if logged and self.trainer.state.fn == TrainerFn.FITTING:
            logged["step"] = torch.tensor(float(self.global_step))
        self.log_dict(logged, sync_dist=True, batch_size=1)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def on_predict_epoch_start(self) -> None:
        """Get ready to sample."""
        self.begin_evaluation("predict")

    def begin_evaluation(self, phase: str) -> None:
        """The sampler takes over the weights, and the rewards learn whose completions they will see."""
        self.sync_sampler()
        self.start_rewards(self.random_key(phase), self.progress)

    def _set_names(self) -> tuple[str, ...]:
        trainer: Any = self.trainer
        return tuple(getattr(trainer.datamodule, "test_names" if trainer.testing else "validation_names"))

    # ------------------------------------------------------------------------------------------ logging

    def show_rollout(self, rollout: Rollout, means: Means) -> None:
        """Hand a rollout to the callbacks, before the update."""
        call_rollout_callbacks(self.trainer, self, rollout)
        add_weight_lag(means, rollout, self.weight_version, meant=self.drawn_from)

    def finish_rollout(self, rollout: Rollout, means: Means, clock: Clock) -> None:
        """Count a rollout whose update is done, log its metrics, the same on every rank, and stop after the last."""
        self.announce_layout()
        self.keep_weights()
        self.rollout_index += 1
        add_rollout_metrics(means, rollout.sampled, success_threshold=self.validation.success_threshold)
        passes, seconds = self.updates.iterations, clock.seconds["train"]
        self.note_pass_rates(rollout, means)
        used = utilization_metrics(self.policy, passes=passes, seconds=seconds)
        for name, value in (clock.metrics() | self.step_metrics | used).items():
            means.put(name, value)
        merged = Means.merge(data_gathered(self.trainer, means.settle()))
        tokens = torch.tensor(
            float(sum(len(r) for g in rollout.sampled.groups for r in g.completions)), device=self.device
        )
        values = merged.values() | {
            "tokens_per_second": float(self.ranks.sum(tokens)) / clock.total,
            "rollout": float(self.rollout_index - 1),
            "step": float(self.global_step),
        }
        self.log_all(values)
        self.stop_after_last()

    def note_pass_rates(self, rollout: Rollout, means: Means) -> None:
        """Tell the curriculum, where there is one, how often the prompts of a rollout were solved."""
        trainer: Any = self.trainer
        if (rates := getattr(trainer.datamodule, "pass_rates", None)) is None:
            return
        own = pass_rates(rollout.sampled, success_threshold=self.validation.success_threshold)
        for theirs in data_gathered(trainer, own):
            rates.add(theirs)
        for name, value in rates.metrics().items():
            means.put(name, value)

    def stop_after_last(self) -> None:
        """Have the run end where all its rollouts are done, or another one could go beyond ``trainer.max_steps``."""
        left = self.trainer.max_steps - self.global_step
        too_few = self.trainer.max_steps > 0 and left < self.updates.steps_per_rollout
        if too_few or 0 < self.max_rollouts <= self.rollout_index:
            self.trainer.fit_loop.epoch_loop.max_steps = (
                self.global_step
            )  # it goes before min_steps and min_epochs

    # ------------------------------------------------------------------------------------------ Lightning

    @property
    def trainer(self) -> Trainer:
        """The Trainer, once there is one."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        """Complete it before it looks for ``ckpt_path="last"``: as it came it would find nothing, and start over."""
        own: Any = LightningModule.trainer
        own.fset(self, trainer)
        if trainer is not None:
            complete_trainer(trainer)

    @property
    def validation_metrics(self) -> tuple[str, ...]:
        """Names of what a validation logs, for callbacks that monitor one."""
        return evaluation_names(self._set_names(), self.validation, "val")

    @property
    def planned_steps(self) -> int | None:
        """Most optimizer steps of the run where they are known: those of whole rollouts."""
        most, each = self.trainer.max_steps, self.updates.steps_per_rollout
        limits = [most - most % each if self.updates.steps_are_sure else most, self.max_rollouts * each]
        return min((n for n in limits if n > 0), default=None)

    def configure_callbacks(self) -> list[Callback]:
        """What every run gets: rollouts on disk, checkpoints, progress, plot, summary."""
        settings.check_trainer(self.trainer)
        settings.check_limits(self.trainer, self.updates, self.planned_steps)
        settings.check_gradient_snr(self.trainer, self.updates)
        self.trainer.num_sanity_val_steps = 0  # validation at the start takes its place
        ends = {"at_start": self.validation.at_start, "at_end": self.validation.at_end}
        return [EndFlights(), ValidateAtEnds(**ends), *complete_trainer(self.trainer)]

    def setup(self, stage: str) -> None:
        """Connect the sampler with the policy; what a run that failed has left in flight is over first."""
        self.end_flights()
        settings.check_data(self.trainer, refill=self.updates.refill_rounds > 0)
        if self.trainer.world_size > 1:
            check_alike(self.trainer, given(self))
        if stage == "fit":
            fitting_ahead.check_run(self.rollouts_ahead, self.trainer)
            self.begin_fit()
        self.configure_model()
        self.announce_tokens()
        if self.objective.router_aux_coef > 0:
            check_router(self.policy.model)
        with self.calling(self.random_key("setup")):
            self.sampler.setup(self.source())
            self.reward_model.setup(self.source())

    def on_train_start(self) -> None:
        """A run that is complete has nothing left to do."""
        super().on_train_start()
        self._rollouts_with_step = self.rollout_index
        self.stop_after_last()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Stop where the rollouts before made no optimizer step."""
        super().on_train_batch_start(batch, batch_idx)
        without, most = self.rollout_index - self._rollouts_with_step, self.updates.max_rollouts_without_step
        check_steps(without, most, self.trainer.callback_metrics)

    def teardown(self, stage: str) -> None:
        """Release what the components hold."""
        self.end_flights()
        with self.calling(self.random_key("teardown")):
            self.sampler.teardown()
            self.reward_model.teardown()
