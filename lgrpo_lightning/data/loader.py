"""Batches of prompts in an order that a checkpoint can resume exactly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lgrpo_lightning.types import Prompt

BATCH, FURTHER = 0, 1
"""Tell the draws of one place in the epochs apart: that of a batch, that of prompts beside it."""


class PromptBatch:
    """The prompts of one batch on one rank.

    Deliberately no ``Sequence``: under some precisions Lightning takes sequences apart to cast the tensors in
    them, and refuses frozen types such as ``Prompt``. The data module unwraps it into a list.
    """

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.prompts = list(prompts)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)


class PromptLoader:
    """A sized, re-iterable, stateful loader of prompt batches.

    An epoch is one permutation of the prompts, drawn from (seed, epoch). Of the ``batch_size`` prompts of a
    batch, rank r of W takes numbers r, r + W, r + 2W, …, so that the ranks share every batch evenly.

    The state is where the next batch comes from. Saved after batch n, it makes n + 1 the next one.

    Args:
        prompts: The whole set, the same on every rank.
        batch_size: Prompts of a batch over all ranks.
        rank: This process.
        world_size: Number of processes.
        shuffle: Draw a new order each epoch; otherwise the order of the set.
        seed: Draws the orders.
        drop_last: Leave an incomplete last batch out.
        limit: Batches of an epoch, where a run is limited to fewer than there are.
        weights: ``[N]`` how often prompts are drawn, asked before each batch. The prompts of a batch are then drawn
            without replacement, and an epoch is no pass over all of them; None: it is.

    >>> prompts = [Prompt(uid=str(i), text="x", token_ids=(1,)) for i in range(5)]
    >>> [[p.uid for p in batch] for batch in PromptLoader(prompts, 2, rank=1, world_size=2)]
    [['1'], ['3'], []]
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        limit: int | None = None,
        weights: Callable[[], NDArray[np.float64]] | None = None,
    ) -> None:
        self.prompts, self.batch_size = prompts, batch_size
        self.rank, self.world_size = rank, world_size
        self.shuffle, self.seed, self.drop_last, self.limit = shuffle, seed, drop_last, limit
        self.weights = weights
        self._shuffled: tuple[int, list[int]] | None = None  # the order of one epoch
        self.epoch = self.position = 0
        self._served = False  # whether a batch came out since the epoch began or a state was loaded

    def __len__(self) -> int:
        """Batches of a whole epoch; the same number on every rank."""
        full, rest = divmod(len(self.prompts), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[PromptBatch]:
        """The rest of a resumed epoch, or else the next epoch. Only taking a batch moves on."""
        # a loader whose state was just loaded goes on there; one that gave a batch begins the next epoch
        if self._served or self.position >= self._epoch_length:
            self.epoch, self.position, self._served = self.epoch + 1, 0, False
        return self._serve()

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch comes from, and the sizes that this depends on."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "prompts": len(self.prompts),
            "batch_size": self.batch_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was saved; with other data or batches, at the start of the next epoch."""
        self.epoch, self.position, self._served = state["epoch"], state["position"], False
        was = (state["prompts"], state["batch_size"])
        if was != (len(self.prompts), self.batch_size):
            self.epoch, self.position = self.epoch + 1, 0
            warnings.warn(
                f"The checkpoint was made with {was[0]} prompts, {was[1]} a batch; now there are "
                f"{len(self.prompts)}, {self.batch_size} a batch. The run goes on with a new order.",
                stacklevel=2,
            )

    def draw_further(self, count: int, without: set[str]) -> list[Prompt]:
        """At most ``count`` prompts beside the last batch's, but for those of the uids ``without``.

        Drawn from the whole set by the weights (without ``shuffle``: from what an epoch serves), keyed by the seed and
        the place in the epochs: the same on every rank and after every resume.
        """
        prompts = (self.prompts[i] for i in self._draw(FURTHER))
        return list(islice((prompt for prompt in prompts if prompt.uid not in without), count))

    def preview(self, count: int, epochs: int | None = None) -> list[tuple[int, list[Prompt]]]:
        """(epochs from this one, this rank's prompts) of the ``count`` batches after the last one; none is taken.

        Args:
            epochs: How many there are after this one; fewer batches come back where they end. None: no end.
        """
        epoch, position, batches = self.epoch, self.position, list[tuple[int, list[Prompt]]]()
        while len(batches) < count:
            if position >= self._epoch_length:
                epoch, position = epoch + 1, 0
                if self._epoch_length == 0 or (epochs is not None and epoch > self.epoch + epochs):
                    break
            batch = self._order_epoch(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
            batches.append((epoch - self.epoch, [self.prompts[i] for i in batch[self.rank :: self.world_size]]))
            position += 1
        return batches

    @property
    def _epoch_length(self) -> int:
        return len(self) if self.limit is None else min(len(self), self.limit)

    def _serve(self) -> Iterator[PromptBatch]:
        order = self._order_epoch(self.epoch)
        while self.position < len(self):
            start = self.position * self.batch_size
            in_order = order[start : start + self.batch_size]
            batch = in_order if self.weights is None else self._draw(BATCH)[: self.batch_size]
            # every W-th prompt: a batch has the same prompts for any number of ranks
            mine = batch[self.rank :: self.world_size]
            self.position, self._served = self.position + 1, True
            yield PromptBatch([self.prompts[i] for i in mine])

    def _draw(self, what: int) -> list[int]:
        """Prompts in the order of a draw at this place in the epochs."""
        pool = len(self.prompts) if self.shuffle else min(self._epoch_length * self.batch_size, len(self.prompts))
        weights = np.ones(pool) if self.weights is None else self.weights()
        return [int(i) for i in draw_order(weights, (self.seed, self.epoch, self.position, what))]

    def _order_epoch(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(len(self.prompts)))
        if self._shuffled is None or self._shuffled[0] != epoch:
            # a list of both: seed + epoch would give epoch 1 of seed 0 the order of epoch 0 of seed 1
            permutation = np.random.default_rng([self.seed, epoch]).permutation(len(self.prompts))
            self._shuffled = epoch, [int(i) for i in permutation]
        return self._shuffled[1]


def draw_order(weights: NDArray[np.float64], key: Sequence[int]) -> NDArray[np.int64]:
    """The order in which things are drawn one by one without replacement, each time in proportion to the weights left.

    Gumbel noise is added to the logarithms of the weights, and the sums are sorted (Efraimidis and Spirakis 2006).

    Args:
        weights: ``[N]``, at least 0; what has none comes last.
        key: Seeds the draw.

    Returns:
        ``[N]`` indices.

    >>> sorted(draw_order(np.array([1.0, 0.0, 5.0]), (0, 1)).tolist())
    [0, 1, 2]
    """
    noise = np.random.default_rng(list(key)).gumbel(size=len(weights))
    with np.errstate(divide="ignore"):
        # stable: weights of 0 tie at -inf, and every machine must give them one order
        return np.argsort(-(np.log(weights) + noise), kind="stable")
