"""Recorded runs with completions of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet
import torch

from lgrpo_lightning.rollouts.rollout_rows import build_table
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.types import Group, Rewards
from tests.callbacks.stub import batch
from tests.monitoring.sick_runs import WELL, Series, write_run

HOSTILE = (
    "<script>document.title='owned';fetch('https://example.org/')</script>",
    "<img src=https://example.org/x.png onerror=alert(1)>",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202egnirts\u202c",
    "</pre></details><h1>out</h1>{{ 7 * 7 }} &amp; \"quoted\" 'too' " + "long" * 200,
)
"""What must stay text."""


def record(
    folder: Path,
    groups: Sequence[tuple[Sequence[str], Sequence[float]]],
    *,
    prompt: str = "2+3=",
    series: Series = WELL["learns"],
) -> Path:
    """A run with one rollout of these groups: completions, a token a character, and their rewards."""
    run = write_run(folder, series)
    for file in (run / "rollouts").iterdir():
        file.unlink()
    made: list[Group] = [toy_group(list(texts), prompt=prompt, uid=f"train/{i}") for i, (texts, _) in enumerate(groups)]
    rewards = [Rewards(outcome=torch.tensor(list(values))) for _, values in groups]
    rows = build_table(batch(0, made, rewards))
    pyarrow.parquet.write_table(rows, run / "rollouts" / "rollout-000000-rank-000.parquet")
    return run
