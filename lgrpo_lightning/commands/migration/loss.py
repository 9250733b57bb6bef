"""``loss_type`` and what belongs to it → a loss and its normaliser; the estimator."""

from __future__ import annotations

from lgrpo_lightning.commands.migration.draft import Draft

NORMALIZER = {
    "grpo": "sequence",
    "dapo": "token",
    "bnpo": "token",
    "dr_grpo": "constant",
    "luspo": "completion",
    "cispo": "token",
    "sapo": "sequence",
    "vespo": "token",
}
"""``loss_type`` → what the sum over tokens is divided by."""
SAPO = {"temperature_pos": "sapo_temperature_pos", "temperature_neg": "sapo_temperature_neg"}
VESPO = {"k_pos": "vespo_k_pos", "rate_pos": "vespo_lambda_pos", "k_neg": "vespo_k_neg", "rate_neg": "vespo_lambda_neg"}
"""The options of these losses and TRL's names of them."""
SCALES = {"group": "group", "batch": "batch", "none": "none", True: "group", False: "none"}


def write_loss(draft: Draft) -> None:
    """The keys ``model.loss``."""
    kind = draft.choose("loss_type", NORMALIZER)
    level = draft.choose("importance_sampling_level", ("token", "sequence"))
    name, options = _choose_loss(draft, kind, level)
    of_tokens = "the KL penalty of VESPO" if kind == "vespo" and draft.get("beta") else name
    if level == "sequence" and of_tokens in ("CISPO", "SAPO", "the KL penalty of VESPO"):
        draft.remark(f"{of_tokens} has ratios of tokens only here.", "importance_sampling_level")
    said = f"loss_type {kind}" if level == "token" else f"loss_type {kind} at the level {level}"
    draft.put("model.loss.class_path", name, said if draft.is_given("loss_type") else f"{said}: TRL's default")
    for option, field in options.items():
        draft.put(f"model.loss.init_args.{option}", draft.get(field), draft.name_source(field))
    draft.put("model.loss.init_args.normalizer", NORMALIZER[kind])
    if kind == "bnpo":
        draft.remark("the normaliser is that of an optimizer step here, of a micro-batch there.", "loss_type")


def _choose_loss(draft: Draft, kind: str, level: str) -> tuple[str, dict[str, str]]:
    """The class, and its options with TRL's names."""
    if kind in ("sapo", "vespo"):
        return ("SAPO", SAPO) if kind == "sapo" else ("VESPO", VESPO)
    low, high, delta = draft.get("epsilon"), draft.get("epsilon_high"), draft.get("delta")
    upper = "epsilon" if high is None else "epsilon_high"
    if kind == "cispo":
        if high is None:
            said = f"TRL then bounds CISPO's weights by epsilon, {low}; ScaleRL has epsilon_high 5.0."
            draft.remark(said, "epsilon_high")
        return "CISPO", {"ratio_max": upper}
    if level == "sequence":
        if delta is not None:
            draft.remark("ratios of completions have no such bound here.", "delta")
        return "LUSPO" if kind == "luspo" else "GSPO", {"clip_range_low": "epsilon", "clip_range_high": upper}
    options = {"clip_low": "epsilon", "clip_high": upper}
    if delta is not None and delta > 1 + draft.get(upper):
        options["delta"] = "delta"
    elif delta is not None:
        draft.remark("has to be above 1 + epsilon_high here; it is left out, and the loss is another one.", "delta")
    return "ClippedSurrogate", options


def write_estimator(draft: Draft) -> None:
    """The keys ``model.advantage_estimator``."""
    scale = draft.choose("scale_rewards", SCALES)
    aggregation = draft.choose("multi_objective_aggregation", ("sum_then_normalize", "normalize_then_sum"))
    name, said = "GRPO", "GRPO as in TRL. The default here is LambdaGRPO, which counts a shared step once"
    if aggregation == "normalize_then_sum":
        name, said = "GDPO", "multi_objective_aggregation: normalize_then_sum"
    draft.put("model.advantage_estimator.class_path", name, said)
    draft.carry("scale_rewards", "model.advantage_estimator.init_args.scale", SCALES[scale])
