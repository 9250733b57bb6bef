"""The right answer in a data column, as text that math-verify reads as it is meant."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.rewards.answers import read_answers
from lgrpo_lightning.rewards.numbers import DATE_OR_RATIO, parse_number

DELIMITED = re.compile(r"(?<!\\)\$|\\\(|\\\[|\\f?boxed")
PROSE = re.compile(r"(?:\d|[A-Za-z]{2,})\s+(?!(?:and|or)\b)[A-Za-z]{3,}")
LABEL = "####"
MIXED = re.compile(r"[-−]?\d+ \d+/\d+")


def gold_texts(value: Any) -> tuple[str, ...]:
    """The texts of a column value, any of which is right; empty where there is no answer.

    A list holds several ways to answer, of which one is enough. Text is read by math-verify as it is where it
    marks its mathematics (``$...$``, ``\\(...\\)``, ``\\boxed{...}``) or is prose. Bare notation is put in
    ``\\boxed{...}``, without which math-verify finds the 2 of ``[1, 2)``, the 4 of ``3 and 4``, and nothing
    in ``x^2+1``. Where there is a ``####`` (GSM8K), the answer is what follows the last one. A mixed number is written
    as a fraction: math-verify reads ``2 1/2`` as 3/2.

    >>> gold_texts("[1, 2)"), gold_texts("so 12 apples"), gold_texts(["$x$", 0.00001]), gold_texts(None)
    (('\\\\boxed{[1, 2)}',), ('so 12 apples',), ('$x$', '\\\\boxed{0.00001}'), ())
    >>> gold_texts("48 / 2 = 24 clips in May.\\n#### 24")
    ('\\\\boxed{24}',)
    """
    return tuple(_as_latex(_written(v)) for v in read_answers(value))


def _written(value: Any) -> str:
    """Numbers without an exponent, which mathematics reads as Euler's e."""
    return format(Decimal(repr(value)), "f") if type(value) is float else str(value)


def _as_latex(text: str) -> str:
    text = text.rpartition(LABEL)[2].strip().removeprefix("**").removesuffix("**").strip()
    if DATE_OR_RATIO.fullmatch(text):
        raise UserError(f"{text!r}, a date, a time or a ratio: ExactMatch compares it as text")
    if MIXED.fullmatch(text) and (number := parse_number(text)) is not None:
        return rf"\boxed{{{number}}}"
    if DELIMITED.search(text) or ("\\" not in text and PROSE.search(text)):
        return text
    return rf"\boxed{{{text}}}"
