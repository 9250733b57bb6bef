"""What ``lgrpo init code`` writes is understood."""

from pathlib import Path

import pytest

from lgrpo_lightning import cli


def test_the_configuration_parses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "code"]) == 0
    with pytest.raises(SystemExit) as done:
        cli.main(["fit", "--config=run.yaml", "--print_config"])
    assert not done.value.code
