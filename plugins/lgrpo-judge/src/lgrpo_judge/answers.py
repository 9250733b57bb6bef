"""What a judge answered, read strictly, and kept on disk."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What was said of one completion."""

    score: float | None  # in the judge's range; None: it failed
    reason: str  # the judge's own, or why it failed
    status: int = 0  # HTTP status that it failed with; 0: another failure, or none


def read_judgement(text: str, low: float, high: float) -> Judgement:
    """The judgement that ``text`` ends with, a JSON object, in a code fence or not.

    >>> read_judgement('<think>{</think> {"reason": "Says {}.", "score": 7}', 0, 10)
    Judgement(score=7.0, reason='Says {}.', status=0)
    """
    text = text.strip().removesuffix("```").rstrip()
    for match in re.finditer(r"\{", text):
        with contextlib.suppress(ValueError):
            value, end = json.JSONDecoder().raw_decode(text, match.start())
            if end == len(text):
                break
    else:
        raise ValueError(f"the answer ends with no JSON object: {text[-200:]!r}")
    score = value.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not low <= score <= high:
        raise ValueError(f"its score is {score!r}, no number from {low:g} to {high:g}")
    return Judgement(score=float(score), reason=str(value.get("reason", "")))


class Cache:
    """Judgements by content. Each process appends to a file of its own, and reads those of all at its start.

    Args:
        folder: Where the files are; None: judgements are kept in memory alone.
    """

    def __init__(self, folder: str | None) -> None:
        self.known: dict[str, Judgement] = {}
        self._file: Path | None = None
        if folder is None:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._file = Path(folder) / f"{uuid.uuid4().hex}.jsonl"
        for path in sorted(Path(folder).glob("*.jsonl")):
            for line in path.read_text(errors="replace").split("\n"):
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a killed process may leave half a line
                    row = json.loads(line)
                    key = row.pop("key")
                    self.known[key] = Judgement(**row)

    def add(self, key: str, judgement: Judgement) -> None:
        """Keep a judgement."""
        self.known[key] = judgement
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(json.dumps({"key": key, **asdict(judgement)}) + "\n")
