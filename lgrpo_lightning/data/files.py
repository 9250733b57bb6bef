"""Prompts from a file, a saved data set or the hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lgrpo_lightning.contracts import PromptSource
from lgrpo_lightning.data.hub import read_dataset
from lgrpo_lightning.data.readers import POSSIBLE, READERS, Rows, find_suffix, read_csv
from lgrpo_lightning.data.shards import list_files
from lgrpo_lightning.errors import NotFoundError, UserError


class PromptFile(PromptSource):
    """Prompts from JSON, Parquet, Arrow or CSV files, a saved data set, or the Hugging Face hub.

    A row has a prompt, which is a string or a list of messages (``role``, ``content``), and any other
    columns; they all reach the rewards.

    Args:
        path: A file (``.jsonl``, ``.json``, ``.parquet``, ``.arrow``, ``.csv``, ``.tsv``, ``.txt``; those of text
            also as ``.gz``, ``.bz2``, ``.xz``, ``.zst``) or its URL (``hf://``, ``https://``), a folder of such files
            or a pattern (``data/train-*.parquet``), read in the order of their names; a folder saved by
            ``datasets.save_to_disk``, or the name of a hub data set, such as ``openai/gsm8k``.
        split: Which split of a saved or hub data set; None where it has only one.
        subset: Which configuration of a hub data set, such as ``main``; None for its default.
        prompt_column: The column that holds the prompt.
        limit: Use only the first ``limit`` rows; None uses all.
        infer_types: Give columns of a CSV file the types that their values look like. Else they are text, as they
            stand in the file: ``12:30`` and ``007`` stay what they are.
        streaming: Read rows as training needs them, so that they are never all in memory; for training prompts only.
        shuffle_buffer: Of so many rows the next one is drawn when a stream is shuffled.

    Raises:
        ValueError: ``limit`` or ``shuffle_buffer`` is below 1, or types are to be inferred of a stream.
    """

    def __init__(
        self,
        path: str,
        split: str | None = None,
        subset: str | None = None,
        prompt_column: str = "prompt",
        limit: int | None = None,
        infer_types: bool = False,
        streaming: bool = False,
        shuffle_buffer: int = 10_000,
    ) -> None:
        if limit is not None and limit < 1:
            raise UserError(f"PromptFile: limit is {limit}; it must be at least 1, or null for all rows.")
        if shuffle_buffer < 1:
            raise UserError(f"PromptFile: shuffle_buffer is {shuffle_buffer}; it must be at least 1.")
        if streaming and infer_types:
            raise UserError("PromptFile: infer_types reads a whole file, and streaming: true does not.")
        self.path, self.split, self.subset = str(path), split, subset
        self.prompt_column, self.limit, self.infer_types = prompt_column, limit, infer_types
        self.streaming, self.shuffle_buffer = streaming, shuffle_buffer

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """The rows, with the prompt under ``prompt``; a list, or with ``streaming`` an iterator.

        Raises:
            FileNotFoundError: There is nothing of that name.
            ValueError: The file is empty, malformed, or lacks the prompt column; the message names the place.
        """
        # the limit comes before the check, so that a bad row after it is no error
        rows = self._check_rows(islice(self._read(), self.limit))
        return rows if self.streaming else list(rows)

    def _check_rows(self, rows: Iterable[dict[str, Any]]) -> Rows:
        number = -1
        for number, row in enumerate(rows):
            if self.prompt_column not in row:
                raise UserError(
                    f"{self.path}, row {number} (from 0): there is no column {self.prompt_column!r}; the "
                    f"columns are {', '.join(map(repr, row)) or 'none'}. Set prompt_column to the right one."
                )
            yield {**row, "prompt": row[self.prompt_column]}
        if number < 0:
            raise UserError(f"{self.path} is empty. It needs at least one row with a {self.prompt_column!r}.")

    def _read(self) -> Rows:
        if (shards := list_files(self.path)) is not None:
            self._refuse_dataset_options("folder or pattern of files")
            return chain.from_iterable(map(self._read_file, shards))
        path = Path(self.path).expanduser()
        if path.is_file():
            if find_suffix(path) not in READERS:
                raise UserError(
                    f"{self.path}: cannot read {find_suffix(path) or 'a file without an extension'}. Possible are "
                    f"{POSSIBLE}, a folder saved by datasets.save_to_disk, and hub data sets."
                )
            self._refuse_dataset_options("file")
            return self._read_file(str(path))
        if find_suffix(path) in READERS and not path.is_dir():
            raise NotFoundError(f"There is no file {self.path} (looked in {Path.cwd()}).")
        return read_dataset(self.path, self.split, self.subset, streaming=self.streaming)

    def _read_file(self, path: str) -> Rows:
        reader = READERS[find_suffix(path)]
        return read_csv(path, types=self.infer_types) if reader is read_csv else reader(path)

    def _refuse_dataset_options(self, what: str) -> None:
        for name in ("split", "subset"):
            if getattr(self, name) is not None:
                raise UserError(
                    f"{self.path} is a {what}; {name}={getattr(self, name)!r} is for saved and hub data "
                    f"sets. Leave {name} out."
                )
