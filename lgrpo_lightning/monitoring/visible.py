"""Text of completions as something to look at: nothing in it does anything to a terminal."""

from __future__ import annotations

import unicodedata

SHOWN = {"\n": "⏎\n", "\t": "\t"}
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Categories of characters that show nothing or do something: controls, directions, halves of pairs."""


def make_visible(text: str, *, one_line: bool = False) -> str:
    r"""``text`` with control characters written out, so that escapes of a terminal and changes of direction show.

    Args:
        one_line: Line breaks show as ⏎ only; else ⏎ and a break.

    >>> make_visible("a\x1b[31mb", one_line=True), make_visible("1\n2", one_line=True)
    ('a\\x1b[31mb', '1⏎2')
    """
    shown = "".join(
        SHOWN.get(c) or (c.encode("unicode_escape").decode() if unicodedata.category(c) in UNSEEN else c) for c in text
    )
    return shown.replace("\n", "").replace("\t", "\\t") if one_line else shown


def shorten(text: str, most: int) -> str:
    """``text`` without its middle where it is longer than ``most``.

    >>> shorten("abcdefgh", 5)
    'ab…gh'
    """
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[: most - 1 - half]}…{text[len(text) - half :]}"
