"""KL penalty, entropies and masks → ``model.objective``; how completions are drawn → ``model.sampling``."""

from __future__ import annotations

from lgrpo_lightning.commands.migration.draft import Draft

OBJECTIVE = "model.objective"
ONLY_WITH_KL = ("use_bias_correction_kl", "sync_ref_model", "ref_model_sync_steps", "ref_model_mixup_alpha")
ADAPTIVE = ("entropy_target", "entropy_coef_delta", "entropy_coef_max")
IMPORTANCE = "vllm_importance_sampling_"
SAMPLING = ("temperature", "top_p", "top_k", "min_p")
GENERATION = {
    **{name: f"model.sampling.{name}" for name in SAMPLING},
    **dict.fromkeys(("max_new_tokens", "max_tokens"), "model.sampling.max_new_tokens"),
    **dict.fromkeys(("stop", "stop_strings"), "model.sampling.stop"),
    "suppress_tokens": "model.policy.suppress_tokens",
}
"""Entry of ``generation_kwargs`` → key."""


def write_objective(draft: Draft) -> None:
    """The keys ``model.objective`` and ``model.updates`` that have rules of their own."""
    draft.asked.update((*ONLY_WITH_KL, *ADAPTIVE, "entropy_coef_min"))
    draft.carry("beta", f"{OBJECTIVE}.kl_coef")
    if draft.get("beta"):
        draft.carry("use_bias_correction_kl", f"{OBJECTIVE}.kl_unbiased")
        if draft.get("sync_ref_model"):
            draft.carry("ref_model_sync_steps", f"{OBJECTIVE}.reference_sync_steps")
            draft.carry("ref_model_mixup_alpha", f"{OBJECTIVE}.reference_sync_mix")
    _write_entropy(draft)
    if draft.get("router_aux_loss_coef") is None:
        draft.remark(
            "the model's own coefficient, where it is a mixture of experts; here model.objective.router_aux_coef "
            "names it, and is 0.",
            "router_aux_loss_coef",
        )
    else:
        draft.carry("router_aux_loss_coef", f"{OBJECTIVE}.router_aux_coef")
    draft.carry("max_grad_norm", "model.updates.gradient_clip_val", draft.get("max_grad_norm") or None)


def _write_entropy(draft: Draft) -> None:
    share = draft.get("top_entropy_quantile")
    draft.carry("top_entropy_quantile", f"{OBJECTIVE}.top_entropy")
    if share != 1:
        draft.remark(
            "its quantile is that of an optimizer step here, before the rollout's first update; of a micro-batch as it "
            "is there." + (" It has to be above 0 here." if share == 0 else ""),
            "top_entropy_quantile",
        )
    if draft.get("use_adaptive_entropy"):
        for field in ADAPTIVE:
            draft.carry(field, f"{OBJECTIVE}.{field}")
        if draft.get("entropy_coef_min"):
            draft.remark("the lower bound is 0 here.", "entropy_coef_min")


def write_importance(draft: Draft) -> None:
    """The correction for vLLM: ``model.objective.importance`` and its bounds."""
    names = ("correction", "mode", "clip_max", "clip_min", "cap")
    correction, mode, largest, smallest, cap = (IMPORTANCE + name for name in names)
    draft.asked.update((correction, mode, largest, smallest, cap))
    if not draft.get("use_vllm"):
        return
    if not draft.get(correction):
        draft.carry(correction, f"{OBJECTIVE}.importance", "none")
        return
    draft.carry(mode, f"{OBJECTIVE}.importance")
    draft.carry(largest if draft.get(cap) is None else cap, f"{OBJECTIVE}.importance_max")
    draft.carry(smallest, f"{OBJECTIVE}.importance_min")
    if draft.get("top_p") != 1 or draft.get("top_k") or draft.get("min_p"):
        draft.remark("not applied here where top_p, top_k or min_p truncate.", correction)


def write_sampling(draft: Draft) -> None:
    """The keys ``model.sampling`` and ``model.policy.suppress_tokens``."""
    for field in SAMPLING:
        draft.carry(field, f"model.sampling.{field}", max(0, draft.get(field) or 0))
    draft.carry("max_completion_length", "model.sampling.max_new_tokens")
    others = list[str]()
    for name, value in (draft.get("generation_kwargs") or {}).items():
        if name in GENERATION:
            given = [value] if isinstance(value, str) else value
            draft.put(GENERATION[name], given, f"generation_kwargs: {name}")
        else:
            others.append(repr(name))
    if others:
        draft.remark(f"no match for {', '.join(others)}.", "generation_kwargs")
    if draft.get("repetition_penalty") != 1:
        draft.remark("no match: the log-probs of what is drawn would not be the policy's.", "repetition_penalty")
