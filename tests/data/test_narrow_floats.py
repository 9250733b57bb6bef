"""Numbers that a file holds in 16 or 32 bits are those that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lgrpo_lightning.data.files import PromptFile
from lgrpo_lightning.rewards import ExactMatch
from lgrpo_lightning.testing import toy_group, toy_tree

VALUE = 0.1
ROW: dict[str, Any] = {"prompt": "1/10=", "answer": VALUE, "list": [VALUE, None], "object": {"answer": VALUE}}
ROW |= {"nested": [{"value": [VALUE]}], "pair": [VALUE, VALUE], "map": [("x", VALUE)], "none": None}


def table(bits: int) -> pa.Table:
    kind = {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}[bits]
    types = {
        "prompt": pa.string(),
        "answer": kind,
        "list": pa.list_(kind),
        "object": pa.struct([("answer", kind)]),
        "nested": pa.list_(pa.struct([("value", pa.large_list(kind))])),
        "pair": pa.list_(kind, 2),
        "map": pa.map_(pa.string(), kind),
        "none": kind,
    }
    return pa.Table.from_pylist([ROW], schema=pa.schema(list(types.items())))


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_parquet(bits: int, tmp_path: Path) -> None:
    pq.write_table(table(bits), tmp_path / "t.parquet")
    (row,) = PromptFile(str(tmp_path / "t.parquet")).rows()
    assert row == ROW


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_a_saved_data_set(bits: int, tmp_path: Path) -> None:
    data = datasets.Dataset(table(bits).drop_columns(["map", "pair"]))
    data.save_to_disk(str(tmp_path / "saved"))
    (row,) = PromptFile(str(tmp_path / "saved")).rows()
    assert row == {key: value for key, value in ROW.items() if key not in ("map", "pair")}


@pytest.mark.parametrize(
    "value",
    [np.float16(0.1), np.float32(0.1), np.array([0.1], np.float32), [np.float32(0.1)], 0.1 + 0.2 - 0.2, 0.1],
)
def test_the_reward_knows_the_number(value: Any) -> None:
    group = toy_group(["so 0.1", "0.11", "1/10"], columns={"answer": value})
    assert ExactMatch().score(group, toy_tree(group)).outcome.tolist() == [1.0, 0.0, 1.0]
