"""Weights under the names of a checkpoint; some models have another form in memory (experts in one tensor)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from torch import Tensor

Pairs = Iterable[tuple[str, Tensor]]


def stored(model: Any, pairs: Pairs) -> Iterator[tuple[str, Tensor]]:
    """The pairs as ``save_pretrained`` would write them, a layer at a time.

    Args:
        pairs: (name in ``model``, whole tensor), the tensors of a layer one after the other.
    """
    from transformers.core_model_loading import revert_weight_conversion

    for _, layer in groupby(pairs, key=lambda pair: _layer(pair[0])):
        yield from revert_weight_conversion(model, dict(layer)).items()


def _layer(name: str) -> str:
    """What the names of a layer begin with; nothing outside of layers.

    >>> _layer("model.layers.12.mlp.experts.down_proj"), _layer("model.norm.weight")
    ('model.layers.12', '')
    """
    found = re.match(r".*?\.\d+(?=\.)", name)
    return found[0] if found else ""
