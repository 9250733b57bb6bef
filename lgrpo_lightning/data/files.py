"""Prompts from a file, a saved data set or the hub."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lgrpo_lightning.contracts import PromptSource
from lgrpo_lightning.data.shards import files_of, suffix

Rows = list[dict[str, Any]]


class PromptFile(PromptSource):
    """Prompts from JSONL, Parquet or CSV files, a saved data set, or the Hugging Face hub.

    A row has a prompt, which is a string or a list of messages (``role``, ``content``), and any other
    columns; they all reach the rewards.

    Args:
        path: A file (``.jsonl``, ``.jsonl.gz``, ``.parquet``, ``.csv``), a folder of such files or a pattern
            (``data/train-*.parquet``), read in the order of their names; a folder saved by
            ``datasets.save_to_disk``, or the name of a hub data set, such as ``openai/gsm8k``. The last two need
            the extra ``datasets``.
        split: Which split of a saved or hub data set; None where it has only one.
        subset: Which configuration of a hub data set, such as ``main``; None for its default.
        prompt_column: The column that holds the prompt.
        limit: Use only the first ``limit`` rows; None uses all.
        infer_types: Give columns of a CSV file the types that their values look like. Else they are text, as they
            stand in the file: ``12:30`` and ``007`` stay what they are.

    Raises:
        ValueError: ``limit`` is below 1.
    """

    def __init__(
        self,
        path: str,
        split: str | None = None,
        subset: str | None = None,
        prompt_column: str = "prompt",
        limit: int | None = None,
        infer_types: bool = False,
    ) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"PromptFile: limit is {limit}; it must be at least 1, or null for all rows.")
        self.path, self.split, self.subset = str(path), split, subset
        self.prompt_column, self.limit, self.infer_types = prompt_column, limit, infer_types

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The rows, with the prompt under ``prompt``.

        Raises:
            FileNotFoundError: There is nothing of that name.
            ValueError: The file is empty, malformed, or lacks the prompt column; the message names the place.
        """
        rows = self._read()[: self.limit]
        if not rows:
            raise ValueError(
                f"{self.path} is empty. It needs at least one row with a {self.prompt_column!r}."
            )
        for number, row in enumerate(rows):
            if self.prompt_column not in row:
                raise ValueError(
                    f"{self.path}, row {number} (from 0): there is no column {self.prompt_column!r}; the "
                    f"columns are {', '.join(map(repr, row)) or 'none'}. Set prompt_column to the right one."
                )
        return [{**row, "prompt": row[self.prompt_column]} for row in rows]

    def _read(self) -> Rows:
        if (shards := files_of(self.path, READERS)) is not None:
            self._refuse_dataset_options("folder or pattern of files")
            return [row for shard in shards for row in self._rows_of(shard)]
        path = Path(self.path).expanduser()
        if path.is_file():
            if suffix(path) not in READERS:
                raise ValueError(
                    f"{self.path}: cannot read {suffix(path) or 'a file without an extension'}. Possible are "
                    f"{', '.join(READERS)}, a folder saved by datasets.save_to_disk, and hub data sets."
                )
            self._refuse_dataset_options("file")
            return self._rows_of(path)
        if suffix(path) in READERS:
            raise FileNotFoundError(f"There is no file {self.path} (looked in {Path.cwd()}).")
        from lgrpo_lightning.data.hub import dataset_rows

        return dataset_rows(self.path, self.split, self.subset)

    def _rows_of(self, path: Path) -> Rows:
        """The rows of one file."""
        if suffix(path) == ".csv":
            return read_csv(path, types=self.infer_types)
        return READERS[suffix(path)](path)

    def _refuse_dataset_options(self, what: str) -> None:
        for name in ("split", "subset"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{self.path} is a {what}; {name}={getattr(self, name)!r} is for saved and hub data "
                    f"sets. Leave {name} out."
                )


def read_jsonl(path: Path) -> Rows:
    """One JSON object a line; blank lines are skipped."""
    rows = []
    with explained_if_broken(path), _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not UTF-8 (byte {line[error.start]:#04x} at column "
                    f"{error.start + 1}). Save the file as UTF-8."
                ) from error
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not valid JSON ({error.msg}, column {error.colno}). "
                    'Every line must be one JSON object, such as {"prompt": "1+1=", "answer": 2}.'
                ) from error
            if not isinstance(row, dict):
                raise ValueError(
                    f"{path}, line {number}: a {type(row).__name__}, where a JSON object is needed, such as "
                    '{"prompt": "1+1=", "answer": 2}.'
                )
            rows.append(row)
    return rows


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


@contextmanager
def explained_if_broken(path: Path) -> Iterator[None]:
    """Read a compressed file inside.

    Raises:
        ValueError: It is cut off, or not compressed; naming it.
    """
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error


def read_parquet(path: Path) -> Rows:
    """A Parquet file."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
    return list(table.to_pylist())


def read_csv(path: Path, *, types: bool = False) -> Rows:
    """A CSV file with a header line.

    Args:
        types: Infer the columns' types; else all are text.
    """
    import pyarrow
    from pyarrow import csv

    if not path.stat().st_size:
        return []
    parse = csv.ParseOptions(newlines_in_values=True)
    try:
        names = csv.open_csv(path, parse_options=parse).schema.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{path} has several columns called {', '.join(map(repr, twice))}; rename them.")
        convert = csv.ConvertOptions()
        if not types:
            convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))
        table = csv.read_csv(path, parse_options=parse, convert_options=convert)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable CSV file: {error}") from error
    return list(table.to_pylist())


READERS: Mapping[str, Callable[[Path], Rows]] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".parquet": read_parquet,
    ".csv": read_csv,
}
"""File extension → reader of a path."""
