"""Checks, on the first batch of a run, that log-probs are the model's own, the sampler's and the same in every pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.head import compute_logits, find_backbone
from lgrpo_lightning.policy.layout import Tokens
from lgrpo_lightning.policy.policy import Policy
from lgrpo_lightning.policy.training_noise import describe_noise

Rows = tuple[Sequence[Tokens], Sequence[Tokens]]
"""Prompts and completions."""


def verify(
    policy: Policy,
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    *,
    temperature: float = 1.0,
    sampled: Tensor | None = None,
    own: bool = True,
    beside: Rows | None = None,
) -> None:
    """Check once that the log-probs of one group are the model's own, the sampler's, and the same in every layout.

    A layout that differs is given up under ``layout: auto``; ``policy.failed`` then says why.

    Args:
        sampled: ``[N, T]`` log-probs of the sampler; NaN where none are known.
        own: The sampler draws with these very weights, so that others are an error; else they are warned of, where
            they are far off.
        beside: Prompts and completions of the shortest and the longest row of the batch: neither may change the
            other's log-probs.

    Raises:
        RuntimeError: They differ; with both numbers and what to do.
    """
    if policy.verified or not policy.config.verify:
        return
    rows, name = (prompts, completions), type(policy.model).__name__
    fp32 = next(policy.parameters()).dtype == torch.float32
    exact = fp32 and not torch.is_autocast_enabled(policy.device.type)
    ids = torch.tensor([[*prompts[0], *completions[0]][:32]], device=policy.device)
    with policy.generation_model() as model:
        verify_causal(model, ids, tolerance=1e-3 if exact else 0.1)
        verify_head(model, ids, tolerance=1e-4 if exact else 3e-2)
        if beside is not None:
            together = policy(*beside, temperature=temperature, layout="padded").logprobs
            _check_apart(policy, beside, together, temperature=temperature, tolerance=1e-3 if exact else 0.5)
        if sampled is not None or policy.layout != "padded":
            padded = policy(*rows, temperature=temperature, layout="padded").logprobs
        if sampled is not None:
            _check_sampled(sampled, padded, exact=exact and own, own=own, model=name)
        if policy.layout != "padded":
            _check_layout(policy, rows, padded, temperature=temperature, tolerance=1e-4 if exact else 0.5)
        if policy.layout == "prefix" and "prefix" not in policy.failed:
            # prompts of two lengths and completions of several tokens, whatever this batch has: some models count
            # positions from the first column, and Mamba's first version goes on from a state by one token only
            prompt, completion = ([*prompts[0]] * 2)[-8:], ([*completions[0]] * 4)[:4]
            pair = [prompt, prompt[-1:]], [completion] * 2
            alone = policy(*pair, temperature=temperature, layout="padded").logprobs
            _check_layout(policy, pair, alone, temperature=temperature, tolerance=1e-4 if exact else 0.5)
        if policy.layout in policy.failed:
            return  # the layout that takes its place is verified, too
        if not policy.draws_dropout:
            model.train()  # generation_model, around this, puts the mode back
            passes = [policy.score(*rows, temperature=temperature).logprobs for _ in range(2)]
            _check_repeatable(model, *passes, tolerance=1e-4 if exact else 0.5)
    policy.verified = True


@torch.no_grad()
def verify_head(model: Any, input_ids: Tensor, *, tolerance: float) -> float:
    """Compare ``compute_logits`` with the model's own logits on a few tokens; the largest difference.

    Args:
        input_ids: ``[1, n]``.
        tolerance: Largest difference allowed, relative to the largest logit.

    Raises:
        RuntimeError: They differ: the model transforms its logits in a way that is not known here.
    """
    own = _compute_own_logits(model, input_ids)
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]  # given, as in every pass
    output = find_backbone(model)(input_ids=input_ids, position_ids=positions, use_cache=False)
    ours = compute_logits(model, output.last_hidden_state[0]).float()
    difference, allowed = _compare(own, ours, tolerance)
    if difference > allowed:
        raise UserError(
            f"{type(model).__name__}: logits from hidden states differ from the model's own by {difference:.3g} "
            f"(first token: {ours[0, :3].tolist()} against {own[0, :3].tolist()}). The model transforms its logits "
            "after the head, or counts positions, in a way this library does not know, so its log-probs would be "
            f"wrong. Please report the model type {model.config.model_type!r}."
        )
    return difference


@torch.no_grad()
def verify_causal(model: Any, input_ids: Tensor, *, tolerance: float) -> None:
    """Refuse a model in which a token sees those after it, as in an encoder: it has no log-probs of a next token.

    Arguments are those of ``verify_head``.
    """
    changed = input_ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % model.get_input_embeddings().weight.shape[0]
    own, other = (_compute_own_logits(model, ids)[:-1] for ids in (input_ids, changed))
    difference, allowed = _compare(own, other, tolerance) if len(own) else (0.0, 0.0)
    if difference > allowed:
        raise UserError(
            f"{type(model).__name__} is bidirectional: another last token changes what it says of the tokens before. "
            "It is an encoder, not a causal language model, and cannot be trained to continue a prompt."
        )


def _compute_own_logits(model: Any, input_ids: Tensor) -> Tensor:
    """``[n, V]`` fp32, by the model's own forward."""
    logits: Tensor = model(input_ids=input_ids, use_cache=False).logits[0]
    if not bool((logits < torch.inf).all()):  # -inf stands for tokens that a model never draws
        raise UserError(
            f"{type(model).__name__} gives NaN or infinity for logits, though its weights are finite: numbers "
            f"overflow in {logits.dtype}. Use policy.dtype: float32 or bfloat16 (trainer.precision: bf16-mixed)."
        )
    return logits.float()


def _compare(own: Tensor, other: Tensor, tolerance: float) -> tuple[float, float]:
    """(the largest difference, the largest that is allowed)."""
    return float((own - other).abs().max()), tolerance * max(1.0, float(own.abs().max()))


def _check_apart(policy: Policy, rows: Rows, together: Tensor, *, temperature: float, tolerance: float) -> None:
    """Refuse a model whose log-probs of a row depend on the rows that share its pass, ``together``."""
    for i, (prompt, completion) in enumerate(zip(*rows, strict=True)):
        alone = policy([prompt], [completion], temperature=temperature, layout="padded").logprobs[0]
        difference = float((together[i, : len(completion)] - alone).abs().max())
        if not difference <= tolerance:  # NaN is no agreement
            raise UserError(
                f"{type(policy.model).__name__}: log-probs of a row of {len(prompt) + len(completion)} tokens differ "
                f"by up to {difference:.3g} (allowed {tolerance:g}) from those that it has in a pass of its own, "
                "so that π/π_old depends on which rows share a pass. Take another model, or lower "
                "sampling.max_new_tokens and data.max_prompt_length where it comes with long rows."
            )


def _check_layout(policy: Policy, rows: Rows, padded: Tensor, *, temperature: float, tolerance: float) -> None:
    """Refuse a layout whose log-probs differ from those of padded rows, or do without it where that is allowed."""
    layout, model = policy.layout, type(policy.model).__name__
    try:
        scores = policy(*rows, temperature=temperature, layout=layout).logprobs
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError) as error:
        problem = f"{model} cannot be run in the layout {layout!r} ({type(error).__name__}: {error})."
    else:
        difference = (scores - padded).abs()
        if float(difference.max()) <= tolerance:
            return
        at = int(difference.argmax())
        problem = (
            f"{model}: the log-probs of the {layout} layout differ from those of padded rows by up to "
            f"{float(difference.max()):.3g} ({layout} {float(scores.flatten()[at]):.6f}, padded "
            f"{float(padded.flatten()[at]):.6f}; allowed {tolerance:g})."
        )
    problem += " Set model.policy.layout: padded."
    if policy.config.layout != "auto":
        raise UserError(problem)
    policy.failed[layout] = f"{model} gives other log-probs in the {layout} layout"
    rank_zero_warn(f"{problem} policy.layout is auto: this run takes another layout.")


def _check_repeatable(model: Any, first: Tensor, second: Tensor, *, tolerance: float) -> None:
    """Refuse a model that draws random numbers in training mode though its dropout is 0."""
    difference = float((first - second).abs().max())
    if not difference <= tolerance:
        raise UserError(
            f"{type(model).__name__}: two passes over the same tokens in training mode differ by up to "
            f"{difference:.3g} in log-probs (allowed {tolerance:g}) though policy.dropout is 0, so that the ratio "
            f"of the first update would not be 1. It draws noise from {describe_noise(model)}. Turn it off in "
            "policy.model_kwargs."
        )


def _check_sampled(sampled: Tensor, scored: Tensor, *, exact: bool, model: str, own: bool) -> None:
    """Refuse a model whose completions were drawn from another distribution than the one that is trained.

    Args:
        sampled, scored: ``[N, T]``; NaN in ``sampled`` where nothing is known.
        own: They are of the model's own sampling; those of another sampler are warned of.
        exact: Both are fp32: no token may differ by more than 1e-3; else their mean by no more than 0.3.
    """
    known = ~sampled.isnan()
    difference = torch.where(known, (sampled - scored).abs(), 0.0)
    gap = float(difference.max() if exact else difference.sum() / known.sum().clamp(min=1))
    allowed = 1e-3 if exact else 0.3
    if gap <= allowed:
        return
    what = f"{model}: log-probs of sampling differ from those of the same tokens in one pass by {gap:.3g}"
    if not own:
        rank_zero_warn(
            f"The sampler's log-probs are not the policy's: {what}. Either its weights are others "
            "(objective.importance corrects for that), or it scores tokens otherwise."
        )
        return
    at = int(difference.argmax())
    one, other = float(sampled.flatten()[at]), float(scored.flatten()[at])
    raise UserError(
        f"{what} "
        f"({'at most' if exact else 'on average'} {allowed:g} allowed; one token {one:.6f} "
        f"sampled, {other:.6f} scored). Its cache does not give what the whole sequence "
        "gives, so that completions of another policy would be trained. Use VLLMSampler if vLLM has this "
        "architecture, or another model."
    )
