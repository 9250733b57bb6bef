"""Batches of prompts of a set that is never whole in memory, resumed exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any, TypeVar

import numpy as np
from lightning.pytorch.callbacks import Timer

from lgrpo_lightning.data.loader import PromptBatch
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.types import Prompt

T = TypeVar("T")
Row = Mapping[str, Any]
Place = tuple[int, int]
"""(Pass over the set, rows of it that were taken.)"""

ENDLESS = 1 << 40
"""Batches of an epoch. A loader without a length would be read one batch ahead, and its state would be too late."""


class PromptStream:
    """A re-iterable, stateful loader that reads one row after another, pass after pass, without an end.

    Every rank reads all rows. Of the ``batch_size`` prompts of a batch, rank r of W takes numbers r, r + W, r + 2W, …;
    a pass leaves an incomplete last batch out.

    The state is how many rows of a pass were taken. A resumed run reads that many again, and encodes none of them.

    Args:
        rows: Gives the rows from the first one on, the same at every call.
        encode: The prompt of a row and its number; None where it is to be left out.
        batch_size, rank, world_size, seed: As of ``PromptLoader``.
        buffer: Of so many rows the next one is drawn; None: they keep their order.
        limit: Batches of an epoch of the trainer, where a run is limited to so many.

    >>> rows = [{"prompt": str(i)} for i in range(5)]
    >>> encode = lambda row, number: Prompt(uid=str(number), text=row["prompt"], token_ids=(1,))
    >>> stream = PromptStream(lambda: iter(rows), encode, 2, rank=1, world_size=2)
    >>> [[p.uid for p in batch] for batch in islice(stream, 3)], stream.state_dict()
    ([['1'], ['3'], ['1']], {'pass': 1, 'taken': 2, 'position': 3})
    """

    def __init__(
        self,
        rows: Callable[[], Iterable[Row]],
        encode: Callable[[Row, int], Prompt | None],
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        buffer: int | None = None,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.rows, self.encode, self.batch_size = rows, encode, batch_size
        self.rank, self.world_size = rank, world_size
        self.buffer, self.seed, self.limit = buffer, seed, limit or ENDLESS
        self.position, self._served = 0, False  # batches of the trainer's epoch, and whether one came out
        self._ahead: deque[tuple[Place, list[Prompt]]]  # batches that were read and not served
        self._begin((0, 0))

    def __len__(self) -> int:
        """Batches of an epoch: there is no end."""
        return ENDLESS

    def __iter__(self) -> Iterator[PromptBatch]:
        """The batches after the last one; only taking one moves on."""
        if self._served or self.position >= self.limit:
            self.position, self._served = 0, False
        while True:
            self._read_ahead(1)
            self.place, batch = self._ahead.popleft()
            self.position, self._served = self.position + 1, True
            yield PromptBatch(batch[self.rank :: self.world_size])

    def state_dict(self) -> dict[str, int]:
        return {"pass": self.place[0], "taken": self.place[1], "position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.position, self._served = state["position"], False
        # rows up to a place are read again, which may be millions: not where the stream is there already
        if (place := (state["pass"], state["taken"])) != self.place:
            self._begin(place)

    def _begin(self, place: Place) -> None:
        self.place, self._prompts, self._ahead = place, self._read_from(place), deque()

    def draw_further(self, wanted: int, without: set[str]) -> list[Prompt]:
        """The next ``wanted`` prompts but for those of the uids ``without``; they are in no later batch of the pass.

        None where the set has too few. Not for a run that has batches announced: they come before these.
        """
        self.place, prompts = self._take(wanted, without)
        return prompts

    def preview(self, wanted: int, epochs: int | None = None) -> list[tuple[int, list[Prompt]]]:
        """(Epochs of the trainer from this one, this rank's prompts) of the ``wanted`` batches after the last one.

        Args:
            epochs: How many there are after this one; fewer batches come back where they end. None: no end.
        """
        self._read_ahead(wanted)
        ahead = [(self.position + i) // self.limit for i in range(wanted)]
        batches = [batch[self.rank :: self.world_size] for _, batch in islice(self._ahead, wanted)]
        return [(n, b) for n, b in zip(ahead, batches, strict=True) if epochs is None or n <= epochs]

    def _read_ahead(self, wanted: int) -> None:
        while len(self._ahead) < wanted:
            self._ahead.append(self._take(self.batch_size, set()))

    def _take(self, wanted: int, without: set[str]) -> tuple[Place, list[Prompt]]:
        """(Place behind them, the next prompts, all of one pass)."""
        prompts, passes = list[Prompt](), set[int]()
        while True:
            place, prompt = next(self._prompts)
            if place[0] not in passes:
                prompts = []  # the rest of a pass is left out
                passes.add(place[0])
            if len(passes) > 2 and without:
                return place, []
            if len(passes) > 2:
                raise UserError(
                    f"data.train gives fewer than {wanted} prompts, which one batch needs (data.prompts_per_step)."
                )
            if prompt.uid not in without:
                prompts.append(prompt)
            if len(prompts) == wanted:
                return place, prompts

    def _read_from(self, place: Place) -> Iterator[tuple[Place, Prompt]]:
        """(Place behind it, prompt) of every row from ``place`` on, pass after pass."""
        taken = place[1]
        for number in count(place[0]):
            rows: Iterator[tuple[int, Row]] = enumerate(self.rows())
            if self.buffer is not None:
                rows = shuffle_rows(rows, self.buffer, (self.seed, number))
            some = taken > 0
            for at, (index, row) in enumerate(islice(rows, taken, None), start=taken + 1):
                if (prompt := self.encode(row, index)) is not None:
                    some = True
                    yield (number, at), prompt
            if not some:
                raise UserError("data.train gives no prompts: it has no rows, or all are too long.")
            taken = 0


def shuffle_rows(rows: Iterator[T], size: int, key: Sequence[int]) -> Iterator[T]:
    """Each next row is drawn from a buffer, where the row that follows in ``rows`` takes its place.

    >>> sorted(shuffle_rows(iter(range(9)), 4, (0, 1)))
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """
    draws, buffer = np.random.default_rng(list(key)), list(islice(rows, size))
    for row in rows:
        at = int(draws.integers(len(buffer)))
        yield buffer[at]
        buffer[at] = row
    yield from (buffer[i] for i in draws.permutation(len(buffer)))


def check_state(state: Mapping[str, Any], *, streamed: bool) -> None:
    """Refuse the state of a ``PromptLoader`` for a stream, and the other way round (``ValueError``)."""
    if ("taken" in state) != streamed:
        raise UserError(
            f"The checkpoint was made with streaming: {str(not streamed).lower()} of data.train, by which "
            "its place in the prompts is kept. Set that, or start without --ckpt_path in another "
            "trainer.default_root_dir."
        )


def check_streamed_run(trainer: Any, *, validates: bool) -> None:
    """Refuse limits that are counted in passes over a set whose size is not known."""
    problem = "data.train has streaming: true, so that the length of an epoch is not known"
    share, every = trainer.limit_train_batches, trainer.val_check_interval
    counted = isinstance(share, int)
    if trainer.overfit_batches or (not counted and share < 1):
        raise UserError(
            f"{problem}, of which trainer.overfit_batches or limit_train_batches takes a share. Give "
            "limit_train_batches as a number of batches."
        )
    ends = (getattr(trainer.lightning_module, "planned_steps", None) or trainer.max_steps) > 0
    ends |= counted and (trainer.max_epochs or -1) > 0
    if not ends and not any(isinstance(callback, Timer) for callback in trainer.callbacks):
        raise UserError(
            f"{problem}, and nothing else ends the run. Set trainer.max_steps or model.updates.max_rollouts."
        )
    if validates and not counted and isinstance(every, float):
        raise UserError(
            f"{problem}, and trainer.val_check_interval is {every} of one. Set it to a number of rollouts, such as 50."
        )
