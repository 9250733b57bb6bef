"""Right answers of every type that a data column may have."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from lgrpo_lightning.rewards import ExactMatch
from lgrpo_lightning.testing import toy_group, toy_tree
from tests.runs import lgrpo

FOUR: dict[str, Any] = {
    "text": "4",
    "number": 4,
    "float": 4.0,
    "decimal": Decimal("4.0"),
    "numpy": np.int64(4),
    "numpy float": np.float32(4),
    "torch": torch.tensor(4),
    "list": ["4"],
    "list of numbers": [4],
    "several": ["7", 4, None],
    "nested": [["4"], []],
    "with words": ["4", "four"],
    "array": np.array(["4"]),
    "tuple": ("4",),
    "ground truth": {"ground_truth": "4", "style": "rule"},
    "ground truth of a table": {"ground_truth": ["4"], "other": None},
    "one entry": {"sum": 4},
    "answers of a data set": {"text": ["4"], "answer_start": [3]},
    "solution": "2 + 2 = 4",
}
NONE: dict[str, Any] = {
    "null": None,
    "nan": float("nan"),
    "blank": "  ",
    "empty list": [],
    "nulls": [None, ""],
    "empty object": {"ground_truth": None, "answer": ""},
}
ODD: dict[str, Any] = {
    "object": {"x": 1, "y": 2},
    "date": datetime.date(2024, 1, 2),
    "bytes": b"4",
    "no number": "four",
    "true, as a number": True,
}


def outcome(value: Any, *texts: str, extract: str = "last_number") -> list[float]:
    group = toy_group(texts, columns={"answer": value})
    return ExactMatch(extract=extract).score(group, toy_tree(group)).outcome.tolist()


@pytest.mark.parametrize("kind", FOUR)
def test_four(kind: str) -> None:
    ExactMatch().check_row({"answer": FOUR[kind]})
    assert outcome(FOUR[kind], "it is 4", "5", "none") == [1.0, 0.0, 0.0]
    assert outcome(FOUR[kind], r"\boxed{4}", r"\boxed{5}", extract="boxed")[0] == float(kind != "solution")


@pytest.mark.parametrize("kind", [*NONE, *ODD])
def test_rows_that_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"ExactMatch: (there is no answer in )?column 'answer'"):
        ExactMatch().check_row({"answer": (NONE | ODD)[kind]})


@pytest.mark.parametrize("value", [True, "true", "True", [True]])
def test_true_and_false(value: Any) -> None:
    texts = [r"\boxed{True}", r"\boxed{true}", r"\boxed{False}", "True"]
    assert outcome(value, *texts, extract="boxed") == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_row_is_named_before_the_first_step(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(300)]
    rows[250]["answer"] = None  # type: ignore[assignment]
    path = tmp_path / f"data.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pandas.DataFrame(rows).to_parquet(path)
    changes = {"data__train": path, "data.train.init_args.count": None}
    assert lgrpo("fit", tmp_path / "run", **changes) == 2
    assert "row 250 (from 0): ExactMatch: there is no answer in column 'answer'" in capsys.readouterr().err
    assert not (tmp_path / "run" / "rollouts").exists()
