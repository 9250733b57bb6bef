"""What the data module is given, as prompt sources by name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lgrpo_lightning.contracts import PromptSource
from lgrpo_lightning.data.files import PromptFile
from lgrpo_lightning.errors import UserError

Sets = PromptSource | str | dict[str, PromptSource | str] | None


def name_sources(which: str, sets: Sets) -> dict[str, PromptSource]:
    """The sets given for ``which``, by name; paths become ``PromptFile``.

    >>> list(name_sources("validation", {"easy": "easy.jsonl", "hard": "hard.jsonl"}))
    ['easy', 'hard']
    """
    if sets is None:
        return {}
    if not isinstance(sets, dict):
        return {which: _make_source(f"data.{which}", sets)}
    for name in sets:
        if name == "class_path":
            known = ", ".join(sorted(_list_source_names()))
            raise UserError(f"data.{which}: there is no prompt source {sets[name]!r}. There are: {known}.")
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"data.{which}: {name!r} cannot name a set; use letters, digits, '_', '-' and '.'.")
    return {name: _make_source(f"data.{which}.{name}", source) for name, source in sets.items()}


def check_given(sources: Mapping[str, PromptSource], which: str, stage: str) -> None:
    """Refuse a run without the sets that its ``stage`` reads (``ValueError``)."""
    if not sources:
        raise UserError(
            f"data.{which} is not set, and `lgrpo {getattr(stage, 'value', stage)}` needs it: a path, "
            "or a prompt source such as ArithmeticTasks."
        )


def compare_prompts(
    before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]], *, refuse: bool
) -> None:
    """Warn of sets that are others than those of a checkpoint, or ``refuse`` them (``ValueError``)."""
    order = "the same prompts in another order"
    changes = [
        f"{name} has {order if before[name]['content'] == new['content'] else 'other prompts'}"
        for name, new in now.items()
        if before.get(name, new) != new
    ]
    if not changes:
        return
    text = f"{'; '.join(changes)}: other data than the checkpoint was made with."
    if refuse:
        raise UserError(
            f"{text} Give the run its data again, set data.on_change: say, or start without --ckpt_path in another "
            "trainer.default_root_dir."
        )
    rank_zero_warn(f"{text} The run goes on at the checkpoint's place in them (data.on_change: error refuses it).")


def check_streaming(sources: Mapping[str, Mapping[str, PromptSource]], *, curriculum: bool) -> bool:
    """Whether training prompts are streamed."""
    streamed = {which for which, named in sources.items() if any(s.streaming for s in named.values())}
    if others := sorted(streamed - {"train"}):
        raise UserError(f"data.{others[0]} is read whole: leave streaming out, it is for data.train.")
    if streamed and curriculum:
        raise UserError(
            "data.curriculum draws from all prompts by their pass rates, and data.train has streaming: true. Leave "
            "one of them out."
        )
    return bool(streamed)


MOST = 1_000_000
"""Rows of a source that does not say how many it has, after which it is taken for one without an end."""


def read_rows(rows: Iterable[Mapping[str, Any]], origin: str) -> Sequence[Mapping[str, Any]]:
    """The rows of a source; of a generator or a streaming data set, read to its end.

    A run holds all prompts: it draws their order, divides them among ranks and goes on at any of them.
    """
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise UserError(f"{origin}: rows() gave a {type(rows).__name__}; it must give the rows, each a mapping.")
    if not hasattr(rows, "__len__"):
        rows = list(islice(rows, MOST + 1))
        if len(rows) > MOST:
            raise UserError(
                f"{origin} gives more than {MOST:,} rows without saying how many there are. A run holds all its "
                "prompts, to draw their order and to go on at any of them: let rows() end "
                "(dataset.take(n), itertools.islice), return a list, or set streaming: true for training prompts."
            )
    for number, row in enumerate(rows):
        check_row(row, number, origin)
    return cast(Sequence[Mapping[str, Any]], rows)


def check_row(row: Any, number: int, origin: str) -> None:
    """Refuse a row that is no mapping (``TypeError``)."""
    if not isinstance(row, Mapping):
        raise UserError(
            f"{origin}, row {number} (from 0) is a {type(row).__name__}; a row is a mapping with a 'prompt', such as "
            '{"prompt": "1+1=", "answer": 2}.'
        )


def _make_source(key: str, source: Any) -> PromptSource:
    if isinstance(source, PromptSource):
        return source
    if not isinstance(source, str | os.PathLike):
        raise UserError(f"{key}: {source!r} is neither a path nor a prompt source such as ArithmeticTasks().")
    path = os.fspath(source)
    meant = difflib.get_close_matches(path, _list_source_names(), n=1, cutoff=0.75)
    if meant and not Path(path).expanduser().exists():
        raise UserError(
            f"{key}: {path!r} is neither a file nor a prompt source. Did you mean {meant[0]!r}? "
            f"(In Python: an instance, {meant[0]}().)"
        )
    return PromptFile(path)


def _list_source_names() -> list[str]:
    """The prompt sources that are loaded, by class name."""
    kinds = [PromptSource]
    for kind in kinds:  # grows as it goes
        kinds += kind.__subclasses__()
    return [kind.__name__ for kind in kinds[1:]]
