"""How many prompts a rollout has, and how it is divided into optimizer steps."""

from __future__ import annotations

import math
from typing import NamedTuple

from lgrpo_lightning.commands.migration.draft import Draft
from lgrpo_lightning.errors import UserError


class Batch(NamedTuple):
    """A rollout: its prompts, and the optimizer steps that are made from it."""

    prompts: int
    steps: int

    def count_rollouts(self, steps: float) -> int:
        """The rollouts that so many optimizer steps take; a share of all steps, below 1, is not known here: 1."""
        return max(1, round(steps / self.steps))


def write_batch(draft: Draft, processes: int) -> Batch:
    """The keys of the batch that TRL makes of the recipe on so many processes."""
    rows = _get_count(draft, "per_device_train_batch_size")
    accumulated = _get_count(draft, "gradient_accumulation_steps")
    size = _get_count(draft, "num_generations", least=2)
    iterations = _get_count(draft, "num_iterations")
    steps = _count_micro_batches(draft, rows * processes, accumulated)
    completions = rows * processes * steps
    if completions % size:
        raise UserError(
            f"{draft.recipe.name}: a generation batch has {rows} per_device_train_batch_size x {processes} process(es) "
            f"x {steps} step(s) = {completions} completions, no multiple of {size} num_generations: TRL refuses it. "
            f"Say --processes N for how many it was run on, or change one of these numbers."
        )
    prompts, how = completions // size, f"{rows} x {steps} x {processes} process(es) / {size} num_generations"
    if accumulated > steps and accumulated % steps == 0:
        times, mini_batches = accumulated // steps, 1
        prompts, how = prompts * times, f"{how} x {times} accumulated"
        other = " TRL goes over them in another order where num_iterations is above 1." if iterations > 1 else ""
        draft.remark(
            f"{times} generation batches make one optimizer step: they are one rollout here, drawn at once.{other}"
        )
    else:
        mini_batches = _divide(draft, prompts, steps / accumulated)
    draft.put("data.prompts_per_step", prompts, how)
    divided = "generation_batch_size" if draft.is_given("generation_batch_size") else "steps_per_generation"
    draft.carry(divided, "model.updates.mini_batches", mini_batches)
    return Batch(prompts, mini_batches * iterations)


def _divide(draft: Draft, prompts: int, wanted: float) -> int:
    """The mini-batches, of whole groups, that are nearest to so many optimizer steps."""
    parts = math.gcd(prompts, max(1, round(wanted)))
    if parts != wanted:
        draft.remark(
            f"model.updates.mini_batches: TRL makes {wanted:g} optimizer steps of a generation batch; here each takes "
            f"whole groups, and {prompts} prompts are divided into {parts}."
        )
    elif parts > 1:
        draft.remark("model.updates.mini_batches: here each has whole groups; TRL shuffles completions.")
    return parts


def _count_micro_batches(draft: Draft, micro: int, accumulated: int) -> int:
    """Micro-batches of a generation batch, as TRL settles them."""
    size, steps = draft.get("generation_batch_size"), draft.get("steps_per_generation")
    if size is None:
        return accumulated if steps is None else _get_count(draft, "steps_per_generation")
    if steps is not None:
        raise draft.refuse("generation_batch_size", "this or steps_per_generation, not both")
    if _get_count(draft, "generation_batch_size") % micro:
        raise draft.refuse("generation_batch_size", f"multiples of {micro}, the batch of all processes")
    return int(size) // micro


def _get_count(draft: Draft, field: str, least: int = 1) -> int:
    value = draft.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise draft.refuse(field, f"whole numbers from {least} on")
    return value
