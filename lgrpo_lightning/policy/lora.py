"""Low-rank adapters (LoRA, arXiv:2106.09685) through peft, inside the Hugging Face model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

from torch import Tensor

from lgrpo_lightning.errors import MissingPackageError, UserError, listed
from lgrpo_lightning.policy.lora_targets import choose_targets, find_excluded
from lgrpo_lightning.policy.refusals import check_weights

ADAPTER = "default"
NO_TARGETS = "not found in the base model"
"""What peft says where no module has one of the names."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Train low-rank adapters in place of the weights. Needs the extra ``peft``.

    The reference of the KL penalty is then the model without its adapter, at no extra memory, and checkpoints
    hold the adapter alone.

    Args:
        rank: Rank of each update.
        alpha: The update is scaled by ``alpha / rank``.
        dropout: Dropout before the adapter.
        targets: Names (or ends of names) of the modules that get one; "all-linear" is all but the head. Names that
            the text part of a model lacks are of the part for images.
        rslora: Scale by ``alpha / sqrt(rank)`` instead.
        from_adapter: Folder or hub name of a peft adapter to continue from. Rank, alpha, targets and
            rslora are the adapter's; the reference is the model with it, as a frozen copy.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: list[str] | Literal["all-linear"] = "all-linear"
    rslora: bool = False
    from_adapter: str | None = None

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            if getattr(self, name) < 1:
                raise UserError(f"policy.lora.{name} is {getattr(self, name)}; it must be at least 1.")
        if self.targets != "all-linear":
            object.__setattr__(self, "targets", list(listed("policy.lora.targets", self.targets)))
        if not 0 <= self.dropout < 1:
            raise UserError(f"policy.lora.dropout is {self.dropout}; it must be at least 0 and below 1.")


def add_adapter(model: Any, lora: Lora) -> None:
    """Put an adapter into ``model`` and freeze everything else.

    Raises:
        ImportError: peft is missing.
        ValueError: No module has one of the names in ``targets``.
    """
    if find_spec("peft") is None:
        raise MissingPackageError('policy.lora needs peft: pip install "lgrpo_lightning[peft]"')
    if lora.from_adapter:
        _load_adapter(model, lora.from_adapter)
        _train_adapter_alone(model)
        return
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=choose_targets(model, lora.targets),
        use_rslora=lora.rslora,
        exclude_modules=find_excluded(model, lora.targets) or None,
        task_type="CAUSAL_LM",
    )
    try:
        model.add_adapter(config, adapter_name=ADAPTER)
    except ValueError as error:
        if NO_TARGETS not in str(error):
            raise UserError(f"policy.lora: peft refuses {type(model).__name__}: {error}") from error
        names = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if hasattr(m, "in_features")})
        raise UserError(
            f"policy.lora.targets is {lora.targets!r}, of which the model has none; its linear layers are called "
            f"{', '.join(names)}. Use some of these, or all-linear."
        ) from error
    _train_adapter_alone(model)


def _load_adapter(model: Any, path: str) -> None:
    """Put the adapter at ``path`` into ``model``, all of its weights and no others."""
    try:
        info = model.load_adapter(path, adapter_name=ADAPTER, is_trainable=True, ignore_mismatched_sizes=True)
    except Exception as error:  # of any kind: OSError, SafetensorError, re.error
        raise _explain_unreadable(path, error) from error
    check_weights("policy.lora.from_adapter", path, model, vars(info), unexpected=info.unexpected_keys)


def _explain_unreadable(path: str, error: Exception) -> ValueError:
    return UserError(
        f"policy.lora.from_adapter is {path!r}: no adapter can be read there ({type(error).__name__}: {error}). "
        "Give a folder with adapter_config.json and adapter_model.safetensors, such as `lgrpo export --adapter` writes."
    )


def _train_adapter_alone(model: Any) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter_weight(name))


def settle(lora: Lora) -> Lora:
    """``lora`` completed from the adapter that it continues from.

    Raises:
        ValueError: There is no such adapter, it is of a kind that is not trained here, or an option contradicts it.
    """
    if lora.from_adapter is None:
        return lora
    if find_spec("peft") is None:
        raise MissingPackageError('policy.lora needs peft: pip install "lgrpo_lightning[peft]"')
    from peft import PeftConfig

    try:
        config: Any = PeftConfig.from_pretrained(lora.from_adapter)
        odd = _list_untrainable(config)
        modules = config.target_modules
        read: dict[str, Any] = {
            "rank": int(config.r),
            "alpha": int(config.lora_alpha),
            "targets": sorted(modules) if isinstance(modules, list | set) else modules,
            "rslora": bool(config.use_rslora),
        }
    except Exception as error:  # of any kind: OSError, KeyError, TypeError
        raise _explain_unreadable(lora.from_adapter, error) from error
    if odd:
        raise UserError(
            f"policy.lora.from_adapter is {lora.from_adapter!r}, an adapter with {odd}, which cannot be trained here: "
            "plain LoRA can."
        )
    default = Lora()
    for name, value in read.items():
        option = getattr(lora, name)
        option = sorted(option) if isinstance(option, list) else option
        if option not in (getattr(default, name), value):
            raise UserError(
                f"policy.lora.{name} is {option!r}, but the adapter {lora.from_adapter} has {value!r}. Leave it out."
            )
    if not isinstance(read["targets"], list):  # a regular expression, which peft reads with the adapter
        del read["targets"]
    return replace(lora, **read)


def _list_untrainable(config: Any) -> str:
    """The parts of an adapter that are not plain LoRA."""
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA":
        return f"peft_type {config.peft_type}"
    extra = {
        "use_dora": config.use_dora,
        "bias": config.bias not in ("none", None),
        "modules_to_save": config.modules_to_save,
        "rank_pattern": config.rank_pattern,
        "alpha_pattern": config.alpha_pattern,
        "lora_alpha": float(config.lora_alpha) != int(config.lora_alpha),
    }
    return ", ".join(f"{name} {getattr(config, name)!r}" for name, odd in extra.items() if odd)


@contextmanager
def disable_adapter(model: Any) -> Iterator[None]:
    """The base model, for a while."""
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def list_lora_layers(model: Any) -> dict[str, Any]:
    """The modules that carry an adapter, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def is_adapter_weight(name: str) -> bool:
    """Whether a weight of the model is the adapter's, by its name.

    >>> is_adapter_weight("q_proj.lora_A.default.weight"), is_adapter_weight("lora_gate.weight")
    (True, False)
    """
    return re.search(rf"\.lora_\w+\.{ADAPTER}(\.|$)", name) is not None


def list_adapter_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name in a peft file, weight) pairs of the adapter."""
    for name, tensor in model.state_dict().items():
        if is_adapter_weight(name):
            yield f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}", tensor


def list_adapted_modules(model: Any) -> tuple[str, ...]:
    """The last parts of the names of the modules that carry an adapter: "q_proj", ..."""
    return tuple(sorted({name.rpartition(".")[2] for name in list_lora_layers(model)}))
