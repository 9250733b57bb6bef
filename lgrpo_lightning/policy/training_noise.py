"""Random numbers of a model in training mode: dropout and other noise."""

from __future__ import annotations

from typing import Any

from torch import nn

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def is_noise(name: str, value: Any) -> bool:
    """Whether an entry of a configuration is a probability of noise in training mode."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and ("jitter" in name or "drop" in name)


def set_training_noise(hf_config: Any, dropout: float) -> None:
    """Set every dropout probability of a configuration, those of dropped layers and paths too; jitter is 0.

    Router jitter (Phi-MoE, Mixtral, Switch) moves a token to other experts at random: like dropout it makes two passes
    over the same tokens differ, and the ratio π/π_old with it.
    """
    text = hf_config.get_text_config()
    for name in [name for name, value in vars(text).items() if is_noise(name, value)]:
        setattr(text, name, 0.0 if "jitter" in name else dropout)


def set_dropout_modules(model: nn.Module, dropout: float) -> None:
    """The same for dropout modules whose probability is not in the configuration."""
    for module in model.modules():
        if isinstance(module, DROPOUT):
            module.p = dropout


def describe_noise(model: Any) -> str:
    """The sources of noise in training mode, for a message."""
    fields = [
        f"config.{name} = {value}"
        for name, value in vars(model.config.get_text_config()).items()
        if any(word in name for word in ("jitter", "noise", "drop")) and isinstance(value, float) and value > 0
    ]
    modules = [f"{name} (p = {m.p})" for name, m in model.named_modules() if isinstance(m, DROPOUT) and m.p > 0]
    return ", ".join([*fields, *modules][:6]) or "nothing that its configuration names"
