"""``lgrpo tree``: every shared text once, with the numbers that the definition gives."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch

from lgrpo_lightning import cli
from lgrpo_lightning.estimators import GRPO, LambdaGRPO
from lgrpo_lightning.insight.recorded_group import StepNode, nodes, recorded_group
from lgrpo_lightning.insight.recorded_run import RecordedRun
from lgrpo_lightning.insight.visible import visible
from lgrpo_lightning.testing import toy_group, toy_tree
from lgrpo_lightning.types import Rewards
from tests.insight.chromium import CHROMIUM, opened
from tests.insight.recorded import HOSTILE, record
from tests.runs import fit

README = (["5\n5+4=9\n", "5\n5+4=8\n", "5\n5+4=9\n", "6\n6+4=10\n"], [1.0, 0.0, 1.0, 0.0])
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)"
)


def all_nodes(steps: tuple[StepNode, ...]) -> list[StepNode]:
    return [found for step in steps for found in (step, *all_nodes(step.children))]


def test_the_readmes_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record(tmp_path / "run", [README])
    assert cli.main(["tree", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "4 completions" in lines[2]
    assert lines[4] == "├─ 5⏎5+4=  |λ|=3  r=0.667  GRPO +0.87  λ-GRPO +0.29"
    assert lines[5] == "│  ├─ 9⏎  |λ|=2  r=1  GRPO +1.73  λ-GRPO +0.87"
    assert lines[6] == "│  │     ■ y0 (cut off)  reward 1  advantage +0.87"
    assert lines[-2] == "└─ 6⏎6+4=10⏎  |λ|=1  r=0  GRPO -0.87  λ-GRPO -0.87"


@pytest.mark.parametrize("seed", range(30))
def test_numbers_are_what_the_estimators_add_up(seed: int) -> None:
    """Per step: the sum over its members of advantage times weight, for GRPO and for λ-GRPO."""
    rng = random.Random(seed)
    texts = ["".join(rng.choice("ab") for _ in range(rng.randint(0, 6))) for _ in range(rng.randint(2, 9))]
    rewards = torch.tensor([rng.choice([0.0, 0.5, 1.0]) for _ in texts])
    group, tree = toy_group(texts), toy_tree(texts)
    found = all_nodes(nodes(group, tree, rewards))
    assert len(found) == len(tree.steps)
    by_text = {}
    for number, step in enumerate(tree.steps):
        member, (start, end) = step.members[0], step.spans[0]
        for estimator in (GRPO(), LambdaGRPO()):
            credit = estimator.estimate(Rewards(outcome=rewards), tree)
            sums = sum(float(credit.advantages[m, start] * credit.weights[m, start]) for m in step.members)
            by_text.setdefault((texts[member][:end], number), []).append(sums)
    expected = sorted((round(a, 3), round(b, 3)) for a, b in by_text.values())
    shown = sorted((round(n.grpo, 3), round(n.lambda_grpo, 3)) for n in found)
    assert torch.allclose(torch.tensor(shown), torch.tensor(expected), atol=2e-3)
    assert sum(len(n.endings) for n in found) == sum(bool(text) for text in texts)


def test_a_real_run_by_its_own_segmenter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(
        tmp_path / "run", model__segmenter="DelimiterSegmenter", trainer__max_steps=1, data__validation=None
    )
    group = recorded_group(RecordedRun(run), 0, 1)
    assert group.segmenter == "DelimiterSegmenter"
    assert {e.member for n in all_nodes(group.roots) for e in n.endings} == set(range(4))
    assert cli.main(["tree", str(run), "--rollout=0", "--prompt=1", "--width=12"]) == 0
    assert group.prompt in capsys.readouterr().out


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
    assert visible(f"a{category}b").isprintable()


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
