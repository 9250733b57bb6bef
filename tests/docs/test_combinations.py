"""docs/combinations.md has every built-in loss and estimator, and says what happens."""

from __future__ import annotations

import pytest

from tests.combinations import PAGE, Combination, combinations, forms, names, outcome
from tests.docs.markdown import code, rows, section

EVERY = list(combinations())
SAMPLE = EVERY[:: max(1, len(EVERY) // 12)]


def documented() -> dict[tuple[str, bool, str, bool], str]:
    """(loss, token form, estimator, λ weights) → the cell."""
    text = section(PAGE, "Losses and estimators")
    header = next(line for line in text.splitlines() if line.startswith("| estimator"))
    columns = [(code(cell)[0], ", token" in cell) for cell in header.split("|")[3:-1]]
    return {
        (loss, token, code(row[0])[0], row[1] == "yes"): cell
        for row in rows(text)
        for (loss, token), cell in zip(columns, row[2:], strict=True)
    }


def key(c: Combination) -> tuple[str, bool, str, bool]:
    return c.loss, c.token, c.estimator, c.weighted


def test_the_table_is_complete() -> None:
    again = "run python -m tests.combinations"
    assert documented().keys() == {key(c) for c in EVERY}, again
    assert set(documented().values()) == {"yes", "no"}
    refused = {c.loss for c in EVERY if documented()[key(c)] == "no"}
    assert {code(row[0])[0] for row in rows(section(PAGE, "Refused"))} == refused, again
    assert len(EVERY) >= 2 * len(names("advantage_estimator")) * len(names("loss"))
    assert any(True in forms(loss) for loss in names("loss"))


@pytest.mark.parametrize("combination", SAMPLE, ids=lambda c: "-".join(map(str, key(c))))
def test_a_sample_of_it(combination: Combination) -> None:
    said = outcome(combination)
    assert documented()[key(combination)] == ("no" if said else "yes")
    if said:
        assert "has no tokens to weigh" in said
