"""Right answers and completions in the notations of public data sets, and their verdicts.

``answer_pairs.jsonl``: the data set whose notation it is, ``extract``, the answer, a completion, and whether it is
right; "refused": the row is. ``math_verify`` is what math-verify says, where that is something else: it reads the
notation otherwise (``2 1/2`` as 3/2), or not at all.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lgrpo_lightning.rewards import ExactMatch
from lgrpo_lightning.testing import toy_group, toy_tree

PAIRS: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "answer_pairs.jsonl").read_text("utf-8").splitlines()
]


REFUSED = re.compile("(not one|there is no) number.*MathAnswer of lgrpo-math for formulas")


def verdict(pair: dict[str, Any]) -> bool | str:
    model, columns = ExactMatch(extract=pair["extract"]), {"answer": pair["answer"]}
    try:
        model.check_row(columns)
    except ValueError as error:
        return "refused" if REFUSED.search(str(error)) else str(error)
    group = toy_group([pair["completion"]], columns=columns)
    return model.score(group, toy_tree(group)).outcome.item() == 1.0


def test_every_pair() -> None:
    assert len(PAIRS) >= 150
    assert {pair["source"] for pair in PAIRS} >= {"MATH", "GSM8K", "DeepMath", "AIME", "SVAMP"}
    assert [pair for pair in PAIRS if verdict(pair) != pair["right"]] == []


@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_math_verify_agrees_where_it_reads_the_notation(every: int) -> None:
    from math_verify import parse, verify

    differ = []
    for pair in [pair for pair in PAIRS if pair["right"] != "refused"][::every]:
        gold = str(pair["answer"]).rpartition("####")[2].strip()
        gold = gold if "boxed" in gold else rf"\boxed{{{gold}}}"
        said = verify(parse(gold), parse(pair["completion"]))
        if said != pair.get("math_verify", pair["right"]):
            differ.append((pair, said))
    assert differ == []
