"""Whether a model reads a prompt that is padded on the left as it reads the prompt alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]
from torch import Tensor

Tokens = Sequence[int]
_KNOWN: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def takes_left_padding(model: Any, prompts: Sequence[Tokens], logits: Callable[[list[Tokens]], Tensor]) -> bool:
    """Whether prompts of several lengths may be read in one batch; found out once a model, with two of them.

    Some models count positions from the first column whatever the mask says (decoders with learned positions, such as
    BART's), others gather windows of tokens from there.

    Args:
        prompts: Of at least two lengths.
        logits: Those of the first tokens, ``[n, ...]``, after prompts padded on the left.
    """
    if model not in _KNOWN:
        short, long = min(prompts, key=len), max(prompts, key=len)
        alone, beside = logits([short])[0].float(), logits([short, long])[0].float()
        exact = model.dtype == torch.float32 and not torch.is_autocast_enabled(alone.device.type)
        known = alone.isfinite() & beside.isfinite()
        difference = float((alone - beside)[known].abs().mean() / alone[known].std().clamp(min=1e-6))
        _KNOWN[model] = difference <= (1e-3 if exact else 0.1)
        if not _KNOWN[model]:
            rank_zero_info(
                f"{type(model).__name__} reads a prompt otherwise where it is padded on the left, so that prompts of "
                "one length are sampled together and others apart. Prompts of like length make batches larger."
            )
    return _KNOWN[model]
