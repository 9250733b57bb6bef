"""An import by a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lgrpo_lightning.commands.import_trl import convert_file

FILE = "run.yaml"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``made(text, name, **options)``: (the configuration, the text with its remarks in one line each)."""
    monkeypatch.chdir(tmp_path)

    def importing(text: str, name: str = FILE, **options: Any) -> tuple[Any, str]:
        Path(name).write_text(text)
        printed = convert_file(Path(name), **options)
        return yaml.safe_load(printed), printed.replace("\n#   ", " ")

    return importing
