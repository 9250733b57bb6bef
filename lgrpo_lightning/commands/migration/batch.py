"""How many prompts a rollout has, and how it is divided into optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lgrpo_lightning.commands.migration.draft import Draft
from lgrpo_lightning.commands.migration.recipe import Recipe
from lgrpo_lightning.errors import UserError

COUNTS = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_generations", "num_iterations")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A rollout and its optimizer steps.

    Attributes:
        prompts: Prompts of a rollout.
        mini_batches, iterations: Optimizer steps of a pass; passes.
        how: How ``prompts`` was computed.
        remarks: What is not as in TRL.
    """

    prompts: int
    mini_batches: int
    iterations: int
    how: str
    remarks: tuple[str, ...] = ()

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps made from one rollout."""
        return self.mini_batches * self.iterations

    def rollouts(self, steps: float) -> int:
        """The rollouts that so many optimizer steps take; a share of all steps, below 1, is not known here: 1."""
        return max(1, round(steps / self.steps_per_rollout))


def batch(recipe: Recipe, processes: int) -> Batch:
    """The batch that TRL makes of the recipe on so many processes.

    Raises:
        ValueError: TRL would refuse it: a number is no positive integer, or groups are not whole.
    """
    rows, accumulated, size, iterations = (_count(recipe, name) for name in COUNTS)
    micro = rows * processes
    steps = _steps(recipe, micro, accumulated)
    if (micro * steps) % size:
        raise UserError(
            f"{recipe.name}: a generation batch has {rows} per_device_train_batch_size x {processes} process(es) x "
            f"{steps} step(s) = {micro * steps} completions, no multiple of {size} num_generations: TRL refuses it. "
            f"Say --processes N for how many it was run on, or change one of these numbers."
        )
    how = f"{rows} x {steps} x {processes} process(es) / {size} num_generations"
    whole = Batch(prompts=micro * steps // size, mini_batches=1, iterations=iterations, how=how)
    if accumulated > steps and accumulated % steps == 0:
        return _joined(whole, accumulated // steps)
    return _divided(whole, steps, accumulated)


def _joined(whole: Batch, times: int) -> Batch:
    """An optimizer step that takes several generation batches."""
    said = f"{times} generation batches make one optimizer step: they are one rollout here, drawn at once."
    if whole.iterations > 1:
        said += " TRL goes over them in another order where num_iterations is above 1."
    return replace(
        whole, prompts=whole.prompts * times, how=f"{whole.how} x {times} accumulated", remarks=(said,)
    )


def _divided(whole: Batch, steps: int, accumulated: int) -> Batch:
    """The batch in so many mini-batches as divide its prompts."""
    wanted, remarks = steps / accumulated, list[str]()
    parts = math.gcd(whole.prompts, max(1, round(wanted)))
    if parts != wanted:
        remarks.append(
            f"model.updates.mini_batches: TRL makes {wanted:g} optimizer steps of a generation batch; here each takes "
            f"whole groups, and {whole.prompts} prompts are divided into {parts}."
        )
    elif parts > 1:
        remarks.append("model.updates.mini_batches: here each has whole groups; TRL shuffles completions.")
    return replace(whole, mini_batches=parts, remarks=tuple(remarks))


def _steps(recipe: Recipe, micro: int, accumulated: int) -> int:
    """Micro-batches of a generation batch, as TRL settles them."""
    size, steps = recipe.value("generation_batch_size"), recipe.value("steps_per_generation")
    if size is None:
        return accumulated if steps is None else _count(recipe, "steps_per_generation")
    if steps is not None:
        raise recipe.refuse("generation_batch_size", "this or steps_per_generation, not both")
    if _count(recipe, "generation_batch_size") % micro:
        raise recipe.refuse("generation_batch_size", f"multiples of {micro}, the batch of all processes")
    return int(size) // micro


def _count(recipe: Recipe, field: str) -> int:
    value = recipe.value(field)
    least = 2 if field == "num_generations" else 1
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise recipe.refuse(field, f"whole numbers from {least} on")
    return value


def write_batch(draft: Draft, made: Batch, processes: int) -> None:
    """The keys of the batch."""
    draft.asked.update(COUNTS, ("generation_batch_size", "steps_per_generation"))
    draft.put("data.prompts_per_step", made.prompts, made.how)
    draft.carry("num_generations", "model.group_size")
    draft.carry("num_iterations", "model.updates.iterations")
    divided = "generation_batch_size" if draft.written("generation_batch_size") else "steps_per_generation"
    draft.carry(divided, "model.updates.mini_batches", made.mini_batches)
    draft.remarks += made.remarks
    if processes > 1:
        draft.put("trainer.devices", processes, "--processes; prompts_per_step is that of all of them")
        if "trainer.strategy" not in draft.lines:
            draft.put("trainer.strategy", "ddp", "or fsdp2")
