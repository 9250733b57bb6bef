"""The part of a model that reads images and text, and the positions of its tokens."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.head import find_backbone


def find_image_body(model: Any) -> Any:
    """The part that takes pixels beside tokens and gives the last hidden states.

    Raises:
        ValueError: There is none apart from the head.
    """
    text = find_backbone(model)
    around = [
        module
        for _, module in model.named_modules()
        if module is not text and any(inner is text for inner in module.modules()) and module is not model
    ]
    for module in reversed(around):  # the innermost first
        if "pixel_values" in inspect.signature(module.forward).parameters:
            return module
    raise UserError(
        f"{type(model).__name__} has no part of its own that reads images with text and gives hidden states, so that "
        "prompts cannot have images here. Take another model, or leave the images out of the data."
    )


def prepare_pass(
    model: Any, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor | None, images: Mapping[str, Tensor]
) -> tuple[Any, dict[str, Any]]:
    """(The module that reads a pass, its positions and images); without images the text backbone.

    Args:
        position_ids: ``[b, L]``, of text.
        images: As ``PromptProcessor.make_inputs`` gives them.
    """
    if not images:
        return find_backbone(model), {"position_ids": position_ids}
    body: Any = find_image_body(model)
    given = {name: t.to(model.dtype) if t.is_floating_point() else t for name, t in images.items()}
    positions = number_positions(body, input_ids, position_ids, attention_mask, given)
    return body, {"position_ids": positions, **given}


def number_positions(
    body: Any, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor | None, images: Mapping[str, Tensor]
) -> Tensor:
    """``[3, b, L]`` positions in time, height and width where the model has those, else ``position_ids``."""
    if not hasattr(body, "get_rope_index"):
        return position_ids
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
    known = {"input_ids": input_ids, "attention_mask": mask, **images}
    takes = inspect.signature(body.get_rope_index).parameters
    positions: Tensor = body.get_rope_index(**{name: value for name, value in known.items() if name in takes})[0]
    return positions


def find_next_positions(position_ids: Tensor) -> Tensor:
    """``[b, 1]`` the position of the token after the last column, by ``[b, L]`` or ``[3, b, L]`` positions.

    >>> find_next_positions(torch.tensor([[[0, 1]], [[0, 4]], [[0, 2]]])).tolist()
    [[5]]
    """
    last = position_ids[..., -1:]
    return (last if last.dim() == 2 else last.amax(0)) + 1
