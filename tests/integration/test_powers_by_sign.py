"""The measurement of powers by sign: its batched toy is the toy of ``lgrpo fit``, and the program runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lgrpo_lightning import cli
from lgrpo_lightning.functional import group_advantages
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.types import Rewards
from tests.benchmarks.batched_toy import DEPTH, GROUP, STATES, Rules, leaf_rewards, train, weigh_edges
from tests.benchmarks.powers_by_sign import ARMS, CELLS, main, toy
from tests.runs import CONFIG, train_metrics


@pytest.mark.parametrize("name", ARMS)
def test_edges_get_the_credit_of_the_estimator(name: str) -> None:
    arm = ARMS[name]
    letters = torch.randint(2, (8, GROUP, DEPTH), generator=torch.Generator().manual_seed(0))
    state, edges = torch.zeros(letters.shape[:2], dtype=torch.long), []
    for letter in letters.unbind(-1):
        edges.append(2 * state + letter)
        state = edges[-1] + 1
    pays = leaf_rewards(1, -1.0).expand(8, -1).gather(1, state - len(STATES))
    up, down = weigh_edges(torch.stack(edges, -1), group_advantages(pays), Rules.from_arms([arm] * 8))
    for group, outcome in enumerate(pays):
        tree = ProcessTree.from_sequences(letters[group].tolist())
        credit = arm.make_estimator().estimate(Rewards(outcome=outcome), tree)
        at = torch.stack(edges, -1)[group].flatten()
        whole = torch.zeros(2 * len(STATES)).scatter_add_(0, at, (credit.weights * credit.advantages).flatten())
        assert torch.allclose((up + down)[group], whole, atol=1e-5)


def test_the_batched_toy_is_that_of_fit(tmp_path: Path) -> None:
    arm, rollouts, iterations = ARMS["blame 1, praise 0.5"], 12, 2
    options = {
        "config": CONFIG.with_name("paper_toy.yaml"),
        "seed_everything": 3,
        "trainer.max_steps": rollouts * iterations,
        "trainer.enable_progress_bar": "false",
        "trainer.default_root_dir": tmp_path,
        "model.updates.iterations": iterations,
        "model.optimizer.init_args.lr": 4e-3,
        "model.advantage_estimator": json.dumps(arm.config),
    }
    assert cli.main(["fit", *(f"--{key}={value}" for key, value in options.items())]) == 0
    pays = leaf_rewards(1, -1.0)
    leaves = train([(0, pays, ARMS["GRPO"]), (3, pays, arm)], 4e-3, rollouts=rollouts, iterations=iterations)
    assert pays[leaves[1]].mean(-1).tolist() == pytest.approx(train_metrics(tmp_path)["reward"].tolist())


def test_the_program_tunes_measures_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CELLS, "table-adam", lambda: toy("Adam", (0.1, 0.2), rollouts=2, table=True))
    words = ["--cell", "table-adam", "--arm", "GRPO", "blame 1", "--raw", str(tmp_path), "--seeds"]
    main([*words, "2"])
    assert capsys.readouterr().out.count("| blame 1 |") == 7  # six settings and their mean
    before = (tmp_path / "table-adam.jsonl").read_text()
    main([*words, "3"])
    after = (tmp_path / "table-adam.jsonl").read_text()
    assert after.startswith(before)
    assert '"seeds": [0' not in after.removeprefix(before)
