"""Prompts that the data has more than once."""

from __future__ import annotations


class Repetition:
    """Counts the prompts of a run by their text.

    >>> seen = Repetition()
    >>> for uid, text in (("1", "a"), ("2", "b"), ("3", "a"), ("1", "a")):
    ...     seen.add(uid, text)
    >>> round(seen.share, 2)
    0.67
    """

    def __init__(self) -> None:
        self._rows: dict[int, set[str]] = {}  # hash of a text: the rows that have it
        self._count = self._repeated = 0

    def add(self, uid: str, text: str) -> None:
        """A row was seen."""
        rows = self._rows.setdefault(hash(text), set())
        if uid in rows:
            return
        rows.add(uid)
        self._count += 1
        self._repeated += {1: 0, 2: 2}.get(len(rows), 1)

    @property
    def share(self) -> float:
        """Of the rows seen, those whose text another one has."""
        return self._repeated / max(self._count, 1)
