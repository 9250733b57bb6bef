"""What the parser says, in words."""

from __future__ import annotations

import pytest

from lgrpo_lightning.commands.explanations import explain


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("builtins.print", "model.optimizer: 'builtins.print' is no class that can stand there."),
        ("builtins.prin", "there is no class 'builtins.prin'. Did you mean 'builtins.print'?"),
    ],
)
def test_what_is_there_is_not_proposed_in_its_own_place(path: str, says: str) -> None:
    said = f'Parser key "model.optimizer": Expected a path but {path} either not accessible or invalid'
    assert says in explain(said)
