"""Rollouts ahead of the update: while one is trained on, the next ones are sampled and scored."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from threading import Event
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lgrpo_lightning.checkpoints.held_state import EARLIER, weights_left_out
from lgrpo_lightning.component_module import ComponentModule
from lgrpo_lightning.distributed.activity import doing
from lgrpo_lightning.distributed.component_call import changed, generators
from lgrpo_lightning.distributed.interruption import abandon_if_stopping
from lgrpo_lightning.distributed.stopping import abandoning_together, stop_together
from lgrpo_lightning.policy.kept_weights import KeptWeights
from lgrpo_lightning.training.flight import POLL, Flight, Plan
from lgrpo_lightning.training.refill import Scored
from lgrpo_lightning.training.timing import Clock
from lgrpo_lightning.types import Group, Prompt

PATIENCE = 5.0
"""Seconds that rewards have to end once nobody waits for them."""
DRAWS = (
    "Something that runs beside the update, a reward or a segmenter, draws from the process's generator of {}, which "
    "training uses meanwhile: with model.rollouts_ahead the run cannot be repeated or resumed to the bit. Give it a "
    "generator of its own, such as random.Random(0) or torch.Generator()."
)


class AheadModule(ComponentModule):
    """Draws rollouts ahead, ``rollouts_ahead`` of them (k); none with 0.

    Rollout n is drawn from the weights after update n - 1 - k, neither older nor newer ones, so that a run does not
    depend on who is faster. The sampler draws one rollout at a time, in order, and each is scored when the one before
    is: sampling, rewards and updates run side by side. A checkpoint keeps the weights that rollouts in flight were
    drawn from, oldest first; a resumed run draws these again.
    """

    rollouts_ahead: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._flights: dict[int, Flight] = {}  # by number of their rollout, in order
        self._latest: Flight | None = None
        self._earlier: deque[KeptWeights] = deque()  # after the k updates before the last one, oldest first
        self._now: KeptWeights | None = None  # after the last update
        self._drawn_from: int | None = None

    @property
    def drawn_from(self) -> int:
        """Optimizer steps of the weights that the rollout at hand was to be drawn from."""
        return self.weight_version if self._drawn_from is None else self._drawn_from

    def drawn_ahead(self, prompts: Sequence[Prompt], clock: Clock) -> Scored:
        """This rollout, drawn before; and the one that is due takes off. Collective."""
        index, count = self.rollout_index, self.rollouts_ahead
        coming = [(0, list(prompts)), *self._coming(count)]
        started = time.perf_counter()
        for place, batch in enumerate(coming[:count]):
            if index + place not in self._flights:
                self._take_off(index + place, *batch, weights=self._weights_of(index + place))
        self._await_sampled()
        self._now = KeptWeights.of(self.policy, self.weight_version)
        if len(coming) > count:
            self._take_off(index + count, *coming[count], weights=None)
        flight = self._flights.pop(index)
        _check_prompts(flight.plan, prompts)
        self._await(flight, flight.scored)
        clock.seconds |= flight.seconds | {"trainer_idle": time.perf_counter() - started}
        self._drawn_from = flight.plan.version
        return flight.result()

    def keep_weights(self) -> None:
        """A rollout is done: its update's weights are not needed any more, those before it are."""
        if self._now is not None:
            self._earlier.append(self._now)
            self._now = None
        while len(self._earlier) > self.rollouts_ahead:
            self._earlier.popleft()

    def land_all(self) -> None:
        """Wait until nothing is in flight: the sampler and the rewards are free. Collective."""
        for flight in self._flights.values():
            self._await(flight, flight.scored)

    def cancel_flights(self) -> None:
        """Nobody waits for what is in flight any more."""
        for flight in self._flights.values():
            flight.cancel()

    def end_flights(self) -> None:
        """Cancel them, wait until the sampler is free, and give rewards that are at work a few seconds."""
        self.cancel_flights()
        until = time.monotonic() + PATIENCE
        for flight in self._flights.values():
            flight.sampled.wait()
            flight.join(timeout=max(0.0, until - time.monotonic()))
        self._flights, self._latest, self._now, self._drawn_from = {}, None, None, None

    # ------------------------------------------------------------------------------------------ one flight

    def _take_off(
        self, index: int, epoch: int, prompts: list[Prompt], *, weights: KeptWeights | None
    ) -> None:
        """Sync the sampler, with these weights or the policy's own, and begin to draw. Collective."""
        self._await_sampled()
        version = self.weight_version if weights is None else weights.version
        with nullcontext() if weights is None else weights.put(self.policy):
            self.sync_sampler(version)
            with abandoning_together(self.trainer), self.calling(self.random_key("ready", version)):
                self.sampler.ready(self.sampling)
        random_key = self.random_key("train", index)
        epoch += self.current_epoch
        progress = replace(self.progress, rollout=index, global_step=version, epoch=epoch)

        def score(groups: list[Group]) -> Scored:
            self.start_rewards(random_key, progress)
            return self.rewarded(groups, random_key)

        flight = Flight(
            Plan(index=index, prompts=tuple(prompts), version=version),
            sample=lambda asked: self.sampled(asked, self.group_size, self.sampling, random_key),
            score=score,
            before=self._latest,
        )
        flight.start()
        self._flights[index] = self._latest = flight

    def _await_sampled(self) -> None:
        """Wait until the sampler has nothing to do, on all ranks."""
        if self._latest is not None:
            self._await(self._latest, self._latest.sampled)

    def _await(self, flight: Flight, event: Event) -> None:
        """Wait for a flight; a stop that is asked for ends it. Collective."""
        doing(f"waiting for rollout {flight.plan.index}, which is being sampled and scored")
        before = None if event.is_set() else generators()
        with abandoning_together(self.trainer):
            while not event.wait(POLL):
                abandon_if_stopping()
            flight.check()
        if before is not None and (moved := changed(before)):
            rank_zero_warn(DRAWS.format(" and ".join(moved)))
        stop_together(self.trainer)

    def _weights_of(self, index: int) -> KeptWeights | None:
        """What rollout ``index`` of a resumed run was drawn from; None: the weights that the policy has."""
        if not self._earlier:
            return None
        back = self.rollout_index + self.rollouts_ahead - 1 - index
        return self._earlier[max(0, len(self._earlier) - 1 - back)]

    def _coming(self, count: int) -> list[tuple[int, list[Prompt]]]:
        """(epochs from now, prompts) of the next batches, as far as it is not sure that the run ends before."""
        left = [count]
        if self.max_rollouts > 0:
            left.append(self.max_rollouts - self.rollout_index - 1)
        if self.trainer.max_steps > 0 and self.updates.steps_are_sure:
            steps = self.trainer.max_steps - self.global_step
            left.append(steps // self.updates.steps_per_rollout - 1)
        data: Any = getattr(self.trainer, "datamodule", None)
        return list(data.upcoming_prompts(max(0, min(left))))

    # ------------------------------------------------------------------------------------------ Lightning

    def begin_fit(self) -> None:
        """A new run needs no weights of an earlier one."""
        super().begin_fit()
        if self.trainer.global_step == 0:
            self._earlier.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the weights that rollouts in flight were drawn from."""
        super().on_save_checkpoint(checkpoint)
        resumes = "optimizer_states" in checkpoint  # else it is of weights only
        if self.rollouts_ahead and resumes and not weights_left_out(self.trainer):
            writes = self.trainer.is_global_zero
            checkpoint[EARLIER] = [weights.state(self.policy, keep=writes) for weights in self._earlier]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back."""
        super().on_load_checkpoint(checkpoint)
        if self.rollouts_ahead:
            kept = [KeptWeights.read(self.policy, saved) for saved in checkpoint.get(EARLIER, ())]
            self._earlier = deque(kept[-self.rollouts_ahead :])


def _check_prompts(plan: Plan, prompts: Sequence[Prompt]) -> None:
    """Refuse a data module that gives other prompts than it had announced.

    Raises:
        ValueError: Naming both.
    """
    drawn, given = [p.uid for p in plan.prompts], [p.uid for p in prompts]
    if drawn != given:
        raise ValueError(
            f"Rollout {plan.index} was drawn ahead for the prompts {', '.join(drawn[:3])}, …, as the data module's "
            f"upcoming_prompts announced, and its batch has {', '.join(given[:3])}, …. upcoming_prompts(count) has to "
            "give what the next batches will be; or set model.rollouts_ahead: 0."
        )
