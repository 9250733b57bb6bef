"""The help of a run begins with a page, and a component's key lists what can stand there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lgrpo_lightning import cli


@pytest.mark.parametrize(
    ("words", "first", "said"),
    [
        (["--help"], "usage: lgrpo fit --config FILE", "Keys that are set most often"),
        (["--model.advantage_estimator.help"], "  BlendedGRPO  ", "LambdaGRPO "),
    ],
)
def test_help(words: list[str], first: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["fit", *words])
    assert not done.value.code
    text = capsys.readouterr().out
    assert text.startswith(first)
    assert said in "\n".join(text.splitlines()[:24])


@pytest.mark.parametrize(("own", "expected"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_of_torch_wait_without_spinning(own: dict[str, str], expected: str) -> None:
    """On a busy machine they would take the cores from each other. It is said before torch is there to read it."""
    shown = "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    code = f"import os, sys; from lgrpo_lightning import cli; cli._run = lambda argv: {shown} or 0; cli.main()"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | own
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, "False"]
