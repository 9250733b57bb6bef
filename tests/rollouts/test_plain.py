"""Whatever rewards, columns and completions hold, a rollout is written and read back."""

from __future__ import annotations

import datetime
import io
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import torch

from lgrpo_lightning.callbacks.completion_table import _write_line
from lgrpo_lightning.distributed.terminal import escape_unprintable
from lgrpo_lightning.rollouts.metrics_csv import MetricsCSV
from lgrpo_lightning.rollouts.plain import to_plain
from lgrpo_lightning.rollouts.rollout_rows import build_rows, build_table
from lgrpo_lightning.testing import toy_group, toy_tree
from lgrpo_lightning.types import Credit, Rewards, Rollout


class Unspeakable:
    """Fails at being text."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


endless: list[Any] = []
endless.append(endless)
twice: list[Any] = []
twice += [twice, twice]
VALUES: dict[str, Any] = {
    "twice itself": twice,
    "too long a number": 10**5000,
    "sparse": torch.eye(2).to_sparse(),
    "without values": torch.ones(2, device="meta"),
    "a class": np.ndarray,
    "long double": np.longdouble(1.5),
    "numpy's date": np.datetime64("2024-01-02", "ns"),
    "surrogate": "a\ud800b",
    "nul": "a\x00b",
    "bytes": b"\xff\x00",
    "nan": float("nan"),
    "infinity": [float("inf")],
    "huge": 10**400,
    "date": datetime.datetime(2024, 1, 2),
    "decimal": Decimal("1.5"),
    "numpy": np.float32(1.5),
    "array": np.arange(3),
    "tensor": torch.ones(2),
    "set": {1},
    "keys": {(1, 2): 3, None: 4, "\udfff": 5},
    "endless": endless,
    "unspeakable": Unspeakable(),
    "object": object(),
    "complex": 1j,
    "mixed": ["a", 1, None, {"b": [True]}],
}


def batch(value: Any, text: str = "x") -> Rollout:
    group = toy_group([text, "yz"], columns={"answer": value, "\ud800": 1}, uid="toy/\ud800")
    tree = toy_tree(group)
    rewards = Rewards(outcome=torch.zeros(2), parts={"na\ud800me": torch.zeros(2)}, extras={"extra": [value, None]})
    credit = Credit(advantages=torch.zeros(2, 2), weights=torch.zeros(2, 2))
    return Rollout(index=0, groups=(group,), trees=(tree,), rewards=(rewards,), credits=(credit,), trained=(True,))


@pytest.mark.parametrize("kind", VALUES)
def test_it_is_written(kind: str, tmp_path: Path) -> None:
    table = build_table(batch(VALUES[kind]))
    pq.write_table(table, tmp_path / "rollouts.parquet")
    frame = pandas.read_parquet(tmp_path / "rollouts.parquet")
    for name in ("columns", "extras"):
        json.loads(frame[name][0], parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert frame["completion"].tolist() == ["x", "yz"]


def test_text_of_completions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = batch("4", text="a\ud800b\u200d\x00")
    pq.write_table(build_table(rollout), tmp_path / "rollouts.parquet")
    assert pandas.read_parquet(tmp_path / "rollouts.parquet")["completion"][0] == "a\\ud800b\u200d\x00"
    for encoding in ("ascii", "latin-1", "utf-8"):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", out)
        for row in build_rows(rollout):
            out.write(escape_unprintable(_write_line(row)))
        monkeypatch.undo()


def test_names_of_metrics(tmp_path: Path) -> None:
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"re\ud800ward": 1.0, "größe": 2.0}, 0)
    assert pandas.read_csv(tmp_path / "metrics.csv")["größe"].tolist() == [2.0]


def test_nothing_is_lost_on_the_way() -> None:
    assert to_plain({1: "a", "1": "b"}) == {"1": "a", "1 (str)": "b"}
    assert to_plain([np.longdouble(1.5), np.datetime64("2024-01-02", "D")]) == [1.5, "2024-01-02"]
