"""Which modules of a model get an adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import linear

from lgrpo_lightning.policy.multimodal import find_outside_of_text
from lgrpo_lightning.policy.quantization import is_quantised


def choose_targets(model: Any, wanted: list[str] | str) -> list[str] | str:
    """``wanted``; for all linear layers of a multimodal model the names of those that text goes through.

    peft would take the last parts of all names, "0" of a projector of images too, and find layers by them.
    """
    outside = find_outside_of_text(model)
    if wanted != "all-linear" or not outside:
        return wanted
    head = model.get_output_embeddings()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head and n not in outside]
    return sorted({name.rpartition(".")[2] for name in names})


FUSED = ("out_proj", "x_proj", "dt_proj")
"""Layers of a Mamba mixer whose weights are read by themselves, past an adapter."""


def find_excluded(model: Any, wanted: list[str] | str) -> list[str]:
    """Modules that get no adapter: where it would do nothing, or could not be merged.

    Those are what text does not go through (but for names that no module of text has), what Mamba
    mixers read past the module, and weights that layers share (Zamba); where all linear layers are asked for also
    those derived from one that answer something else, as some routers of experts do.
    """
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    mixers = [name for name, m in model.named_modules() if hasattr(m, "A_log") and hasattr(m, "D")]
    fused = [f"{mixer}.{leaf}" for mixer in mixers for leaf in FUSED]
    embeddings = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    tied = {name for pair in dict(model.all_tied_weights_keys or {}).items() for name in pair}
    shared = [name for name, m in layers if f"{name}.weight" in tied and id(m) not in embeddings]
    outside = find_outside_of_text(model)
    inside = [name for name, _ in model.named_modules() if name not in outside]
    named = [w for w in wanted if isinstance(wanted, list) and not any(map(_ends_with(w), inside))]
    outside_names = [name for name in outside if not any(_ends_with(w)(name) for w in named)]
    excluded = [*outside_names, *fused, *shared]
    if wanted == "all-linear":
        own = [(n, m) for n, m in layers if type(m).forward is not nn.Linear.forward and not is_quantised(m)]
        excluded += [name for name, m in own if not _is_linear(m)]
    return excluded


def _ends_with(target: str) -> Callable[[str], bool]:
    """Whether peft takes a module of a name for ``target``."""
    return lambda name: name == target or name.endswith(f".{target}")


@torch.no_grad()
def _is_linear(module: nn.Linear) -> bool:
    """Whether a module derived from a linear layer answers what a linear layer does (Falcon's do).

    With numbers of its own in place of the weights, which may be on the meta device or of a short type.
    """
    weights = {
        name: torch.linspace(-1, 1, t.numel()).view_as(t)
        for name, t in (*module.named_parameters(), *module.named_buffers())
    }
    x = torch.linspace(0, 1, module.in_features)[None]
    try:
        answer = functional_call(module, weights, (x,))
        return torch.allclose(answer, linear(x, weights["weight"], weights.get("bias")), rtol=1e-3, atol=1e-3)
    except (RuntimeError, ValueError, TypeError):
        return False
