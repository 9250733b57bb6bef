"""What loggers are given: whatever is in a rollout, it is short, text, and of plain types."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet
import pytest
import torch

from lgrpo_lightning.monitoring.completion_sheet import CompletionSheet, build_sheet
from lgrpo_lightning.monitoring.logger_tables import WRITERS
from lgrpo_lightning.monitoring.recorded_run import RecordedRun
from lgrpo_lightning.rollouts.rollout_rows import build_table
from lgrpo_lightning.testing import toy_group
from lgrpo_lightning.types import Group, Rewards, Turn
from tests.callbacks.stub import batch
from tests.monitoring.recorded import HOSTILE


def make(
    folder: Path,
    groups: Sequence[Group],
    rewards: Sequence[Rewards] | None = None,
    *,
    count: int = 50,
    longest: int = 4000,
    rank: int = 0,
) -> CompletionSheet:
    rewards = rewards or [Rewards(outcome=torch.arange(len(g)).float()) for g in groups]
    (folder / "rollouts").mkdir(exist_ok=True)
    rows = build_table(batch(7, list(groups), list(rewards)))
    pyarrow.parquet.write_table(rows, folder / "rollouts" / f"rollout-000007-rank-{rank:03d}.parquet")
    return build_sheet(RecordedRun(folder), 7, step=8, count=count, longest=longest)


def read(sheet: CompletionSheet) -> list[dict[str, Any]]:
    return [dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows]


def test_the_numbers_are_those_of_the_rollout(tmp_path: Path) -> None:
    """Two of three share "1"; rewards 1, 0, 1/3: the mean is 4/9."""
    rewards = Rewards(outcome=torch.tensor([1.0, 0.0, 1 / 3]), parts={"exact": torch.tensor([1.0, 0.0, math.nan])})
    sheet = make(tmp_path, [toy_group(["12", "13", "4"])], [rewards])
    assert read(sheet)[1] == {
        "rollout": 7, "prompt": "1+1=", "completion": "4", "reward": 0.3333, "reward/exact": None, "advantage": -0.1111,
        "|λ|": 1.0, "shared_tokens": 0, "length": 1, "finish_reason": "length", "turns": 1, "prompt_uid": "toy/0",
        "member": 2,
    }  # fmt: skip
    assert [row["|λ|"] for row in read(sheet)] == [1.5, 1.0, 1.5]
    assert sheet.tree.splitlines()[0] == "Rollout 7, group 1 of 1 (toy/0)"
    assert "└─" in sheet.tree
    assert "Process tree of rollout 7" in sheet.page


def test_turns_of_an_episode_are_marked(tmp_path: Path) -> None:
    group = toy_group(["2+3?5!", "6"])
    turns = [("assistant", 0, 3), ("environment", 3, 5), ("assistant", 5, 6)]
    made = tuple(Turn(role=role, start=start, end=end, messages=()) for role, start, end in turns)  # type: ignore[arg-type]
    group = replace(group, completions=(replace(group.completions[0], turns=made), group.completions[1]))
    rows = {row["member"]: row for row in read(make(tmp_path, [group]))}
    assert rows[0]["completion"] == "[assistant]⏎\n2+3⏎\n[environment]⏎\n?5⏎\n[assistant]⏎\n!"
    assert (rows[0]["turns"], rows[1]["turns"], rows[1]["completion"]) == (2, 1, "6")


def test_completions_of_all_processes_from_the_best_to_the_worst(tmp_path: Path) -> None:
    make(tmp_path, [toy_group(["a", "b", "c"], uid="r1")], rank=1)
    sheet = make(tmp_path, [toy_group(["d", "e", "f"], uid="r0")], count=5)
    assert [row["reward"] for row in read(sheet)] == [2.0, 2.0, 1.0, 0.0, 0.0]
    assert {row["prompt_uid"] for row in read(sheet)} == {"r0", "r1"}


STRANGE = {
    "hostile": toy_group(list(HOSTILE), prompt=HOSTILE[0], uid=HOSTILE[3]),
    "empty": toy_group(["", ""], prompt=""),
    "one of them empty": toy_group(["", "a"]),
    "one": toy_group(["a"]),
    "binary": toy_group(["".join(map(chr, range(256))), "\ud800\udfff\U0010ffff", "\x00" * 9]),
    "scripts": toy_group(["日本語のテキスト", "עברית العربية", "👩‍👩‍👧‍👦 e\u0301", "|λ| | a | b |\n|---|---|"]),
    "markdown": toy_group(
        ["```\n</pre></td></table>\n```", "# x\n\n* y\n\n    z", "[a](javascript:alert(1))", "&lt;b&gt;"]
    ),
    "huge": toy_group(["x" * 40_000, "x" * 20_000 + "y" * 20_000], prompt="p" * 1_000_000),
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("nan", [False, True])
def test_whatever_a_completion_holds(name: str, nan: bool, tmp_path: Path) -> None:
    group = STRANGE[name]
    outcome = torch.full((len(group),), math.nan) if nan else torch.arange(len(group)).float()
    sheet = make(tmp_path, [group], [Rewards(outcome=outcome)], longest=500)
    assert len(sheet.rows) == len(group)
    assert all(type(value) in (str, int, float, type(None)) for row in sheet.rows for value in row)
    texts = [value for row in sheet.rows for value in row if isinstance(value, str)]
    assert all(len(text) <= 500 or text == group.prompt.uid for text in texts)
    shown = "".join([*texts, sheet.tree]).translate(dict.fromkeys(map(ord, "\n\t\xa0")))
    assert shown.isprintable()
    assert json.loads(json.dumps([sheet.rows, sheet.tree, sheet.page], allow_nan=False))
    assert len(sheet.page) + len(sheet.tree) < 40_000
    assert "<script" not in sheet.page
    assert "<img" not in sheet.page
    said = show_in_tensorboard(sheet)
    assert "<script" not in said
    assert "<img" not in said
    assert said.count("<tr>") == len(group)
    assert said.count("<td>") == said.count("</td>") == said.count("<pre>") - 1 == 2 * len(group)
    if name == "markdown":
        assert "&lt;/pre&gt;&lt;/td&gt;&lt;/table&gt;" in said
        assert "&amp;lt;b&amp;gt;" in said
        assert "<h1>" not in said
        assert "<a" not in said


def show_in_tensorboard(sheet: CompletionSheet) -> str:
    """The HTML that its page shows."""
    from tensorboard.plugin_util import markdown_to_safe_html

    texts: dict[str, str] = {}
    experiment = SimpleNamespace(add_text=lambda tag, text, step: texts.__setitem__(tag, text))
    WRITERS["torch"].log_sheet(SimpleNamespace(experiment=experiment), sheet, 0)
    return "".join(str(markdown_to_safe_html(text)) for text in texts.values())
