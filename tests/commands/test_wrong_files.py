"""``lgrpo fit --config X`` where X is no configuration: what X is, and what to do instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from lgrpo_lightning import cli

FILES = {
    "run/config.yaml": "model: {}",
    "configs/one.yaml": "model: {}",
    "rows.jsonl": '{"prompt": "1+1=", "answer": 2}',
    "rows.csv": "prompt,answer",
    "train.py": "from trl import GRPOTrainer",
    "trl.yaml": "num_generations: 8",
    "verl.yaml": "actor_rollout_ref: {}",
}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "lgrpo fit needs a configuration: --config FILE. `lgrpo init` writes one to start from."),
        (["--config"], "--config needs the path of a configuration file. `lgrpo init` writes one"),
        (["--config=run"], "run is the folder of a run. The configuration of the run is run/config.yaml."),
        (["--config=configs"], "configs is a folder, not a configuration file. The folder has one.yaml."),
        (["--config=empty"], "empty is a folder, not a configuration file. `lgrpo init` writes one"),
        (["--config=trk.yaml"], "There is no configuration file trk.yaml"),
        (["--config=trk.yaml"], "Did you mean 'trl.yaml'?"),
        (["--config=x/y.yaml"], "There is no folder x either. `lgrpo init` writes one to start from."),
        (
            ["--config=rows.jsonl"],
            "rows.jsonl is a file of prompts, not a configuration. Use it as data: --data.train=",
        ),
        (["--config=rows.csv"], "Use it as data: --data.train=rows.csv"),
        (["--config=train.py"], "train.py is a Python file, not a configuration."),
        (["--config=train.py"], "`lgrpo import-trl train.py` prints"),
        (["--config=trl.yaml"], "trl.yaml is written for TRL, not for `lgrpo`. `lgrpo import-trl trl.yaml` prints"),
        (["--config=verl.yaml"], "verl.yaml is written for verl, not for `lgrpo`. docs/from-verl.md has"),
    ],
)
def test_it_says_what_it_is_and_what_to_do(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    assert cli.main(["fit", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
