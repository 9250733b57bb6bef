"""Numbers in text, exactly: no floats, so that 0.1 + 0.2 is 0.3 and long integers stay what they are."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Any

LONGEST = 200
"""Longer runs of digits are no answer but a loop, and slow to compute with."""

DASH = "-−–‑"
SUPER = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
VULGAR = "¼½¾⅐-⅞"
SEPARATOR = r"(?:,(?:\\!)?|\{,\}|\\[,!]|[\u00a0\u2009\u202f])"
WHOLE = rf"(?:\d{{1,3}}(?:{SEPARATOR}\d{{3}})+(?!\d)|\d+)"
DECIMAL = rf"(?:{WHOLE}(?:\.\d+)?|\.\d+)"
FRACTION = r"\\[cdt]?frac\s*(?:\{\s*[-−]?\d+\s*\}|\d)\s*(?:\{\s*\d+\s*\}|\d)"
POWER = rf"(?:\s*(?:\^|\*\*)\s*(?:\{{\s*[{DASH}]?\d{{1,3}}\s*\}}|[{DASH}]?\d{{1,3}}(?!\d))|[{SUPER}]{{1,4}})"
TIMES = r"\s*(?:×|x|\*|·|⋅|\\times|\\cdot)\s*"

# The minus sign counts unless it follows a word or a closing bracket: "7-5" holds 7 and 5, "= -5" holds -5. Before a
# space it counts at the beginning and after "=" and the like: elsewhere it is a hyphen or a list's bullet.
SIGN = rf"(?:(?<![\w)\]}}%])[{DASH}](?:\\?\$)?|(?:\A\s*|(?<=[=:({{$])|(?<=[=:({{$]\x20))[{DASH}]\x20)?"
DATE_OR_RATIO = re.compile(
    r"\d{4}-\d\d?-\d\d?(?!\d)|\d{1,2}/\d{1,2}/\d{2,4}(?!\d)|\d+(?:\.\d+)?(?:(?::|[ ]:[ ])\d+(?:\.\d+)?)+"
)
NUMBER = re.compile(
    rf"""{DATE_OR_RATIO.pattern}
    | {SIGN}(?:
        (?:{WHOLE}(?:[ ~]|\\[ ,])?)?(?:{FRACTION}|[{VULGAR}])                   # 2\frac{{1}}{{2}}, ½
      | {WHOLE}[ ]\d+/\d+(?![\d/])                                              # 2 1/2
      | {DECIMAL}{TIMES}10{POWER}                                               # 1.5 × 10^6
      | \d+{POWER}                                                              # 10^6
      | {DECIMAL}[ ]?/[ ]?{DECIMAL}                                             # 3/4
      | {DECIMAL}(?:[eE][-+]?\d{{1,3}}(?!\d))?
    )""",
    re.VERBOSE,
)
"""A number as it is written, or a date, a time or a ratio, which are compared as text."""

MARK = r"(?:\\[({)}$%;:,!]|\\\[|\\\]|\\ |\*\*|[$€£¥%°~]|\^\{?\\circ\}?|\\(?:degree|circ|left|right)\b)"
"""What may stand beside a number and says nothing of it: of LaTeX and Markdown, currencies, degrees, percent."""
SCALES = r"hundred|thousand|million|billion|trillion|dozen|pi|sqrt|ln|log|exp|sin|cos|tan|half|minus|negative|or"
UNIT = rf"\\(?:text|mathrm|mbox|textbf)\s*\{{(?![^{{}}]*\b(?:{SCALES})\b)[^{{}}\d]*\}}(?:\^\{{?[23]\}}?)?"
BEFORE, AFTER = re.compile(rf"\A(?:{MARK}|\s)+"), re.compile(rf"(?:{MARK}|{UNIT}|\s)+\.?\Z")
WRAPPED = re.compile(r"\\(?:text|textbf|mathbf|mathrm|mbox)\s*\{([^{}]*)\}")
VARIABLE = re.compile(r"[A-Za-z]\s*=")


def find_last_number(text: str) -> str | None:
    r"""The last number in ``text`` as it is written, or None.

    >>> [find_last_number(text) for text in ("7 + 5 = 12.", "It costs $1,000.50!", "-3/4", "no")]
    ['12', '1,000.50', '-3/4', None]
    >>> [find_last_number(text) for text in (r"so \frac{1}{2}", "2 1/2 hours", "at 12:30", "10^6 grains")]
    ['\\frac{1}{2}', '2 1/2', '12:30', '10^6']
    """
    for part in (text[-5 * LONGEST :], text):  # the end is enough where no number is cut by it
        matches = list(NUMBER.finditer(part))
        if matches and (part == text or matches[-1].start() > LONGEST):
            return matches[-1][0].strip()
    return None


def parse_number(value: Any) -> Fraction | None:
    r"""``value`` as an exact number, or None where it is none.

    >>> {parse_number(value) for value in ("1,000", 1000, "1000.0", 1000.0, "$1e3")}
    {Fraction(1000, 1)}
    >>> parse_number("0.1") == parse_number(0.1), parse_number("one") is None, parse_number("3:1") is None
    (True, True, True)
    >>> {parse_number(text) for text in (r"\frac{5}{2}", "2 1/2", r"\$2.50", r"2.5\text{ dollars}")}
    {Fraction(5, 2)}
    """
    text = str(value).strip()
    if len(text) > LONGEST:
        return None
    if whole := WRAPPED.fullmatch(text):
        text = whole[1]
    if start := VARIABLE.match(text):  # x = 3
        text = text[start.end() :]
    text = AFTER.sub("", BEFORE.sub("", text.strip())).removeprefix("+").removesuffix(".")
    return _parse(text) if NUMBER.fullmatch(text) else None


def find_one_number(text: str) -> str | None:
    r"""The number that a text states, as it is written: alone, beside words, or as a solution's marked answer.

    What follows the last ``####``, "answer is" or ``=`` is the answer of a solution. None where there is none, or
    more than one, or where it is a part of a formula.

    >>> find_one_number("48 / 2 = 24 clips.\n#### **24**"), find_one_number("2 + 2 = 4"), find_one_number("12 apples")
    ('**24**', '4', '12')
    >>> {find_one_number(text) for text in ("(3, 4)", "x = 3 or x = 5", r"2\pi", "2 million")}
    {None}
    """
    marked = text.rpartition("####")[2] if "####" in text else re.split(r"(?i)answer(?: is\b|:)", text)[-1]
    marked = marked.strip()
    if len(VARIABLE.findall(marked)) > 1:
        return None
    marked = marked.rpartition("=")[2].strip()
    if parse_number(marked) is not None:
        return marked.removesuffix(".")
    matches = list(NUMBER.finditer(marked))
    if len(matches) != 1:
        return None
    (number,) = matches
    return number[0].strip() if _is_words(marked[: number.start()], marked[number.end() :]) else None


SYMBOL = r"\s[gshLlJNWVKFC]\b|(?:cm|mm|km|kg|mg|ml|st|nd|rd|th)\b|\s*(?:cm|mm|km|m|ft|in)[23²³]"
WORDS = re.compile(r"(?i)[^\W\d_]{2,}(?:/[a-z]+)?|/[a-z]+|\b[am]\b|[\s.,;:!?'\"’–-]")
SCALE = re.compile(rf"(?i)\b(?:{SCALES})\b")


def _is_words(before: str, after: str) -> bool:
    """Whether what stands before and after a number is words, and leaves it what it is."""
    before, after = (re.sub(f"{MARK}|{UNIT}", "", part) for part in (before, after))
    if before[-1:].isalpha() or before[-1:] in tuple(DASH):
        return False
    after = after[unit.end() :] if (unit := re.match(SYMBOL, after)) else after
    rest = f"{before} {after}"
    return not (after[:1].isalpha() or after[:1] == "!" or SCALE.search(rest) or WORDS.sub("", rest))


def _parse(written: str) -> Fraction | None:
    text = re.sub(rf"(?<=\d){SEPARATOR}(?=\d{{3}})", "", written)
    text = re.sub(rf"[{VULGAR}]", lambda m: " " + unicodedata.normalize("NFKC", m[0]).replace("⁄", "/"), text)
    text = re.sub(r"\\[cdt]?frac\s*(?:\{\s*([^}\s]+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))", r" \1\2/\3\4", text)
    text = re.sub(rf"[{SUPER}]+", lambda m: "^" + unicodedata.normalize("NFKC", m[0]), text)
    text = re.sub(TIMES + r"(?=10\s*\^|10\s*\*\*)", "*", text).replace("**", "^")
    text = re.sub(rf"[{DASH}]", "-", re.sub(r"[{}~\\$]", "", text)).strip()
    sign = -1 if text.startswith("-") else 1
    text = re.sub(r"\s*([/^*])\s*", r"\1", text.removeprefix("-").strip())
    whole, _, text = text.rpartition(" ")
    factor, _, power = text.rpartition("*")
    try:
        if "^" in power:
            base, _, exponent = power.partition("^")
            if abs(int(exponent)) * len(base) > LONGEST:
                return None
            return sign * Fraction(factor or 1) * Fraction(base) ** int(exponent)
        above, _, below = text.partition("/")
        if "/" in below:
            return None
        return sign * (Fraction(whole or 0) + Fraction(above) / Fraction(below or 1))
    except (ValueError, ZeroDivisionError):  # a date, a time, a ratio; divided by zero
        return None
