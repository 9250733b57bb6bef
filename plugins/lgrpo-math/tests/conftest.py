"""Scoring of (data column, completion) pairs."""

from collections.abc import Callable, Sequence

import pytest
from lgrpo_math import MathAnswer

from lgrpo_lightning.testing import toy_group, toy_tree

Verdicts = Callable[[MathAnswer, Sequence[tuple[object, str]]], list[str]]


@pytest.fixture(scope="session")
def verdicts() -> Verdicts:
    """The verdict of a model on each pair, all of them scored at once, each as a group of one."""

    def of(model: MathAnswer, pairs: Sequence[tuple[object, str]]) -> list[str]:
        groups = [toy_group([t], columns={"answer": gold}, uid=f"pair/{i}") for i, (gold, t) in enumerate(pairs)]
        rewards = model.score_batch(groups, [toy_tree([[1]])] * len(groups))
        return [r.extras["MathAnswer/verdict"][0] for r in rewards]

    return of
