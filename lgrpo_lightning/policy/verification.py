"""Checks, before the first step, that log-probs are the model's own, the sampler's and the same in every pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]
from torch import Tensor

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.head import compute_logits
from lgrpo_lightning.policy.image_body import prepare_pass
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
    """Check once that the log-probs of one group are the model's own and the sampler's; then the chosen layout.

    Args:
        sampled: ``[N, T]`` log-probs of the sampler; NaN where none are known.
        own: The sampler draws with these very weights, so that others are an error; else they are warned of, where
            they are far off.
        beside: Prompts and completions of the shortest and the longest row of the batch: neither may change the
            other's log-probs.

    Raises:
        ValueError: They differ; with both numbers and what to do.
    """
    if policy.config.verify and "padded" not in policy.verified:
        whole = torch.tensor([[*prompts[0], *completions[0]]], device=policy.device)
        images = policy.processor.make_inputs(prompts[:1], starts=[0], width=whole.shape[1], device=policy.device)
        ids = whole[:, :32]
        with policy.generation_model() as model:
            _check_causal(model, ids, tolerance=1e-3 if policy.exact else 0.1)
            _check_head(model, whole if images else ids, images, tolerance=1e-4 if policy.exact else 3e-2)
            if beside is not None:
                _check_apart(policy, beside, temperature=temperature)
            if sampled is not None:
                padded = policy(prompts, completions, temperature=temperature, layout="padded").logprobs
                _check_sampled(sampled, padded, exact=policy.exact and own, own=own, model=type(model).__name__)
            if not policy.draws_dropout:
                model.train()  # generation_model, around this, puts the mode back
                _check_repeatable(policy, prompts, completions, temperature=temperature)
    policy.verified.add("padded")
    verify_layout(policy, prompts, completions, temperature=temperature)


def verify_layout(
    policy: Policy, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, temperature: float
) -> None:
    """Check once that the layout that was chosen gives the log-probs of padded rows.

    One that does not is given up under ``layout: auto``; ``policy.failed`` then says why.

    Raises:
        ValueError: They differ, and the layout is configured.
    """
    layout, model = policy.layout, type(policy.model).__name__
    if layout in policy.verified or layout == "padded":
        return
    checked: list[Rows] = [(prompts, completions)] if policy.config.verify else []
    if checked and layout == "prefix":
        # prompts of two lengths and completions of several tokens, whatever this batch has: some models count
        # positions from the first column, and Mamba's first version goes on from a state by one token only
        prompt, completion = ([*prompts[0]] * 2)[-8:], ([*completions[0]] * 4)[:4]
        checked.append(([prompt, prompt[-1:]], [completion] * 2))
    for rows in checked:
        with policy.generation_model():
            padded = policy(*rows, temperature=temperature, layout="padded").logprobs
            problem = compare_passes(
                lambda rows=rows: [policy(*rows, temperature=temperature, layout=layout).logprobs],  # type: ignore[misc]
                [padded],
                tolerance=1e-4 if policy.exact else 0.5,
            )
        if problem is None:
            continue
        problem = f"{model}: the log-probs of the {layout} layout {problem}. Set model.policy.layout: padded."
        if policy.config.layout != "auto":
            raise UserError(problem)
        policy.failed[layout] = f"{model} gives other log-probs in the {layout} layout"
        rank_zero_warn(f"{problem} policy.layout is auto: this run takes another layout.")
        return
    policy.verified.add(layout)


def compare_passes(
    compute: Callable[[], Sequence[Tensor]], expected: Sequence[Tensor], *, tolerance: float, relative: bool = False
) -> str | None:
    """What is wrong with another way to ``compute`` what is ``expected``: an error or other numbers; None: nothing."""
    try:
        found = compute()
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        return f"cannot be computed ({type(error).__name__}: {reason})"
    differences = (find_difference(a, b, tolerance, relative=relative) for a, b in zip(found, expected, strict=True))
    return next((f"differ by up to {difference}" for difference in differences if difference), None)


def find_difference(found: Tensor, expected: Tensor, tolerance: float, *, relative: bool = False) -> str | None:
    """The largest difference with both numbers, where it is above the tolerance or NaN; None elsewhere.

    Args:
        relative: Whether the tolerance is a share of the largest number that is expected, where that is above 1.
    """
    allowed = tolerance * max(1.0, float(expected.abs().max())) if relative else tolerance
    difference = (found - expected).abs()
    largest = float(difference.max())
    if largest <= allowed:
        return None
    one, other = (float(x.flatten()[difference.argmax()]) for x in (found, expected))
    return f"{largest:.3g} ({one:.6f} in place of {other:.6f}; allowed {allowed:.3g})"


@torch.no_grad()
def _check_head(model: Any, input_ids: Tensor, images: Mapping[str, Tensor], *, tolerance: float) -> None:
    """Refuse a model whose logits are not what ``compute_logits`` makes of its last hidden states."""
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]  # given, as in every pass
    body, given = prepare_pass(model, input_ids, positions, None, images)
    output = body(input_ids=input_ids, use_cache=False, **given)
    ours = compute_logits(model, output.last_hidden_state[0]).float()
    del given["position_ids"]  # the model numbers them itself
    own = _compute_own_logits(model, input_ids, **given)
    drawn = own.isfinite()
    if difference := find_difference(ours[drawn], own[drawn], tolerance, relative=True):
        raise UserError(
            f"{type(model).__name__}: logits from hidden states differ from the model's own by {difference}. The model "
            "transforms its logits after the head, or counts positions, in a way this library does not know, so its "
            f"log-probs would be wrong. Please report the model type {model.config.model_type!r}."
        )


@torch.no_grad()
def _check_causal(model: Any, input_ids: Tensor, *, tolerance: float) -> None:
    """Refuse a model in which a token sees those after it, as in an encoder: it has no log-probs of a next token."""
    changed = input_ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % model.get_input_embeddings().weight.shape[0]
    own, other = (_compute_own_logits(model, ids)[:-1] for ids in (input_ids, changed))
    drawn = own.isfinite()
    if bool(drawn.any()) and find_difference(other[drawn], own[drawn], tolerance, relative=True):
        raise UserError(
            f"{type(model).__name__} is bidirectional: another last token changes what it says of the tokens before. "
            "It is an encoder, not a causal language model, and cannot be trained to continue a prompt."
        )


def _compute_own_logits(model: Any, input_ids: Tensor, **images: Tensor) -> Tensor:
    """``[n, V]`` fp32, by the model's own forward; -inf stands for tokens that it never draws."""
    logits: Tensor = model(input_ids=input_ids, use_cache=False, **images).logits[0]
    if not bool((logits < torch.inf).all()):
        raise UserError(
            f"{type(model).__name__} gives NaN or infinity for logits, though its weights are finite: numbers "
            f"overflow in {logits.dtype}. Use policy.dtype: float32 or bfloat16 (trainer.precision: bf16-mixed)."
        )
    return logits.float()


def _check_apart(policy: Policy, rows: Rows, *, temperature: float) -> None:
    """Refuse a model whose log-probs of a row depend on the rows that share its pass."""
    together = policy(*rows, temperature=temperature, layout="padded").logprobs
    for prompt, completion, beside in zip(*rows, together, strict=True):
        alone = policy([prompt], [completion], temperature=temperature, layout="padded").logprobs[0]
        if difference := find_difference(beside[: len(completion)], alone, 1e-3 if policy.exact else 0.5):
            raise UserError(
                f"{type(policy.model).__name__}: log-probs of a row of {len(prompt) + len(completion)} tokens differ "
                f"by up to {difference} from those that it has in a pass of its own, so that π/π_old depends on which "
                "rows share a pass. Take another model, or lower sampling.max_new_tokens and data.max_prompt_length "
                "where it comes with long rows."
            )


def _check_repeatable(
    policy: Policy, prompts: Sequence[Tokens], completions: Sequence[Tokens], *, temperature: float
) -> None:
    """Refuse a model that draws random numbers in training mode though its dropout is 0."""
    first, second = (
        policy.score(prompts, completions, temperature=temperature, layout="padded").logprobs for _ in range(2)
    )
    if difference := find_difference(first, second, 1e-4 if policy.exact else 0.5):
        raise UserError(
            f"{type(policy.model).__name__}: two passes over the same tokens in training mode differ by up to "
            f"{difference} in log-probs though policy.dropout is 0, so that the ratio of the first update would not be "
            f"1. It draws noise from {describe_noise(policy.model)}. Turn it off in policy.model_kwargs."
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
    one, other = (float(x.flatten()[difference.argmax()]) for x in (sampled, scored))
    raise UserError(
        f"{what} ({'at most' if exact else 'on average'} {allowed:g} allowed; one token {one:.6f} sampled, {other:.6f} "
        "scored). Its cache does not give what the whole sequence gives, so that completions of another policy would "
        "be trained. Use VLLMSampler if vLLM has this architecture, or another model."
    )
