"""Every mistake in ``bad_inputs`` ends with a message that names the place and what is possible."""

import pytest

from tests.integration.bad_inputs import CASES, PAGE, SECTIONS, answer, page

QUICK = {
    "no reward model", "estimator", "class path that leads nowhere", "required argument", "credit of a wrong shape",
    "key of the module, flag", "key of a component in a list", "key of the optimizer", "wrong type", "malformed YAML",
    "not one of the choices", "no such file", "KL penalty where the loss is", "missing data file", "malformed line",
    "missing prompt column", "missing reward column", "longer than the context", "no split", "answer of another type",
    "mini-batches", "unknown schedule", "group of one", "temperature 0", "stop as text", "checkpoint",
    "unknown strategy", "16-true", "best of nothing", "no interval", "unknown callback", "logger without its package",
    "no such function", "wrong signature", "infinite", "exception", "code of its own", "weights that hold objects",
    "no such end", "no such folder", "unknown architecture", "lora targets", "no end of sequence",
}  # fmt: skip
"""Some of every kind; continuous integration tries all."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_bad_input(name: str) -> None:
    case, got = CASES[name], answer(name)
    assert got.status == 2, got.printed
    for part in case.says:
        assert part in got.message
    assert "Traceback" not in got.printed
    assert not got.rollouts or case.rollouts
    assert case.rollouts or "ended the run" not in got.printed


@pytest.mark.slow
def test_the_page_of_errors_is_what_the_runs_say() -> None:
    said = page()
    assert PAGE.read_text(encoding="utf-8") == said, "run: python -m tests.integration.bad_inputs"
    assert (
        sum(line.startswith("| ") for line in said.splitlines()) - len(SECTIONS)
        == sum(c.ours for c in CASES.values())
        >= 25
    )
