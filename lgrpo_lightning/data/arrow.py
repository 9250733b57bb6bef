"""Rows of Arrow tables."""

from __future__ import annotations

from typing import Any


def table_rows(table: Any) -> list[dict[str, Any]]:
    """The rows of an Arrow table. A narrow float is the number that was written: 0.1, not 0.10000000149011612.

    >>> import pyarrow
    >>> table_rows(pyarrow.table({"answer": pyarrow.array([[0.1]], pyarrow.list_(pyarrow.float32()))}))
    [{'answer': [0.1]}]
    """
    rows: list[dict[str, Any]] = table.to_pylist()
    narrow = [field for field in table.schema if "float" in str(field.type)]  # "double" is the wide one
    for row in rows if narrow else ():
        row.update({field.name: _as_written(row[field.name], field.type) for field in narrow})
    return rows


def _as_written(value: Any, kind: Any) -> Any:
    """A value of an Arrow type, its floats of 16 and 32 bits as the shortest decimals that are rounded to them."""
    from pyarrow import types

    if value is None:
        return None
    if types.is_float16(kind) or types.is_float32(kind):
        return float(str(kind.to_pandas_dtype()(value)))
    if types.is_struct(kind):
        return {field.name: _as_written(value[field.name], field.type) for field in kind}
    if types.is_map(kind):
        return [(key, _as_written(item, kind.item_type)) for key, item in value]
    if hasattr(kind, "value_type") and isinstance(value, list):
        return [_as_written(item, kind.value_type) for item in value]
    return value
