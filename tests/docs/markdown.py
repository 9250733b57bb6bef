"""What the tests read from README and docs: code blocks, headings, tables, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
]
FENCE = re.compile(r'^```(?P<language>[\w-]*)(?: title="(?P<title>[^"]+)")?(?P<flags>[^"\n]*)$')


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced code block: where it is, its language, the file that it is (``title=``), and its text."""

    page: Path
    line: int
    language: str
    title: str | None
    flags: str
    text: str

    @property
    def id(self) -> str:
        """Name of its test."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page (of one language), those marked ``no-run`` left out."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    start: tuple[int, re.Match[str]] | None = None
    for number, line in enumerate(lines):
        if start is None:
            if fence := FENCE.match(line):
                start = number, fence
        elif line == "```":
            at, fence = start
            text = "\n".join(lines[at + 1 : number]) + "\n"
            about = {name: value or "" for name, value in fence.groupdict().items()}
            found.append(Block(page=page, line=at + 1, text=text, **about))
            start = None
    assert start is None, f"{page}: a code block is not closed"
    return [b for b in found if language in (None, b.language) and "no-run" not in b.flags]


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def headings(page: Path) -> list[str]:
    """The text of every heading."""
    return re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)


def section(page: Path, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    parts = re.split(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[heading]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row below a header, without their outer white space."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
    rule = {i for i, row in enumerate(cells) if all(re.fullmatch(r":?-+:?", c) for c in row)}
    return [row for i, row in enumerate(cells) if i not in rule and i + 1 not in rule]


def code(cell: str) -> list[str]:
    """What stands in back ticks."""
    return re.findall(r"`([^`]+)`", cell)


def anchor(heading: str) -> str:
    """The anchor that GitHub and the site make of a heading."""
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
