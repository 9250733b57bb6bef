"""``loss_type`` and what belongs to it → a loss and its normaliser; the estimator."""

from __future__ import annotations

from typing import Any

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
SCALES = {True: "group", False: "none", "group": "group", "batch": "batch", "none": "none"}
AGGREGATIONS = ("sum_then_normalize", "normalize_then_sum")
LEVELS = ("token", "sequence")

Chosen = tuple[str, dict[str, Any], tuple[str, ...]]
"""Class, its options, and the fields that these are from."""


def write_loss(draft: Draft) -> None:
    """The keys ``model.loss``.

    Raises:
        ValueError: TRL has no such ``loss_type`` or ``importance_sampling_level``.
    """
    kind, level = draft.value("loss_type"), draft.value("importance_sampling_level")
    if kind not in NORMALIZER:
        raise draft.recipe.refuse("loss_type", ", ".join(NORMALIZER))
    if level not in LEVELS:
        raise draft.recipe.refuse("importance_sampling_level", " or ".join(LEVELS))
    rules = {"cispo": _cispo, "sapo": _sapo, "vespo": _vespo}
    name, options, fields = rules.get(kind, _clipped)(draft, kind, level)
    named = f"loss_type {kind}" if level == "token" else f"loss_type {kind} at the level {level}"
    said = named if draft.written("loss_type") else f"{named}: TRL's default"
    draft.put("model.loss.class_path", name, said)
    for (option, value), field in zip(options.items(), fields, strict=True):
        draft.put(f"model.loss.init_args.{option}", value, _source(draft, field))
    draft.put("model.loss.init_args.normalizer", NORMALIZER[kind])
    if kind == "bnpo":
        draft.remark("the normaliser is that of an optimizer step here, of a micro-batch there.", "loss_type")


def _source(draft: Draft, field: str) -> str:
    return field if draft.written(field) else f"{field}: TRL's default"


def _clipped(draft: Draft, kind: str, level: str) -> Chosen:
    low, high, delta = draft.value("epsilon"), draft.value("epsilon_high"), draft.value("delta")
    values = (low, low if high is None else high)
    fields = ("epsilon", "epsilon" if high is None else "epsilon_high")
    if level == "sequence":
        if delta is not None:
            draft.remark("ratios of completions have no such bound here.", "delta")
        names = dict(zip(("clip_range_low", "clip_range_high"), values, strict=True))
        return ("LUSPO" if kind == "luspo" else "GSPO"), names, fields
    options = dict(zip(("clip_low", "clip_high"), values, strict=True))
    if delta is None:
        return "ClippedSurrogate", options, fields
    if delta <= 1 + values[1]:
        draft.remark(
            "has to be above 1 + epsilon_high here; it is left out, and the loss is another one.",
            "delta",
        )
        return "ClippedSurrogate", options, fields
    return "ClippedSurrogate", {**options, "delta": delta}, (*fields, "delta")


def _cispo(draft: Draft, kind: str, level: str) -> Chosen:
    high = draft.value("epsilon_high")
    if high is None:
        high = draft.value("epsilon")
        draft.remark(
            f"TRL then bounds CISPO's weights by epsilon, {high}; ScaleRL has epsilon_high 5.0.",
            "epsilon_high",
        )
    _token_only(draft, level, "CISPO")
    return "CISPO", {"ratio_max": high}, ("epsilon_high",)


def _sapo(draft: Draft, kind: str, level: str) -> Chosen:
    _token_only(draft, level, "SAPO")
    fields = ("sapo_temperature_pos", "sapo_temperature_neg")
    return "SAPO", {name.removeprefix("sapo_"): draft.value(name) for name in fields}, fields


def _vespo(draft: Draft, kind: str, level: str) -> Chosen:
    fields = ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg")
    names = {f: f.removeprefix("vespo_").replace("lambda", "rate") for f in fields}
    if level == "sequence" and draft.value("beta"):
        _token_only(draft, level, "the KL penalty of VESPO")
    return "VESPO", {names[f]: draft.value(f) for f in fields}, fields


def _token_only(draft: Draft, level: str, name: str) -> None:
    if level == "sequence":
        draft.remark(f"{name} has ratios of tokens only here.", "importance_sampling_level")


def write_estimator(draft: Draft) -> None:
    """The keys ``model.advantage_estimator``.

    Raises:
        ValueError: TRL has no such ``scale_rewards`` or ``multi_objective_aggregation``.
    """
    scale, how = draft.value("scale_rewards"), draft.value("multi_objective_aggregation")
    if scale not in SCALES:
        raise draft.recipe.refuse("scale_rewards", "group, batch, none, true or false")
    if how not in AGGREGATIONS:
        raise draft.recipe.refuse("multi_objective_aggregation", " or ".join(AGGREGATIONS))
    if how == "normalize_then_sum":
        said = "multi_objective_aggregation: normalize_then_sum"
        draft.put("model.advantage_estimator.class_path", "GDPO", said)
    else:
        said = "GRPO as in TRL. The default here is LambdaGRPO, which counts a shared step once"
        draft.put("model.advantage_estimator.class_path", "GRPO", said)
    draft.carry("scale_rewards", "model.advantage_estimator.init_args.scale", SCALES[scale])
