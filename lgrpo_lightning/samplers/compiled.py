"""Decoding whose step is one compiled graph over a cache of fixed size: for GPUs that wait for their host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.policy.flex_attention import allow_graphs
from lgrpo_lightning.samplers.decoding import Decoding

BACKEND: dict[str, Any] = {"mode": "reduce-overhead"}
"""What ``torch.compile`` is given: CUDA graphs where there is CUDA."""
ROOM = 128
"""The cache's length is a multiple of this: a graph for every length would be many."""
SHAPES = 128
"""Graphs that a process may hold; further shapes run without one."""


class CompiledDecoding(Decoding):
    """The same draws; shapes change only when rows leave the batch, which they do by halves."""

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        from transformers.cache_utils import StaticLayer

        super().__init__(model, *args, **kwargs)
        self.room = ROOM
        if not all(isinstance(layer, StaticLayer) for layer in self._make_cache().layers):
            raise UserError(
                f"sampler.compile is true, but {type(model).__name__} keeps more than keys and values of its tokens, "
                "for which no cache of fixed size is compiled. Leave it out."
            )

    graph = False  # the prompts are read as they come; the steps after them are compiled

    def _read(self, prompts: Sequence[Sequence[int]]) -> None:
        self.graph = False
        needed = max(map(len, prompts)) + self.sampling.max_new_tokens
        self.room = -(-needed // ROOM) * ROOM
        super()._read(prompts)

    def _make_cache(self) -> Any:
        from transformers import StaticCache

        return StaticCache(config=self.model.config, max_cache_len=self.room)

    def _prefill(self, prompts: Sequence[Sequence[int]], of_row: list[int]) -> None:
        super()._prefill(prompts, of_row)
        self.graph = True

    def _extend_mask(self, mask: Tensor, by: int) -> Tensor:
        """The mask has all columns from the start: what is not there yet is after every query."""
        return pad(mask, (0, self.room - mask.shape[1]), value=1)

    def _compute_logits(self, arguments: dict[str, Any]) -> Tensor:
        if not self.graph:
            return super()._compute_logits(arguments)
        # tells CUDA graphs that the outputs of the step before may be written over
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return compile_step()(self.model, arguments).clone()  # the next step writes where these are

    def _choose_rows(self, running: Tensor) -> Tensor | None:
        """Half of the rows, the running ones among them, as soon as they fit."""
        half = len(running) // 2
        if int(running.sum()) > half:
            return None
        order = torch.argsort(running.to(torch.int8), descending=True, stable=True)
        return order[: max(half, 1)].sort().values


@cache
def compile_step() -> Callable[[Any, dict[str, Any]], Tensor]:
    """The step of any model, compiled anew for every number of rows."""

    def step(model: Any, arguments: dict[str, Any]) -> Tensor:
        logits: Tensor = model(**arguments, logits_to_keep=1).logits[:, -1]
        return logits

    allow_graphs(SHAPES)
    return torch.compile(step, dynamic=False, **BACKEND)
