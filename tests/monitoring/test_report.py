"""``lgrpo report``: one page that holds everything, asks the network for nothing, and runs nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lgrpo_lightning import cli
from tests.monitoring.chromium import needs_chromium, opened
from tests.monitoring.recorded import HOSTILE, record
from tests.monitoring.sick_runs import SICK, WELL, write_run
from tests.runs import VALIDATED, fit


def report(*runs: Path, out: Path) -> str:
    assert cli.main(["report", *map(str, runs), f"--out={out}"]) == 0
    return out.read_text()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as it is."""
    return fit(tmp_path_factory.mktemp("real") / "run", trainer__max_steps=4, **VALIDATED)


def test_a_real_run(real: Path, tmp_path: Path) -> None:
    text = report(real, out=tmp_path / "report.html")
    for part in ("Findings", "Curves", "Process trees", "Completions of the last rollout", "Environment"):
        assert f"<h2>{part}</h2>" in text
    assert json.loads((real / "environment.json").read_text())["packages"]["torch"] in text
    assert "class_path: lgrpo_lightning.estimators" in text
    assert text.count("<figure>") >= 9
    assert "://" not in text.replace("http://www.w3.org", "")


def test_findings_are_in_it(tmp_path: Path) -> None:
    run = record(tmp_path / "run", [(["5", "6"], [1.0, 0.0])], series=SICK["truncation with a flat reward"][1])
    text = report(run, out=tmp_path / "report.html")
    assert "Completions are cut off" in text
    assert "<code>model.sampling.max_new_tokens</code> = 256" in text


def test_several_runs_share_their_curves(real: Path, tmp_path: Path) -> None:
    other = record(tmp_path / "other", [(["5", "6"], [1.0, 0.0])])
    text = report(real, other, out=tmp_path / "report.html")
    assert "<h1>2 runs</h1>" in text
    assert text.count("<figure>") >= 9


def test_text_is_escaped(tmp_path: Path) -> None:
    run = record(tmp_path / "run", [(HOSTILE, [1.0, 0.0, 0.5, 0.0])], prompt=HOSTILE[0])
    config = (run / "config.yaml").read_text() + f"note: {json.dumps(HOSTILE[1])}\n"
    (run / "config.yaml").write_text(config)
    text = report(run, out=tmp_path / "report.html")
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.long
@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_the_page_fits_and_asks_for_nothing(width: int, dark: bool, real: Path, tmp_path: Path) -> None:
    hostile = record(tmp_path / "run", [(HOSTILE, [1.0, 0.0, 0.5, 0.0])], prompt=HOSTILE[0])
    for runs in ([hostile], [real], [real, hostile])[0 if dark else 2 :]:
        report(*runs, out=tmp_path / "report.html")
        seen = opened(tmp_path / "report.html", width=width, dark=dark)
        assert (seen.requests, seen.errors, seen.scripts) == ([], [], 0)
        assert seen.overflow <= 0
        assert "Findings" in seen.text


def test_a_comparison_has_a_report_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("table.csv", "runs.csv", "curves.csv"):
        (tmp_path / name).touch()
    assert cli.main(["report", str(tmp_path), str(write_run(tmp_path / "run", WELL["learns"]))]) == 2
    assert "is a comparison; a comparison has a report of its own" in capsys.readouterr().err
