"""Numbers in text, exactly: no floats, so that 0.1 + 0.2 is 0.3 and long integers stay what they are."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

# The minus sign counts unless it follows a word or a closing bracket: "7-5" holds 7 and 5, "= -5" holds -5.
NUMBER = re.compile(
    r"(?:(?<![\w)\]])[-−])?"
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:/\d+|(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\d))?)"
    r"|\.\d+(?:[eE][-+]?\d{1,3}(?!\d))?)"
)
LONGEST = 200
"""Longer runs of digits are no answer but a loop, and slow to compute with."""


def last_number(text: str) -> str | None:
    """The last number in ``text`` as it is written, or None.

    >>> last_number("7 + 5 = 12."), last_number("It costs $1,000.50!"), last_number("-3/4"), last_number("no")
    ('12', '1,000.50', '-3/4', None)
    """
    found = NUMBER.findall(text)
    return found[-1] if found else None


def as_number(value: Any) -> Fraction | None:
    """``value`` as an exact number, or None where it is none.

    >>> as_number("1,000") == as_number(1000) == as_number("1000.0") == as_number(1000.0) == as_number("$1e3")
    True
    >>> as_number("0.1") == as_number(0.1), as_number("one") is None
    (True, True)
    """
    text = str(value).strip().strip("$%").strip().replace("−", "-").replace("{,}", ",").replace("\\!", "")
    text = text.removeprefix("+").removesuffix(".")
    if len(text) > LONGEST or not NUMBER.fullmatch(text):
        return None
    try:
        return Fraction(text.replace(",", ""))
    except ZeroDivisionError:
        return None
