"""Readers of files, by how their names end: each gives one row after another, with the place of what is wrong.

They are not those of ``datasets``, which turn text such as "2024-01-02" and "007" into dates and numbers, give rows the
columns that they lack, and name no file or line.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from lgrpo_lightning.errors import UserError

Rows = Iterator[dict[str, Any]]

EXAMPLE = 'such as {"prompt": "1+1=", "answer": 2}'
PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
"""What compressed files are called after the name of what they hold, and how they are compressed."""
ROWS = 1000
"""Rows of a table that are made Python objects at a time."""


def find_suffix(path: PurePath | str) -> str:
    """What a file is by its name: ".jsonl", also of "train.jsonl.gz"; ".jsonl.gz" there.

    >>> find_suffix("a.b.JSONL"), find_suffix("hf://datasets/me/sums/train.jsonl.gz")
    ('.jsonl', '.jsonl.gz')
    """
    path = PurePath(path)
    last = path.suffix.lower()
    return f"{path.with_suffix('').suffix.lower()}{last}" if last in PACKED else last


def read_json(path: str) -> Rows:
    """One JSON object a line, or one array of objects; blank lines are skipped."""
    lines, begun = _read_lines(path), False
    for number, text in lines:
        if not text.strip():
            continue
        # an array may be printed over many lines, so that no line of it is JSON
        if not begun and text.lstrip().startswith("["):
            whole = text + "".join(more for _, more in lines)
            for entry, row in enumerate(_parse(whole, path, number)):
                yield _check_object(row, f"{path}, entry {entry} (from 0) of the array")
            return
        begun = True
        yield _check_object(_parse(text.rstrip(), path, number), f"{path}, line {number}")


def _check_object(row: Any, where: str) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    raise UserError(f"{where}: a {type(row).__name__}, where a JSON object is needed, {EXAMPLE}.")


def _parse(text: str, path: str, first: int) -> Any:
    """JSON whose first line is line ``first`` of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {first + error.lineno - 1}: not valid JSON ({error.msg}, column {error.colno}). Every "
            f"line must be one JSON object, {EXAMPLE}, or the file one array of them."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UserError(f"{path}, line {first}: JSON that Python does not read ({error}).") from error


def read_text(path: str) -> Rows:
    """A prompt a line; blank lines are skipped."""
    for _, text in _read_lines(path):
        if text.strip():
            yield {"prompt": text.rstrip("\r\n")}


def read_csv(path: str, *, types: bool = False) -> Rows:
    """A CSV file with a header line, divided by commas or, as Excel writes it in much of Europe, semicolons.

    Args:
        types: Infer the columns' types, from the whole file; else all are text.
    """
    csv.field_size_limit(2**31 - 1)  # Python's own limit is 128 KiB a cell
    lines = (text for _, text in _read_lines(path))
    first = next(lines, "")
    by_cells = max(",;", key=lambda d: len(next(csv.reader([first], delimiter=d), [])))
    delimiter = "\t" if find_suffix(path).startswith(".tsv") else by_cells
    table = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    rows = _split_rows(table, path)
    try:
        yield from _infer_types(list(rows)) if types else rows
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num}: not valid CSV ({error}).") from error


def _split_rows(table: Any, path: str) -> Iterator[dict[str, str]]:
    """The rows under a header line."""
    names: list[str] = next(table, [])
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} has several columns called {', '.join(map(repr, twice))}; rename them.")
    for cells in filter(None, table):  # without blank lines
        if len(cells) != len(names):
            raise UserError(f"{path}, line {table.line_num}: {len(cells)} cells, and the header has {len(names)}.")
        yield dict(zip(names, cells, strict=True))


def _infer_types(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Rows of text with the types that the values of each column look like."""
    import pyarrow
    from pyarrow import csv as arrow

    if not rows:
        return []
    text = pyarrow.BufferOutputStream()
    arrow.write_csv(pyarrow.Table.from_pylist(rows), text)
    size = arrow.ReadOptions(block_size=min(text.tell(), 2**31 - 1))  # a cell must not span blocks
    parse = arrow.ParseOptions(newlines_in_values=True)
    converted: list[dict[str, Any]] = arrow.read_csv(pyarrow.BufferReader(text.getvalue()), size, parse).to_pylist()
    return converted


def read_parquet(path: str) -> Rows:
    """A Parquet file."""
    import pyarrow
    from pyarrow import parquet

    try:
        with _open(path) as file:
            for batch in parquet.ParquetFile(file).iter_batches(ROWS):
                yield from read_table(batch)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}") from error


def read_arrow(path: str) -> Rows:
    """An Arrow file, or an Arrow stream, which is what ``datasets`` writes."""
    import pyarrow

    try:
        with _open(path) as file:
            try:
                reader = pyarrow.ipc.open_file(file)
                batches: Any = map(reader.get_batch, range(reader.num_record_batches))
            except pyarrow.ArrowInvalid:
                file.seek(0)
                batches = pyarrow.ipc.open_stream(file)
            for batch in batches:
                for start in range(0, len(batch), ROWS):
                    yield from read_table(batch.slice(start, ROWS))
    except (pyarrow.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{path} is not a readable Arrow file: {error}") from error


def read_table(table: Any) -> list[dict[str, Any]]:
    """The rows of an Arrow table. A narrow float is the number that was written: 0.1, not 0.10000000149011612.

    >>> import pyarrow
    >>> read_table(pyarrow.table({"answer": pyarrow.array([[0.1]], pyarrow.list_(pyarrow.float32()))}))
    [{'answer': [0.1]}]
    """
    rows: list[dict[str, Any]] = table.to_pylist()
    narrow = [field for field in table.schema if "float" in str(field.type)]  # "double" is the wide one
    for row in rows if narrow else ():
        row.update({field.name: _shorten_floats(row[field.name], field.type) for field in narrow})
    return rows


def _shorten_floats(value: Any, kind: Any) -> Any:
    """A value of an Arrow type, its floats of 16 and 32 bits as the shortest decimals that are rounded to them."""
    from pyarrow import types

    if value is None:
        return None
    if types.is_float16(kind) or types.is_float32(kind):
        return float(str(kind.to_pandas_dtype()(value)))
    if types.is_struct(kind):
        return {field.name: _shorten_floats(value[field.name], field.type) for field in kind}
    if types.is_map(kind):
        return [(key, _shorten_floats(item, kind.item_type)) for key, item in value]
    if hasattr(kind, "value_type") and isinstance(value, list):
        return [_shorten_floats(item, kind.value_type) for item in value]
    return value


def _read_lines(path: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text with its end) of the lines of a file, unpacked where it is compressed."""
    packed = PACKED.get(PurePath(path).suffix.lower())
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                try:
                    # "-sig" takes off the mark that Excel writes before the first line
                    yield number, line.decode("utf-8-sig")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path}, line {number}: not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1})."
                        " Save the file as UTF-8."
                    ) from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        if packed is None or isinstance(error, FileNotFoundError):
            raise
        raise UserError(f"{path} is not a whole {packed} file: {error}") from error


def _open(path: str) -> Any:
    """A file, or what a URL names, unpacked where its name says that it is compressed."""
    packed = PACKED.get(PurePath(path).suffix.lower())
    if "://" in path:
        import fsspec

        file = fsspec.open(path, "rb").open()
    else:
        file = Path(path).open("rb")  # noqa: SIM115, the caller closes it
    if packed is None:
        return file
    if packed == "xz":
        return lzma.open(file)
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(file, compression=packed))


TEXT: Mapping[str, Callable[[str], Rows]] = {
    ".jsonl": read_json,
    ".json": read_json,
    ".ndjson": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_text,
}
BINARY: Mapping[str, Callable[[str], Rows]] = {
    ".parquet": read_parquet,
    ".pq": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
READERS: Mapping[str, Callable[[str], Rows]] = {
    **TEXT,
    **BINARY,
    **{f"{name}{packed}": reader for name, reader in TEXT.items() for packed in PACKED},
}
"""File extension → reader of a path."""

POSSIBLE = f"{', '.join([*TEXT, *BINARY])}, and {', '.join(TEXT)} with {', '.join(PACKED)} behind"
