import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lgrpo_lightning.callbacks import PredictionWriter
from lgrpo_lightning.callbacks.prediction_writer import write_json_lines
from lgrpo_lightning.rollouts.rollout_rows import build_table
from tests.callbacks.stub import StubModule, simple_batch, trainer


def test_parquet_with_the_columns_of_rollouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path).predict(StubModule(), return_predictions=False)
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    assert list(frame.columns) == build_table(simple_batch(0)).column_names
    assert frame["prompt_uid"].tolist() == ["p0r0"] * 3 + ["p1r0"] * 3
    assert f"6 completions are in {tmp_path}/predictions.parquet." in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.jsonl"
    trainer(tmp_path, PredictionWriter(format="jsonl", path=str(path))).predict(StubModule(), return_predictions=False)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 6
    assert rows[3]["columns"] == {"answer": 1}
    assert rows[0]["reward/exact"] == 1.0


def test_nan_is_null_in_json(tmp_path: Path) -> None:
    class Module(StubModule):
        def predict_step(self, item: int, batch_idx: int) -> Any:
            return simple_batch(batch_idx, outcome=(float("nan"), 0.0, 1.0))

    trainer(tmp_path, PredictionWriter(format="jsonl")).predict(Module(), return_predictions=False)
    first = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[0])
    assert first["reward"] is None


def test_no_bare_nan_in_lists_and_objects() -> None:
    """JSON has no NaN and no Infinity."""
    import pyarrow as pa

    nan, infinite = float("nan"), float("inf")
    table = pa.table(
        {
            "columns": ['{"x": NaN}'],
            "extras": ["{}"],
            "logprobs": [[nan, -infinite, 1.0]],
            "turns": [[{"start": nan, "rewards": [infinite, 2.0]}]],
            "reward": [infinite],
        }
    )
    (line,) = write_json_lines(table)
    assert "NaN" not in line
    assert json.loads(line) == {
        "columns": {"x": None},
        "extras": {},
        "logprobs": [None, None, 1.0],
        "turns": [{"start": None, "rewards": [None, 2.0]}],
        "reward": None,
    }


def test_an_older_file_is_kept(tmp_path: Path) -> None:
    for _ in range(2):
        trainer(tmp_path).predict(StubModule(), return_predictions=False)
    assert {p.name for p in tmp_path.glob("predictions*")} == {
        "predictions.parquet",
        "predictions.old-1.parquet",
    }


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    trainer(tmp_path, fast_dev_run=True).predict(StubModule(), return_predictions=False)
    assert list(tmp_path.iterdir()) == []


def test_something_else_than_a_rollout_batch(tmp_path: Path) -> None:
    class Module(StubModule):
        def predict_step(self, item: int, batch_idx: int) -> Any:
            return 3

    with pytest.raises(ValueError, match=r"Module\.predict_step returned int"):
        trainer(tmp_path).predict(Module(), return_predictions=False)


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match='"parquet" or "jsonl"'):
        PredictionWriter(format="csv")  # type: ignore[arg-type]
