"""The help of a run begins with a page, and a component's key lists what can stand there."""

from __future__ import annotations

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
