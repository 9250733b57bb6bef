"""``lgrpo tree``: every shared text once, with the numbers that the definition gives."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pandas
import pytest
import torch
import yaml

from lgrpo_lightning import cli
from lgrpo_lightning.contracts import AdvantageEstimator
from lgrpo_lightning.estimators import GRPO, GTPO, LambdaGRPO
from lgrpo_lightning.monitoring.recorded_group import StepNode, build_nodes, read_group
from lgrpo_lightning.monitoring.recorded_run import RecordedRun
from lgrpo_lightning.monitoring.visible import make_visible
from lgrpo_lightning.rollouts.rollout_rows import build_table
from lgrpo_lightning.testing import toy_group, toy_tree
from lgrpo_lightning.types import Rewards, Rollout
from tests.monitoring.chromium import CHROMIUM, opened
from tests.monitoring.recorded import HOSTILE, record
from tests.runs import fit

README = (["5\n5+4=9\n", "5\n5+4=8\n", "5\n5+4=9\n", "6\n6+4=10\n"], [1.0, 0.0, 1.0, 0.0])
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")


def all_nodes(steps: tuple[StepNode, ...]) -> list[StepNode]:
    return [found for step in steps for found in (step, *all_nodes(step.children))]


def test_the_readmes_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record(tmp_path / "run", [README])
    assert cli.main(["tree", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "4 completions" in lines[2]
    assert lines[4] == "├─ 5⏎5+4=  n=3  r=0.667  run +0.50  GRPO +0.87  λ-GRPO +0.29"
    assert lines[5] == "│  ├─ 9⏎  n=2  r=1  run +1.00  GRPO +1.73  λ-GRPO +0.87"
    assert lines[6] == "│  │     ■ y0 (cut off)  reward 1  advantage +0.50"
    assert lines[-2] == "└─ 6⏎6+4=10⏎  n=1  r=0  run -0.50  GRPO -0.87  λ-GRPO -0.87"


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("estimator", [GRPO(), LambdaGRPO(), GTPO()], ids=lambda e: type(e).__name__)
def test_numbers_are_what_the_estimators_add_up(estimator: AdvantageEstimator, seed: int) -> None:
    """Per step: the sum over its members of advantage times weight, as recorded, for GRPO and for λ-GRPO."""
    rng = random.Random(seed)
    texts = ["".join(rng.choice("ab") for _ in range(rng.randint(0, 6))) for _ in range(rng.randint(2, 9))]
    rewards = Rewards(outcome=torch.tensor([rng.choice([0.0, 0.5, 1.0]) for _ in texts]))
    group, tree = toy_group(texts), toy_tree(texts)
    credits = [e.estimate(rewards, tree) for e in (estimator, GRPO(), LambdaGRPO())]
    recorded = Rollout(
        index=0, groups=(group,), trees=(tree,), rewards=(rewards,), credits=(credits[0],), trained=(True,)
    )
    found = all_nodes(build_nodes(build_table(recorded).to_pandas()))
    expected = [
        [sum(float(c.advantages[m, start] * c.weights[m, start]) for m in step.members) for c in credits]
        for step in tree.steps
        for start in [step.spans[0][0]]
    ]
    shown = [[n.own, n.grpo, n.lambda_grpo] for n in found]
    assert len(found) == len(tree.steps)
    torch.testing.assert_close(_sorted(shown), _sorted(expected), atol=1e-5, rtol=0)
    assert sum(len(n.endings) for n in found) == sum(bool(text) for text in texts)


def _sorted(rows: list[list[float]]) -> torch.Tensor:
    """By values that rounding does not change the order of."""
    return torch.tensor(sorted(rows, key=lambda row: [round(x, 3) for x in row]))


@pytest.mark.parametrize("command", ["tree", pytest.param("report", marks=pytest.mark.long), "doctor"])
@pytest.mark.parametrize("key", ["segmenter", "reward_model", "advantage_estimator", "optimizer"])
def test_what_a_received_run_names_is_not_run(
    command: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a run names any class and any arguments; looking at it calls none."""
    run = record(tmp_path / "run", [README])
    hostile = {"class_path": "os.system", "init_args": {"command": f"touch {tmp_path / 'ran'}"}}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {key: hostile}}))
    (run / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(run)
    cli.main([command, str(run)])
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {key: {"class_path": "evil.Segmenter"}}}))
    cli.main([command, str(run)])
    assert not (tmp_path / "ran").exists()


def test_the_group_with_most_to_learn_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = (README[0], [1.0, 1.0, 1.0, 1.0])
    run = record(tmp_path / "run", [flat, README, flat])
    assert cli.main(["tree", str(run)]) == 0
    assert "group 2 of 3" in capsys.readouterr().out


@pytest.mark.long
def test_a_real_run_by_its_own_segmenter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(tmp_path / "run", model__segmenter="DelimiterSegmenter", trainer__max_steps=1, data__validation=None)
    group = read_group(RecordedRun(run), 0, 1)
    assert group.segmenter == "DelimiterSegmenter"
    assert {e.member for n in all_nodes(group.roots) for e in n.endings} == set(range(4))
    assert cli.main(["tree", str(run), "--rollout=0", "--prompt=1", "--width=12"]) == 0
    assert group.prompt in capsys.readouterr().out


def test_a_deep_tree_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A step a line makes thousands below one another."""
    run = record(tmp_path / "run", [(["x" * 2000 + "a", "x" * 2000 + "b"], [1.0, 0.0])])
    (file,) = (run / "rollouts").iterdir()
    table = pandas.read_parquet(file)
    table["step_ids"] = [[*range(2000), 2000 + member] for member in range(2)]
    table.to_parquet(file)
    assert cli.main(["tree", str(run), f"--html={tmp_path / 'tree.html'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("n=2" in line for line in lines) == 100
    assert "(deeper steps are left out)" in lines[-4]
    assert [line.split("■ ")[1][:2] for line in lines[-3:-1]] == ["y0", "y1"]
    assert cli.main(["report", str(run)]) == 0


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record(tmp_path / "run", [README, README])
    for flags, says in (
        (["--rollout=7"], "has no rollout 7; there are 0 to 0"),
        (["--prompt=2"], "Rollout 0 has 2 groups, 0 to 1; there is no group 2"),
    ):
        assert cli.main(["tree", str(run), *flags]) == 2
        assert says in capsys.readouterr().err
    assert cli.main(["tree", str(tmp_path)]) == 2
    assert "has neither metrics.csv nor rollouts/" in capsys.readouterr().err


def test_escapes_of_the_terminal_are_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record(tmp_path / "run", [(HOSTILE, [1.0, 0.0, 0.0, 0.0])], prompt="\x1b]0;owned\x07?")
    assert cli.main(["tree", str(run)]) == 0
    said = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", said)
    assert r"\x1b[31mred" in said
    assert r"\u202e" in said


@pytest.mark.parametrize("category", ["\x07", "\x1b", "\u200b", "\u202e", "\ud800", "\u2028", "\x9b"])
def test_nothing_unseen_is_left(category: str) -> None:
    assert make_visible(f"a{category}b").isprintable()


@pytest.mark.long
@needs_chromium
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_text_and_fits(width: int, dark: bool, tmp_path: Path) -> None:
    run = record(tmp_path / "run", [(HOSTILE, [1.0, 0.0, 0.5, 0.0])], prompt=HOSTILE[0])
    assert cli.main(["tree", str(run), f"--html={tmp_path / 'tree.html'}"]) == 0
    seen = opened(tmp_path / "tree.html", width=width, dark=dark)
    assert (seen.requests, seen.errors, seen.scripts) == ([], [], 0)
    assert seen.overflow <= 0
    assert HOSTILE[0] in seen.text
    assert r"\x1b[31mred\x1b[0m" in seen.text
    assert "{{ 7 * 7 }} &amp;" in seen.text
