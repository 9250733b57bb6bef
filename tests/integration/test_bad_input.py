"""Every mistake in ``bad_inputs`` ends with a message that names the place and what is possible."""

import pytest

from tests.integration.bad_inputs import CASES, PAGE, SECTIONS, answer, page


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str) -> None:
    case, got = CASES[name], answer(name)
    assert got.status == 2, got.printed
    for part in case.says:
        assert part in got.message
    assert "Traceback" not in got.printed
    assert not got.rollouts or case.rollouts
    assert case.rollouts or "ended the run" not in got.printed


def test_the_page_of_errors_is_what_the_runs_say() -> None:
    said = page()
    assert PAGE.read_text(encoding="utf-8") == said, "run: python -m tests.integration.bad_inputs"
    assert (
        sum(line.startswith("| ") for line in said.splitlines()) - len(SECTIONS)
        == sum(c.ours for c in CASES.values())
        >= 25
    )
