"""``lgrpo doctor``: every sick run has its finding first, healthy ones have none."""

import inspect
import json
import re
from pathlib import Path

import pandas
import pytest
import yaml

from lgrpo_lightning import cli
from lgrpo_lightning.monitoring import alarm_rules as rules
from lgrpo_lightning.monitoring.alarm_rules import RULES
from tests.docs.markdown import ROOT, headings, rows, section
from tests.monitoring.sick_runs import CONFIG, SICK, WELL, write_run

RECORDED = ROOT / "tests" / "golden" / "quickstart_metrics.csv"


def diagnosed(run: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    status = cli.main(["doctor", str(run), "--json"])
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    assert status == (1 if found else 0)
    return found


def test_every_rule_has_its_sick_run_and_its_heading() -> None:
    assert {first for first, _ in SICK.values()} == {rule.name for rule in RULES}
    page = ROOT / "docs" / "doctor.md"
    assert {rule.name for rule in RULES} <= set(headings(page))
    thresholds = [[f"`{rule.name}`", f"{rule.threshold:g}"] for rule in RULES]
    assert [row[:2] for row in rows(section(page, "When a finding is reported"))] == thresholds


@pytest.mark.parametrize("name", SICK)
def test_the_right_finding_comes_first(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, series = SICK[name]
    found = diagnosed(write_run(tmp_path / "run", series, repeated=first == "repeated"), capsys)
    assert [f["name"] for f in found][:1] == [first]
    assert any(character.isdigit() for character in str(found[0]["text"]))
    assert found[0]["settings"]
    assert str(found[0]["link"]).endswith(f"#{first}")


@pytest.mark.parametrize("name", WELL)
def test_nothing_is_found_in_a_healthy_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnosed(write_run(tmp_path / "run", WELL[name]), capsys) == []


def test_nothing_is_found_in_the_quickstart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it was recorded: entropy falls to 0.01 as it is solved."""
    table = pandas.read_csv(RECORDED)
    table.insert(0, "step", range(1, len(table) + 1))
    table.assign(rollout=table["step"]).to_csv(tmp_path / "metrics.csv", index=False)
    assert diagnosed(tmp_path, capsys) == []


def test_it_says_numbers_settings_and_where_more_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", SICK["truncation with a flat reward"][1])
    assert cli.main(["doctor", str(run)]) == 1
    said = capsys.readouterr().out
    assert "1. Completions are cut off (clipped)" in said
    assert "% of the completions are cut off and the reward does not rise" in said
    assert "Settings: model.sampling.max_new_tokens (now 256)" in said
    assert "More: docs/doctor.md#clipped" in said


def test_thresholds_are_those_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", SICK["truncation with a flat reward"][1])
    alarms = {
        "class_path": "lgrpo_lightning.callbacks.Alarms",
        "init_args": {"thresholds": {"clipped": None}},
    }
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "trainer": {"callbacks": [alarms]}}))
    assert diagnosed(run, capsys) == []


def test_a_grpo_run_needs_no_shared_prefixes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", SICK["no shared prefixes"][1])
    text = (run / "config.yaml").read_text().replace("LambdaGRPO", "GRPO")
    (run / "config.yaml").write_text(text)
    assert diagnosed(run, capsys) == []


def test_weights_balance_rewards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", SICK["one reward drowns another"][1])
    text = (run / "config.yaml").read_text().replace("reward_weights:\n  - 1.0\n  - 1.0", "reward_weights: [1.0, 0.05]")
    assert "0.05" in text
    (run / "config.yaml").write_text(text)
    assert diagnosed(run, capsys) == []


def test_what_is_no_run_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs" / "a", WELL["learns"])
    assert cli.main(["doctor", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert "has neither metrics.csv nor rollouts/" in said
    assert "runs/a" in said
    assert cli.main(["doctor", str(tmp_path / "nowhere")]) == 2
    (tmp_path / "runs" / "a" / "metrics.csv").write_text("step,rollout,reward\n1,1,0.5\n")
    assert cli.main(["doctor", str(tmp_path / "runs" / "a")]) == 2
    assert "has 1 rollouts so far; at least 6" in capsys.readouterr().err


def test_every_metric_that_rules_read_is_logged() -> None:
    """By its heading in the docs, which another test compares with what runs log."""
    documented = (ROOT / "docs" / "metrics.md").read_text()
    read = set(re.findall(r'window\.\w+\("([\w/]+[a-z_])"', inspect.getsource(rules)))
    assert len(read) > 10
    for name in read:
        assert f"`{name}`" in documented or name.startswith("time/"), name
