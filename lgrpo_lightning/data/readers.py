"""Readers of files, by how their names end."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lgrpo_lightning.data.arrow import table_rows
from lgrpo_lightning.data.shards import PACKED, suffix
from lgrpo_lightning.errors import UserError

Rows = list[dict[str, Any]]

EXAMPLE = 'such as {"prompt": "1+1=", "answer": 2}'


def read_json(path: Path) -> Rows:
    """One JSON object a line, or one array of objects; blank lines are skipped.

    Raises:
        ValueError: It is neither; naming the line.
    """
    content = _unpacked(path)
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        rows = _parsed(_text(content, path, 1), path, 1)
        if other := [(number, row) for number, row in enumerate(rows) if not isinstance(row, dict)]:
            number, row = other[0]
            raise UserError(
                f"{path}, entry {number} (from 0) of the array: a {type(row).__name__}, where a JSON object is needed, "
                f"{EXAMPLE}."
            )
        return list(rows)
    rows = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not (text := _text(line, path, number)).strip():
            continue
        row = _parsed(text, path, number)
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, line {number}: a {type(row).__name__}, where a JSON object is needed, {EXAMPLE}."
            )
        rows.append(row)
    return rows


def _parsed(text: str, path: Path, first: int) -> Any:
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


def _text(content: bytes, path: Path, first: int) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = first + content.count(b"\n", 0, error.start)
        begin = content.rfind(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {number}: not UTF-8 (byte "
            f"{content[error.start]:#04x} at column {error.start - begin + 1}). Save the file as UTF-8."
        ) from error


def _unpacked(path: Path) -> bytes:
    """What a file holds, unpacked where it is compressed.

    Raises:
        ValueError: It is cut off, or not compressed; naming it.
    """
    kind = path.suffix.lower()
    if kind not in PACKED:
        return path.read_bytes()
    try:
        if kind == ".zst":
            import pyarrow

            with pyarrow.input_stream(str(path), compression="zstd") as file:
                return bytes(file.read())
        with UNPACK[kind](path) as file:
            return bytes(file.read())
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} is not a whole {NAMES[kind]} file: {error}") from error


UNPACK: Mapping[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
NAMES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}


def read_parquet(path: Path) -> Rows:
    """A Parquet file."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}") from error
    return table_rows(table)


def read_arrow(path: Path) -> Rows:
    """An Arrow file, or an Arrow stream, which is what ``datasets`` writes."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as file:
            try:
                return table_rows(pyarrow.ipc.open_file(file).read_all())
            except pyarrow.ArrowInvalid:
                file.seek(0)
                return table_rows(pyarrow.ipc.open_stream(file).read_all())
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable Arrow file: {error}") from error


def read_csv(path: Path, *, types: bool = False) -> Rows:
    """A CSV file with a header line, divided by commas or, as Excel writes it in much of Europe, semicolons.

    Args:
        types: Infer the columns' types; else all are text.
    """
    import pyarrow
    from pyarrow import csv as arrow

    content = _text(_unpacked(path), path, 1).encode()
    if not content:
        return []
    parse = arrow.ParseOptions(newlines_in_values=True, delimiter=_delimiter(path, content))
    read = arrow.ReadOptions(block_size=min(max(len(content), 2), 2**31 - 1))  # a cell must not span blocks
    try:
        names = arrow.open_csv(pyarrow.BufferReader(content), read, parse).schema.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"{path} has several columns called {', '.join(map(repr, twice))}; rename them.")
        convert = arrow.ConvertOptions()
        if not types:
            convert = arrow.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))
        table = arrow.read_csv(pyarrow.BufferReader(content), read, parse, convert)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a readable CSV file: {error}") from error
    return list(table.to_pylist())


def _delimiter(path: Path, content: bytes) -> str:
    """What the header line is divided by."""
    if suffix(path).startswith(".tsv"):
        return "\t"
    header = content.splitlines()[:1]
    commas, semicolons = (len(next(csv.reader([header[0].decode()], delimiter=d), [])) for d in ",;")
    return ";" if semicolons > commas else ","


TEXT: Mapping[str, Callable[[Path], Rows]] = {
    ".jsonl": read_json,
    ".json": read_json,
    ".ndjson": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
}
BINARY: Mapping[str, Callable[[Path], Rows]] = {
    ".parquet": read_parquet,
    ".pq": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
}
READERS: Mapping[str, Callable[[Path], Rows]] = {
    **TEXT,
    **BINARY,
    **{f"{name}{packed}": reader for name, reader in TEXT.items() for packed in PACKED},
}
"""File extension → reader of a path."""

POSSIBLE = f"{', '.join([*TEXT, *BINARY])}, and {', '.join(TEXT)} with {', '.join(PACKED)} behind"
