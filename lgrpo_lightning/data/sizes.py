"""Checks of batch sizes, with the numbers that would work in every error."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lgrpo_lightning.errors import UserError


def check_prompts_per_step(prompts_per_step: int, *, world_size: int, mini_batches: int, prompts: int | None) -> None:
    """Refuse a batch that the ranks and mini-batches cannot share evenly, or that the set cannot fill.

    >>> check_prompts_per_step(16, world_size=2, mini_batches=4, prompts=100)
    >>> check_prompts_per_step(10, world_size=4, mini_batches=1, prompts=100)
    Traceback (most recent call last):
    lgrpo_lightning.errors.UserError: data.prompts_per_step is 10, which 4 processes cannot share evenly. Use 8 or 12.
    """
    unit = world_size * mini_batches
    if prompts_per_step % unit:
        below = prompts_per_step // unit * unit
        nearest = f"{below} or {below + unit}" if below else f"{unit}"
        processes = [f"{world_size} processes"] if world_size > 1 else []
        parts = [f"{mini_batches} mini-batches{' each' if processes else ''}"] if mini_batches > 1 else []
        how = " with ".join([*processes, *parts])
        raise UserError(f"data.prompts_per_step is {prompts_per_step}, which {how} cannot share evenly. Use {nearest}.")
    if prompts is not None and prompts < prompts_per_step:
        largest = prompts // unit * unit
        cure = f"Use at most {largest}" if largest else f"At least {unit} prompts are needed"
        raise UserError(
            f"data.prompts_per_step is {prompts_per_step}, but the training set has only {prompts} prompts. {cure}."
        )


def limit_batches(length: int, limit: int | float) -> int:
    """Batches of an epoch of ``length`` under a trainer's limit: a number of batches, or a share of them.

    >>> limit_batches(10, 3), limit_batches(10, 0.25), limit_batches(10, 1.0), limit_batches(10, 50)
    (3, 2, 10, 10)
    """
    return int(length * limit) if isinstance(limit, float) else min(length, limit)


def find_max_length(module: Any, wanted: int | None) -> int:
    """Maximum number of tokens of a prompt: ``wanted``, or what completions leave of the model's context."""
    new, context = module.sampling.max_new_tokens, module.context_length
    if new >= context:
        raise UserError(
            f"sampling.max_new_tokens is {new}, but the model's context is {context}, which prompt "
            f"and completion share. Use less than {context}."
        )
    return int(min(context - new, wanted or context))


def warn_of_incomplete_batch(count: int, prompts_per_step: int) -> None:
    """Say that the last of ``count`` prompts are never drawn, as they fill no batch and their order stays."""
    if rest := count % prompts_per_step:
        rank_zero_warn(
            f"data.shuffle is false, and the last {rest} of {count} training prompts fill no batch of "
            f"{prompts_per_step} (data.prompts_per_step): they are left out of every epoch. Set shuffle: "
            "true, under which every epoch leaves out others, or take another number of prompts."
        )
