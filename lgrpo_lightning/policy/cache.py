"""Caches of transformers: one that is allocated once, one that gradients flow through, and rows of either."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from lgrpo_lightning.errors import UserError


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of full attention with room for ``spare`` more tokens after the first call."""

    def __init__(self, spare: int) -> None:
        super().__init__()
        self.spare = spare
        self.used = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append ``[R, heads, n, D]`` keys and values; return all that there are."""
        new = key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = self._allocate(key_states, new), self._allocate(value_states, new)
        end = self.used + new
        if end > self.keys.shape[-2]:
            self.keys = torch.cat([self.keys, self._allocate(key_states, new)], dim=-2)
            self.values = torch.cat([self.values, self._allocate(value_states, new)], dim=-2)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _allocate(self, like: Tensor, new: int) -> Tensor:
        rows, heads, _, width = like.shape
        return like.new_empty(rows, heads, new + self.spare, width)

    def get_seq_length(self) -> int:
        """Number of tokens held."""
        return self.used

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows at ``indices``, in that order; a row may be repeated."""
        self.keys = self.keys.index_select(0, indices)
        self.values = self.values.index_select(0, indices)


def make_cache(model: Any, *, spare: int) -> Any:
    """A cache for ``model`` whose full-attention layers have room for ``spare`` tokens after the prompt."""
    cache = DynamicCache(config=model.config)
    cache.layers = [
        # the exact type: layers of sliding windows and states are subclasses with a memory of their own
        PreallocatedLayer(spare) if type(layer) is DynamicLayer else layer
        for layer in cache.layers
    ]
    return cache


class DifferentiableCache(DynamicCache):  # type: ignore[misc]
    """A cache for ``model`` that gradients flow through.

    Transformers copies convolution and recurrent states into one tensor, for CUDA graphs; a tensor that was written
    over cannot be differentiated through.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(config=model.config)
        for layer in self.layers:
            if isinstance(layer, LinearAttentionLayer):
                layer.update_conv_state = MethodType(_assign_conv_state, layer)
                layer.update_recurrent_state = MethodType(_assign_recurrent_state, layer)


class LayerCache:
    """One layer of a cache, which is told the number of its layer and does not read it."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As the cache."""
        return self.layer.update(key_states, value_states, *args, **kwargs)  # type: ignore[no-any-return]


def _assign_conv_state(
    layer: Any, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **kwargs: Any
) -> Tensor:
    """Append ``[R, channels, n]`` columns; return all that the convolution of the new ones reads."""
    if not layer.is_conv_states_initialized[state_idx]:
        layer.lazy_initialization(conv_states=conv_states, state_idx=state_idx, conv_kernel_size=conv_kernel_size)
    kernel = layer.conv_kernel_size[state_idx]
    if layer.has_previous_state[state_idx]:
        states = torch.cat([layer.conv_states[state_idx], conv_states], dim=-1)
    else:
        states = torch.nn.functional.pad(conv_states, (max(0, kernel - conv_states.shape[-1]), 0))
        layer.has_previous_state[state_idx] = True
    layer.conv_states[state_idx] = states[..., -kernel:]
    return states


def _assign_recurrent_state(layer: Any, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
    """Keep the state after the last token."""
    layer.is_recurrent_states_initialized[state_idx] = True
    layer.recurrent_states[state_idx] = recurrent_states
    return recurrent_states


def find_cache_argument(model: Any) -> str:
    """What the model calls its cache."""
    takes = inspect.signature(model.forward).parameters
    return "past_key_values" if "past_key_values" in takes else "cache_params"  # pure Mamba


def select_rows(cache: Any, rows: Tensor) -> None:
    """Keep the rows at ``rows`` of every layer, in that order, a row more than once too.

    Convolution and recurrent states have a row for each sequence, as keys and values do; so has whatever else a model
    keeps there (compressed keys, positions).
    """
    count = count_rows(cache)
    for layer in cache.layers:
        if hasattr(layer, "conv_states"):
            layer.reorder_cache(rows)
        elif layer.keys is not None:  # a layer of cross-attention to an image has none
            getattr(layer, "batch_select_indices", layer.reorder_cache)(rows)
    for owner in (cache, *cache.layers):
        others = {name: value for name, value in vars(owner).items() if name not in SELECTED}
        for name, value in others.items():
            if isinstance(value, dict):
                value.update({k: _select(v, rows, count) for k, v in value.items()})
            elif isinstance(value, Tensor):
                setattr(owner, name, _select(value, rows, count))


SELECTED = ("keys", "values", "indexer_keys", "conv_states", "recurrent_states")
"""What the layers of transformers select themselves."""


def count_rows(cache: Any) -> int:
    """Sequences that the cache holds; -1 where it holds none."""
    for layer in cache.layers:
        states = [getattr(layer, "keys", None), *getattr(layer, "conv_states", {}).values()]
        for tensor in states:
            if isinstance(tensor, Tensor) and tensor.numel():
                return int(tensor.shape[0])
    return -1


def _select(state: Any, rows: Tensor, count: int) -> Any:
    """``state`` at ``rows`` where it has one for each of ``count`` sequences: in front, or behind the kinds."""
    if not isinstance(state, Tensor) or not state.dim():
        return state
    dim = 1 if state.dim() == 3 and not state.is_floating_point() else 0
    return state.index_select(dim, rows) if state.shape[dim] == count else state


@contextmanager
def explain_cache_errors(model: Any) -> Iterator[None]:
    """Around a model's first use of a cache: what a model without one, or that needs more than text, raises.

    Raises:
        ValueError: With what was raised, and what to do.
    """
    try:
        yield
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{type(model).__name__} cannot be sampled from with text and a cache of transformers "
            f"({type(error).__name__}: {error}). Use VLLMSampler if vLLM has this architecture, or another model."
        ) from error


def check_cache(cache: Any, model: Any) -> None:
    """Refuse a model that did not put what it has read into the cache: it would go on without its prompt."""
    kinds = ("conv_states", "recurrent_states")
    states = [s for layer in cache.layers for kind in kinds for s in getattr(layer, kind, {}).values()]
    states += [getattr(layer, "keys", None) for layer in cache.layers]
    if all(state is None for state in states):
        raise UserError(
            f"{type(model).__name__} keeps what it has read in no cache of transformers, so that TransformersSampler "
            "cannot go on from a prompt. Use VLLMSampler if vLLM has this architecture, or another model."
        )
