"""What an optimizer step that is not made yet says of its rows."""

from __future__ import annotations

import math

import pytest
import torch

from lgrpo_lightning.training.pending_step import PendingStep
from tests.losses.stub_policy import drawn


def pending(*losses: float, per_token: float = 0.0, logprob: float = 0.0, at: tuple[int, int] = (1, 1)) -> PendingStep:
    """Passes of rows 3 and 0, of row 1 and of none; two tokens wide."""
    case = drawn("holes", rows=4, width=7)
    case.mask[:, :2] = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    tokens = {}
    for rows in ((3, 0), (1,))[: len(losses)]:
        values = torch.tensor([[row + 0.25, row + 0.5] for row in rows])
        terms, logprobs = values.clone(), -values
        if at[0] in rows:
            terms[rows.index(at[0]), at[1]] += per_token
            logprobs[rows.index(at[0]), at[1]] += logprob
        tokens |= {row: (terms[i], logprobs[i]) for i, row in enumerate(rows)}
    return PendingStep(batch=case.batch(), pass_losses=tuple(map(torch.tensor, losses)), tokens=tokens)


def test_rows_and_their_logprobs_in_order() -> None:
    step = pending(1.0, 2.0, 0.5)
    assert (step.rows, step.loss, step.finite) == ([0, 1, 3], 3.5, True)
    assert step.logprobs.shape == (3, 7)
    assert step.logprobs[:, :2].tolist() == [[-0.25, -0.5], [-1.25, -1.5], [-3.25, -3.5]]
    assert not step.logprobs[:, 2:].any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_loss_that_is_not_finite(value: float) -> None:
    assert not pending(1.0, value).finite
    assert not pending(value, 1.0).finite


@pytest.mark.parametrize("where", ["per_token", "logprob"])
def test_rows_that_are_not_finite(where: str) -> None:
    assert pending(0.0, 0.0, 0.0).offending() == []
    assert pending(0.0, 0.0, at=(3, 1), **{where: math.nan}).offending() == [3]
    assert pending(0.0, 0.0, at=(1, 0), **{where: math.inf}).offending() == [1]
    assert pending(0.0, 0.0, at=(1, 1), **{where: math.nan}).offending() == []  # not trained
