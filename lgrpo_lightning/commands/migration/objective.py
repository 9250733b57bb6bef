"""KL penalty, entropies and masks → ``model.objective``; how completions are drawn → ``model.sampling``."""

from __future__ import annotations

from typing import Any

from lgrpo_lightning.commands.migration.draft import Draft

KL = ("use_bias_correction_kl", "sync_ref_model", "ref_model_sync_steps", "ref_model_mixup_alpha")
ADAPTIVE = ("entropy_target", "entropy_coef_delta", "entropy_coef_max")
IMPORTANCE = (
    "vllm_importance_sampling_correction",
    "vllm_importance_sampling_mode",
    "vllm_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min",
    "vllm_importance_sampling_cap",
)


def write_objective(draft: Draft) -> None:
    """The keys ``model.objective`` and ``model.updates``."""
    draft.asked.update((*KL, *ADAPTIVE, "entropy_coef_min"))
    _kl(draft)
    _entropy(draft)
    draft.carry("off_policy_mask_threshold", "model.objective.off_policy_kl")
    router = draft.value("router_aux_loss_coef")
    if router is None:
        draft.remark(
            "the model's own coefficient, where it is a mixture of experts; here model.objective.router_aux_coef "
            "names it, and is 0.",
            "router_aux_loss_coef",
        )
    else:
        draft.carry("router_aux_loss_coef", "model.objective.router_aux_coef")
    draft.carry("mask_truncated_completions", "model.updates.mask_truncated")
    limit = draft.value("max_grad_norm")
    draft.carry("max_grad_norm", "model.updates.gradient_clip_val", limit if limit else None)


def _kl(draft: Draft) -> None:
    draft.carry("beta", "model.objective.kl_coef")
    if not draft.value("beta"):
        return
    draft.carry("use_bias_correction_kl", "model.objective.kl_unbiased")
    if draft.value("sync_ref_model"):
        draft.carry("ref_model_sync_steps", "model.objective.reference_sync_steps")
        draft.carry("ref_model_mixup_alpha", "model.objective.reference_sync_mix")


def _entropy(draft: Draft) -> None:
    share = draft.value("top_entropy_quantile")
    draft.carry("top_entropy_quantile", "model.objective.top_entropy")
    if share != 1:
        draft.remark(
            "its quantile is that of an optimizer step here, before the rollout's first update; of a micro-batch as it "
            "is there." + (" It has to be above 0 here." if share == 0 else ""),
            "top_entropy_quantile",
        )
    draft.carry("entropy_coef", "model.objective.entropy_coef")
    if draft.value("use_adaptive_entropy"):
        for field in ADAPTIVE:
            draft.carry(field, f"model.objective.{field}")
        if draft.value("entropy_coef_min"):
            draft.remark("the lower bound is 0 here.", "entropy_coef_min")


def write_importance(draft: Draft) -> None:
    """The correction for vLLM: ``model.objective.importance`` and its bounds."""
    draft.asked.update(IMPORTANCE)
    if not draft.value("use_vllm"):
        return
    cap = draft.value("vllm_importance_sampling_cap")
    largest = "vllm_importance_sampling_clip_max" if cap is None else "vllm_importance_sampling_cap"
    if not draft.value("vllm_importance_sampling_correction"):
        draft.carry("vllm_importance_sampling_correction", "model.objective.importance", "none")
        return
    draft.carry("vllm_importance_sampling_mode", "model.objective.importance")
    draft.carry(largest, "model.objective.importance_max")
    draft.carry("vllm_importance_sampling_clip_min", "model.objective.importance_min")
    if draft.value("top_p") != 1 or draft.value("top_k") or draft.value("min_p"):
        draft.remark(
            "not applied here where top_p, top_k or min_p truncate.", "vllm_importance_sampling_correction"
        )


def write_sampling(draft: Draft) -> None:
    """The keys ``model.sampling`` and ``model.policy.suppress_tokens``."""
    more: dict[str, Any] = dict(draft.value("generation_kwargs") or {})
    for field in ("temperature", "top_p", "top_k", "min_p"):
        value = draft.value(field)
        value = 0.0 if value is None and field == "min_p" else value
        draft.carry(field, f"model.sampling.{field}", max(0, value) if field == "top_k" else value)
    draft.carry("max_completion_length", "model.sampling.max_new_tokens")
    for name, key in (
        *((name, f"model.sampling.{name}") for name in ("temperature", "top_p", "top_k", "min_p")),
        *((name, "model.sampling.max_new_tokens") for name in ("max_new_tokens", "max_tokens")),
        ("stop", "model.sampling.stop"),
        ("stop_strings", "model.sampling.stop"),
        ("suppress_tokens", "model.policy.suppress_tokens"),
    ):
        if name in more:
            found = more.pop(name)
            value = [found] if isinstance(found, str) else found
            draft.put(key, value, f"generation_kwargs: {name}")
    if more:
        draft.remark(f"no match for {', '.join(map(repr, more))}.", "generation_kwargs")
    if draft.value("repetition_penalty") != 1:
        draft.remark(
            "no match: the log-probs of what is drawn would not be the policy's.", "repetition_penalty"
        )
