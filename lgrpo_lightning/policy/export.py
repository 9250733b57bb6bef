"""From a policy or a checkpoint to a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.end_of_sequence import list_eos_token_ids
from lgrpo_lightning.policy.loading import load_config
from lgrpo_lightning.policy.lora import is_adapter_weight
from lgrpo_lightning.policy.merging import check_merged, check_names, find_tied_weights, merge_weights, unties
from lgrpo_lightning.policy.multimodal import copy_processor
from lgrpo_lightning.policy.policy import Policy
from lgrpo_lightning.policy.sharded_weights import gather_whole
from lgrpo_lightning.policy.training_noise import is_noise

PREFIX = "policy.model."


def load_weights(policy: Policy, state_dict: Mapping[str, Tensor]) -> None:
    """Take a checkpoint's weights into ``policy``; those of an adapter alone are enough where it has one.

    Raises:
        ValueError: Weights are missing or do not belong to this model.
    """
    ours = {name.removeprefix(PREFIX): t for name, t in state_dict.items() if name.startswith(PREFIX)}
    missing, unexpected = policy.model.load_state_dict(ours, strict=False)
    needed = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    if unexpected or needed & set(missing):
        raise UserError(
            f"The checkpoint does not fit the model {policy.config.path!r}: missing "
            f"{sorted(needed & set(missing))[:3]}, not expected {list(unexpected)[:3]}."
        )


def export(
    policy: Policy,
    tokenizer: Any,
    out: Path,
    *,
    adapter: bool = False,
    writes: bool = True,
    dtype: str | None = None,
) -> None:
    """Write a folder that ``AutoModelForCausalLM.from_pretrained`` loads. ``policy`` stays as it is.

    Its generation config lists every token that ended completions in training.

    Where the policy is sharded this is collective: every rank calls it, and the one that ``writes`` holds all weights
    in CPU memory.

    Args:
        out: The folder; made where it is missing.
        adapter: Write the LoRA adapter alone, in place of the merged model.
        dtype: Type of the weights in the files; None: that of the base's files, of an adapter that of training.

    Raises:
        ValueError: ``adapter`` without LoRA.
        RuntimeError: Merged weights are not those of the model with its adapter; nothing is written.
    """
    merge = policy.config.lora is not None and not adapter
    if adapter and policy.config.lora is None:
        raise UserError("There is no adapter to export: the run trained all weights (policy.lora is null).")
    if merge and policy.config.quantization:
        if not writes:
            return
        policy = _read_whole_base(policy)
    model = policy.model
    weights = dict(_gather_weights(model, merged=merge, kept=writes))
    if not writes:
        return
    if merge:
        _check(model, weights)
    untied = merge and unties(model)
    kept = weights if untied else {n: t for n, t in weights.items() if n not in find_tied_weights(model)}
    stored = getattr(torch, dtype) if dtype else None if adapter else _find_published_type(policy)
    if stored is not None:
        kept = {n: t.to(stored) if t.is_floating_point() else t for n, t in kept.items()}
    out.mkdir(parents=True, exist_ok=True)
    with _publish(policy, tokenizer, adapter=adapter, untied=untied):
        model.save_pretrained(out, state_dict=kept)
    tokenizer.save_pretrained(out)
    if adapter:
        return
    if stored is not None:
        _note_type(out / "config.json", str(stored).removeprefix("torch."))
    copy_processor(policy.config.resolved_path, policy.config.revision, out)


def _read_whole_base(policy: Policy) -> Policy:
    """The adapter of ``policy`` on its base model as it is in the files, not quantised; on the CPU."""
    whole = Policy(replace(policy.config, quantization=None), pad=policy.pad)
    load_weights(whole, {f"{PREFIX}{n}": t for n, t in policy.model.state_dict().items() if is_adapter_weight(n)})
    return whole


def _check(model: Any, merged: Mapping[str, Tensor]) -> None:
    check_names(model, set(merged))
    if not any(hasattr(p, "full_tensor") for p in model.parameters()):  # no rank has a whole model to compare with
        check_merged(model, merged)


def _find_published_type(policy: Policy) -> torch.dtype | None:
    """The type that the base's configuration names; None where it names none, or the base is gone."""
    try:
        base = load_config(policy.config)
    except ValueError:
        return None
    dtype = getattr(base, "dtype", None) or getattr(base.get_text_config(), "dtype", None)
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _note_type(path: Path, dtype: str) -> None:
    """Name the type of the weights in a ``config.json``, and in the parts of a model that have one each."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for part in (content, *(v for v in content.values() if isinstance(v, dict) and "dtype" in v)):
        part["dtype"] = dtype
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _publish(policy: Policy, tokenizer: Any, *, adapter: bool, untied: bool) -> Iterator[None]:
    """Inside, the model's configurations are those to publish: the base's own, as far as training set them otherwise.

    They name the tokens that ended completions, and say where embeddings and head are not tied any more.
    """
    model = policy.model
    before = model.config, model.generation_config
    model.config, model.generation_config = deepcopy(before)
    # save_pretrained writes the adapter alone where this says that there is one
    model._hf_peft_config_loaded = adapter
    try:
        text = model.config.get_text_config()
        if getattr(text, "rope_parameters", None):
            text.rope_parameters = model.own_rope_parameters
        for config in (model.config, text) if untied else ():
            if hasattr(config, "tie_word_embeddings"):
                config.tie_word_embeddings = False
        _undo_noise(policy)
        if (generation := model.generation_config) is not None:
            listed = generation.eos_token_id
            ends = list_eos_token_ids(policy.config, tokenizer)
            if set(listed if isinstance(listed, list) else [listed]) != set(ends):
                generation.eos_token_id = list(ends)
        yield
    finally:
        model.config, model.generation_config = before
        model._hf_peft_config_loaded = policy.config.lora is not None


def _undo_noise(policy: Policy) -> None:
    """Put dropout, jitter and router outputs into the configuration as the base has them, not as trained."""
    from transformers import AutoConfig

    config, ours = policy.config, policy.model.config
    try:
        base: Any = AutoConfig.from_pretrained(config.resolved_path, revision=config.revision)
    except (OSError, ValueError):  # gone since it was loaded, or with code of its own
        return
    for mine, published in ((ours, base), (ours.get_text_config(), base.get_text_config())):
        for name, value in vars(published).items():
            if is_noise(name, value) or name == "output_router_logits":
                setattr(mine, name, value)


def _gather_weights(model: Any, *, merged: bool, kept: bool) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor on the CPU) pairs; nothing where they are not ``kept``."""
    for name, tensor in merge_weights(model) if merged else model.state_dict().items():
        gathered = gather_whole(tensor)
        if kept:
            yield name, gathered.detach().cpu()
