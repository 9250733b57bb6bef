"""Draws rollouts while earlier ones are trained on (``updates.rollouts_ahead``)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from threading import Event
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lgrpo_lightning.distributed.activity import note_activity
from lgrpo_lightning.distributed.component_call import list_changed, read_generators
from lgrpo_lightning.distributed.interruption import abandon_if_stopping
from lgrpo_lightning.distributed.sharding import are_weights_left_out
from lgrpo_lightning.distributed.stopping import abandon_together, stop_together
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy
from lgrpo_lightning.policy.kept_weights import KeptWeights
from lgrpo_lightning.rollouts.components import Components
from lgrpo_lightning.rollouts.refill import ScoredGroups
from lgrpo_lightning.rollouts.thread import POLL, RolloutRequest, RolloutThread
from lgrpo_lightning.types import Group

EARLIER = "lgrpo_earlier_weights"
"""Key in a checkpoint of the weights that rollouts in the queue were drawn from, oldest first; they never change."""
GRACE_PERIOD = 5.0
"""Seconds that rewards have to end once nobody waits for them."""
DRAWS = (
    "Something that runs beside the update, a reward or a segmenter, draws from the process's generator of {}, which "
    "training uses meanwhile: with updates.rollouts_ahead the run cannot be repeated or resumed to the bit. Give it a "
    "generator of its own, such as random.Random(0) or torch.Generator()."
)


class RolloutQueue:
    """Samples and scores rollouts, ``ahead`` of them (k) while earlier ones are trained on.

    Rollout n is drawn from the weights after update n - 1 - k, neither older nor newer ones, so that a run does not
    depend on who is faster. The sampler draws one rollout at a time, in order, and each is scored when the one before
    has been: sampling, rewards and updates run side by side. A checkpoint keeps the weights that rollouts in the queue
    were drawn from; a resumed run draws these again. With k = 0 nothing is ever in the queue.
    """

    def __init__(self, components: Components, *, group_size: int, sampling: Sampling, ahead: int) -> None:
        self.components = components
        self.group_size = group_size
        self.sampling = sampling
        self.ahead = ahead
        self.expected_version = 0  # of the weights that the rollout taken last was to be drawn from
        self._trainer: Any = None
        self._policy: Policy
        self._threads: dict[int, RolloutThread] = {}  # by number of their rollout, in order
        self._latest: RolloutThread | None = None
        self._earlier: deque[KeptWeights] = deque()  # after the k updates before the last one, oldest first
        self._now: KeptWeights | None = None  # after the last update

    def setup(self, trainer: Any, policy: Policy) -> None:
        """Take the run's Trainer and policy."""
        self._trainer, self._policy = trainer, policy

    def take(self, requests: Sequence[RolloutRequest], version: int, seconds: dict[str, float]) -> ScoredGroups:
        """The scored groups of the first request, while those after it are being drawn. Collective.

        Args:
            version: Optimizer steps that the policy has had.
            seconds: Receives the seconds of each stage.
        """
        this, count = requests[0], self.ahead
        started = time.perf_counter()
        for request in requests[:count]:  # at the start of a run, and after a resume
            if request.index not in self._threads:
                back = this.index + count - 1 - request.index
                self._start(request, version, weights=self._weights_before(back))
        self._await_sampler()
        self._now = KeptWeights.copy_from(self._policy, version)
        if len(requests) > count:
            self._start(requests[count], version, weights=None)
        thread = self._threads.pop(this.index)
        _check_prompts(thread.request, this)
        self._await(thread, thread.scored)
        seconds |= thread.seconds | {"trainer_idle": time.perf_counter() - started}
        self.expected_version = thread.version
        return thread.result()

    def end_update(self) -> None:
        """A rollout was trained on: the weights before its update may be needed, older ones are not."""
        if self._now is not None:
            self._earlier.append(self._now)
            self._now = None
        while len(self._earlier) > self.ahead:
            self._earlier.popleft()

    def wait(self) -> None:
        """Wait until the sampler and the rewards are free. Collective."""
        for thread in self._threads.values():
            self._await(thread, thread.scored)

    def cancel(self) -> None:
        """Give up what is being drawn, without waiting."""
        for thread in self._threads.values():
            thread.cancel()

    def close(self) -> None:
        """Cancel, wait until the sampler is free, and give rewards that are at work a few seconds."""
        self.cancel()
        until = time.monotonic() + GRACE_PERIOD
        for thread in self._threads.values():
            thread.sampled.wait()
            thread.join(timeout=max(0.0, until - time.monotonic()))
        self._threads, self._latest, self._now = {}, None, None

    def clear(self) -> None:
        """A new run needs no weights of an earlier one."""
        self._earlier.clear()

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add the weights that rollouts in the queue were drawn from, oldest first. Collective."""
        resumes = "optimizer_states" in checkpoint  # else it is of weights only
        if self.ahead and resumes and not are_weights_left_out(self._trainer):
            keep = self._trainer.is_global_zero
            checkpoint[EARLIER] = [weights.gather_state(self._policy, keep=keep) for weights in self._earlier]

    def load(self, checkpoint: Mapping[str, Any], policy: Policy) -> None:
        """Restore the weights that rollouts in the queue were drawn from."""
        if self.ahead:
            kept = [KeptWeights.read(policy, state) for state in checkpoint.get(EARLIER, ())]
            self._earlier = deque(kept[-self.ahead :])

    def _start(self, request: RolloutRequest, version: int, *, weights: KeptWeights | None) -> None:
        """Sync the sampler, with these weights or the policy's own, and begin to draw. Collective."""
        self._await_sampler()
        version = version if weights is None else weights.version
        with nullcontext() if weights is None else weights.put(self._policy):
            self.components.sync_sampler(version)
            self.components.prepare_sampler(self.sampling, version)
        random_key = self.components.random_key("train", request.index)
        progress = replace(request.progress, global_step=version)

        def score(groups: list[Group]) -> ScoredGroups:
            self.components.start_rewards(random_key, progress)
            return self.components.score_groups(groups, random_key)

        thread = RolloutThread(
            request,
            version,
            sample=lambda prompts: self.components.sample_groups(prompts, self.group_size, self.sampling, random_key),
            score=score,
            before=self._latest,
        )
        thread.start()
        self._threads[request.index] = self._latest = thread

    def _await_sampler(self) -> None:
        """Wait until the sampler has nothing to do, on all ranks."""
        if self._latest is not None:
            self._await(self._latest, self._latest.sampled)

    def _await(self, thread: RolloutThread, event: Event) -> None:
        """Wait for a thread; a stop that is asked for ends it. Collective."""
        note_activity(f"waiting for rollout {thread.request.index}, which is being sampled and scored")
        before = None if event.is_set() else read_generators()
        with abandon_together(self._trainer):
            while not event.wait(POLL):
                abandon_if_stopping()
            thread.check()
        if before is not None and (moved := list_changed(before)):
            rank_zero_warn(DRAWS.format(" and ".join(moved)))
        stop_together(self._trainer)

    def _weights_before(self, back: int) -> KeptWeights | None:
        """The weights of so many updates before the last one, in a resumed run; None: those that the policy has."""
        if not self._earlier:
            return None
        return self._earlier[max(0, len(self._earlier) - 1 - back)]


def _check_prompts(drawn: RolloutRequest, given: RolloutRequest) -> None:
    """Refuse a data module that gives other prompts than it had announced."""
    before, now = [p.uid for p in drawn.prompts], [p.uid for p in given.prompts]
    if before != now:
        raise UserError(
            f"Rollout {given.index} was drawn ahead for the prompts {', '.join(before[:3])}, …, as the data module's "
            f"preview_prompts announced, and its batch has {', '.join(now[:3])}, …. preview_prompts(count) has to "
            "give what the next batches will be; or set updates.rollouts_ahead: 0."
        )
