"""Which errors are shown by their message alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

import lgrpo_lightning
from lgrpo_lightning import UserError
from lgrpo_lightning.commands.messages import report
from lgrpo_lightning.errors import MissingPackageError, NotFoundError

CAUGHT_HERE = {  # texts for a model or for the code around, never a user's
    "types.py", "process_tree.py", "functional/advantages.py", "functional/losses.py",
    "environments/tool_call_syntaxes.py", "environments/calculator.py", "environments/isolation/proxies.py",
    "environments/isolation/serving.py", "data/contexts.py",
}  # fmt: skip
BUILT_IN = re.compile(r"raise (ValueError|TypeError|RuntimeError|OSError|FileNotFoundError|ImportError)\(")


@pytest.mark.parametrize("kind", [UserError, NotFoundError, MissingPackageError, MisconfigurationException])
def test_the_users_mistakes_are_one_line(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = TypeError("a parser's words")
    wrapped.__cause__ = kind("mend it")
    assert report(kind("mend it")) == report(wrapped) == 2
    assert capsys.readouterr().err == "lgrpo: mend it\n" * 2


@pytest.mark.parametrize("kind", [ValueError, TypeError, OSError, KeyError])
def test_other_errors_show_their_traceback(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    assert report(kind("a bug")) == 1
    said = capsys.readouterr().err
    assert kind.__name__ in said
    assert "lgrpo:" not in said


def test_user_errors_are_what_they_were_by_python_s_names() -> None:
    assert issubclass(UserError, ValueError)
    assert issubclass(NotFoundError, FileNotFoundError)
    assert issubclass(MissingPackageError, ImportError)


def test_the_library_raises_its_own_errors_for_users() -> None:
    root = Path(lgrpo_lightning.__file__).parent
    found = {str(f.relative_to(root)) for f in root.rglob("*.py") if BUILT_IN.search(f.read_text(encoding="utf-8"))}
    assert found <= CAUGHT_HERE
