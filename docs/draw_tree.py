"""Draws docs/images/process_tree.svg: a group of four completions and its process tree.

The sets, their sizes and the advantages come from the library; only the layout is decided here.

    python docs/draw_tree.py
"""

from html import escape
from pathlib import Path

import torch

from lgrpo_lightning.functional import group_advantages
from lgrpo_lightning.testing import toy_group, toy_tree

PROMPT = "2+3+4="
COMPLETIONS = ["2+3=5\n5+4=9\n", "2+3=5\n5+4=8\n", "2+3=5\n5+4=9\n", "2+3=6\n6+4=10\n"]
REWARDS = [1.0, 0.0, 1.0, 0.0]
FILE = Path(__file__).parent / "images" / "process_tree.svg"

WIDTH, HEIGHT, LEFT, TOP = 224, 78, 14, 52
"""Size of a step's box, and where the first one stands."""
COLUMN, ROW = 272, 104
COLOURS = {4: "#c6dbef", 3: "#deebf7", 2: "#eff5fb", 1: "#ffffff"}


def svg() -> str:
    """The picture: one box a process step, from the shared beginning on the left to the leaves."""
    group = toy_group(COMPLETIONS, prompt=PROMPT)
    tree = toy_tree(group)
    rewards = torch.tensor(REWARDS)
    advantages = group_advantages(rewards[None])[0].tolist()
    places = _places(tree.steps)
    width, height = LEFT + 3 * COLUMN + 110, TOP + 3 * ROW - 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="14" '
        'font-family="system-ui, sans-serif" fill="#1a202c">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(14, 30, f"Four completions of the prompt {PROMPT} and their process sets λ", weight="600"),
    ]
    for number, step in enumerate(tree.steps):
        x, y = places[number]
        if step.parent >= 0:
            px, py = places[step.parent]
            parts.append(_line(px + WIDTH, py + HEIGHT / 2, x, y + HEIGHT / 2))
        member, (start, end) = step.members[0], step.spans[0]
        text = group.completions[member].text[start:end].replace("\n", "⏎ ").strip()
        size = int(tree.set_sizes()[member, start])
        mean = rewards[list(step.members)].mean().item()
        parts += _box(x, y, text, step.members, size, mean)
        if not any(other.parent == number for other in tree.steps):
            parts.append(_text(x + WIDTH + 12, y + 34, f"reward {REWARDS[member]:.0f}"))
            parts.append(_text(x + WIDTH + 12, y + 54, f"advantage {advantages[member]:+.2f}"))
    return "\n".join([*parts, "</svg>", ""])


def _places(steps) -> list[tuple[float, float]]:
    """Upper left corner of every step: its depth to the right, its first leaf's row downwards."""
    depths: list[int] = []
    rows: list[int] = []
    row = -1
    for number, step in enumerate(steps):
        depths.append(depths[step.parent] + 1 if step.parent >= 0 else 0)
        first_child = number > 0 and step.parent == number - 1
        row = row if first_child else row + 1
        rows.append(row)
    return [(LEFT + d * COLUMN, TOP + r * ROW) for d, r in zip(depths, rows, strict=True)]


def _box(x: float, y: float, text: str, members, size: int, mean: float) -> list[str]:
    names = ", ".join(f"y{m + 1}" for m in members)
    return [
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{COLOURS[size]}" stroke="#2b6cb0"/>',
        _text(x + 12, y + 24, text, family="ui-monospace, monospace", weight="600"),
        _text(x + 12, y + 46, f"λ = {{{names}}}"),
        _text(x + 12, y + 66, f"|λ| = {size}   mean reward {mean:.2f}", colour="#4a5568"),
    ]


def _text(x: float, y: float, text: str, *, weight="400", colour="#1a202c", family="") -> str:
    font = f' font-family="{family}"' if family else ""
    return (
        f'<text x="{x}" y="{y}" font-weight="{weight}" fill="{colour}"{font} xml:space="preserve">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    middle = (x1 + x2) / 2
    return (
        f'<path d="M {x1} {y1} C {middle} {y1}, {middle} {y2}, {x2} {y2}" fill="none" '
        'stroke="#2b6cb0" stroke-width="1.5"/>'
    )


if __name__ == "__main__":
    FILE.write_text(svg(), encoding="utf-8")
    print(FILE)
