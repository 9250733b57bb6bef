"""Rewards an answer that equals a data column."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

import torch

from lgrpo_lightning.contracts import RewardModel
from lgrpo_lightning.errors import UserError
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.rewards.answers import read_answers
from lgrpo_lightning.rewards.checks import RewardError
from lgrpo_lightning.rewards.numbers import LONGEST, find_last_number, find_one_number, parse_number
from lgrpo_lightning.rewards.opening import compile_extract, complete_tags, find_last
from lgrpo_lightning.types import Group, Rewards


class ExactMatch(RewardModel):
    """Compares the answer in a completion with a data column.

    Numbers are compared as exact numbers (``1,000`` = ``1000.0``, ``2 1/2`` = ``\\frac{5}{2}``; floats to 12 digits),
    anything else as text with its white space collapsed, such as ``12:30``. Formulas are lgrpo-math's. A column
    that holds a worked solution is read like a completion: its answer is what ``extract`` finds, or stands after
    ``####``. With "last_number" it must state one number. A list holds several answers, any of which is right; of an
    object it is the entry ``ground_truth``, ``answer`` or the like.

    Args:
        column: Data column with the right answer.
        extract: Where the answer of a completion stands: "last_number", "boxed" (the last ``\\boxed{...}``,
            braces may nest) or a regular expression with a group, whose last match counts, such as
            ``<answer>(.*?)</answer>``; its dot matches newlines too.
        correct: Reward of a right answer.
        incorrect: Reward of a wrong answer.
        missing: Reward of a completion in which no answer is found; null for the same as ``incorrect``.

    Raises:
        ValueError: ``extract`` is no regular expression, or has no group.

    >>> from lgrpo_lightning.testing import toy_group, toy_tree
    >>> group = toy_group(["2 + 2 = 4", "5", "I pass"], columns={"answer": "4.0"})
    >>> ExactMatch().score(group, toy_tree(group)).outcome.tolist()
    [1.0, 0.0, 0.0]
    """

    def __init__(
        self,
        column: str = "answer",
        extract: str = "last_number",
        correct: float = 1.0,
        incorrect: float = 0.0,
        missing: float | None = None,
    ) -> None:
        self.column = column
        self.columns = (column,)  # type: ignore[misc]
        self.correct = correct
        self.incorrect = incorrect
        self.missing = incorrect if missing is None else missing
        self.extract = extract
        self._find = _make_finder(extract)

    def check_row(self, row: Mapping[str, Any]) -> None:
        self._read_targets(row)

    def score(self, group: Group, tree: ProcessTree) -> Rewards:
        """The rewards, and as metrics the shares of completions with a right answer and with none."""
        try:
            targets = self._read_targets(group.prompt.columns)
        except ValueError as error:
            raise RewardError(f"Prompt {group.prompt.uid!r}: {error}") from error
        answers = [self._find(text) for text in complete_tags(group)]
        right = [a is not None and any(is_same_answer(a, target) for target in targets) for a in answers]
        paid = [
            self.missing if answer is None else self.correct if good else self.incorrect
            for answer, good in zip(answers, right, strict=True)
        ]
        outcome = torch.tensor(paid, dtype=torch.float32)
        shares = {"right": sum(right), "no_answer": answers.count(None)}
        metrics = {f"rewards/{self.name}/{name}": n / max(len(answers), 1) for name, n in shares.items()}
        return Rewards(outcome=outcome, parts={self.name: outcome}, metrics=metrics)

    def _read_targets(self, row: Mapping[str, Any]) -> list[Any]:
        try:
            values = read_answers(row.get(self.column))
        except ValueError as error:
            raise UserError(
                f"{self.name}: column {self.column!r} is {error}. An answer is text or a number, or a list of them."
            ) from error
        if not values:
            raise UserError(
                f"{self.name}: there is no answer in column {self.column!r}; the columns are {sorted(row)}. Set "
                "column= to the one with the answer, or fill it in."
            )
        read = [target for value in values if (target := self._read_target(value)) is not None]
        if not read:
            none = all(find_last_number(str(value)) is None for value in values)
            raise UserError(
                f"{self.name}: column {self.column!r} is {row[self.column]!r}, "
                f"{'in which there is no number' if none else 'which is not one number'}. With extract='last_number' "
                "it must be one, after '####' in a worked solution. Use 'boxed' or a regular expression for answers "
                "that are compared as text, and MathAnswer of lgrpo-math for formulas."
            )
        return read

    def _read_target(self, value: Any) -> Any:
        """The answer in a full solution; None if it can never be found."""
        if not isinstance(value, str | bool) or parse_number(value) is not None:
            return value
        text = str(value)
        if self.extract == "last_number":
            return find_one_number(find_boxed(text) or text)
        answer = self._find(text)
        return (text.rpartition("####")[2].strip() or text) if answer is None else answer


def is_same_answer(answer: Any, target: Any) -> bool:
    """Equal as numbers where both are numbers, else as text with its white space collapsed.

    A float is a number to 12 significant digits: files and sums keep no more. An answer may have words around a number.

    >>> [is_same_answer(*p) for p in (("1,000", 1000), ("x  + 1", "x + 1"), ("2", "two"), ("2 cm", 2))]
    [True, True, False, True]
    >>> is_same_answer("0.3", 0.1 + 0.2), is_same_answer("true", "True"), is_same_answer("Paris", "paris")
    (True, True, False)
    """
    number, right = parse_number(answer), parse_number(target)
    if number is None and right is not None and len(str(answer)) <= LONGEST:
        number = parse_number(find_one_number(str(answer)))
    if number is not None and right is not None:
        rounded = float in (type(answer), type(target))
        return abs(number - right) <= abs(right) * Fraction(rounded, 10**12)
    texts = [" ".join(str(value).split()) for value in (answer, target)]
    if texts[1].lower() in ("true", "false"):  # true and false are written in many ways
        texts = [text.lower() for text in texts]
    return texts[0] == texts[1]


def find_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}`` of ``text``, or None.

    >>> find_boxed(r"\boxed{1}, no: \boxed{\frac{1}{2}}"), find_boxed(r"\boxed{1")
    ('\\frac{1}{2}', None)
    """
    opened: list[int] = []  # where the content of each open brace starts; -1 for one that is not of a box
    best: tuple[int, int] | None = None
    for token in re.finditer(r"\\f?boxed\s*\{|\\.|[{}]", text, re.DOTALL):
        if token.group().endswith("{") and token.group() != r"\{":
            opened.append(token.end() if len(token.group()) > 1 else -1)
        elif token.group() == "}" and opened and (start := opened.pop()) > (best[0] if best else -1):
            best = start, token.start()
    return text[slice(*best)] if best else None


def _make_finder(extract: str) -> Callable[[str], str | None]:
    if extract in ("last_number", "boxed"):
        return find_last_number if extract == "last_number" else find_boxed
    possible = (
        "are 'last_number', 'boxed' and a regular expression with a group around the answer, such as '#### (\\S+)'"
    )
    return partial(find_last, compile_extract("ExactMatch", extract, possible))
