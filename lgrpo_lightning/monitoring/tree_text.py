"""The process tree of a group on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from lgrpo_lightning.monitoring.recorded_group import Ending, RecordedGroup, StepNode
from lgrpo_lightning.monitoring.visible import make_visible, shorten

GOOD, BAD, PALE = "green", "red", "dim"
LEGEND = (
    "n completions share a step; r is its reward, their mean; then what is added up for each of its tokens, advantage "
    "times weight: in this run{}, by GRPO, by λ-GRPO."
)


def write_header(group: RecordedGroup) -> Iterator[Text]:
    """Which group it is, and what the numbers of its steps are."""
    name = make_visible(group.uid, one_line=True)
    yield Text(f"Rollout {group.rollout}, group {group.place + 1} of {group.of} ({name})", "bold")
    yield Text(f"prompt  {make_visible(group.prompt, one_line=True)}")
    flat = "; all rewards are equal: nothing is learnt from it" if group.flat else ""
    yield Text(
        f"{len(group.rewards)} completions, path depth {group.path_depth:.2f}, {group.shared:.0%} of the tokens "
        f"shared{f' ({group.segmenter})' if group.segmenter else ''}{flat}"
    )
    yield Text(LEGEND.format(f" ({group.estimator})" if group.estimator else ""), PALE)


def write_steps(group: RecordedGroup, *, most: int | None = None) -> Iterator[Text]:
    """The steps of a group's tree: shared text once, its numbers behind it."""
    for i, root in enumerate(group.roots):
        yield from _write_step(root, "", i == len(group.roots) - 1, most)


def _write_step(step: StepNode, before: str, last: bool, most: int | None) -> Iterator[Text]:
    colour = GOOD if step.own > 0 else BAD if step.own < 0 else ""
    numbers = (
        f"  n={step.set_size}  r={step.reward:.3g}  run {step.own:+.2f}  GRPO {step.grpo:+.2f}  "
        f"λ-GRPO {step.lambda_grpo:+.2f}"
    )
    yield Text.assemble(
        (before + ("└─ " if last else "├─ "), PALE), (_fit_text(step.text, most) or "(end)", colour), (numbers, PALE)
    )
    inner = before + ("   " if last else "│  ")
    for ending in step.endings:
        yield Text.assemble((inner + ("│  " if step.children else "   "), PALE), *_describe_ending(ending))
    for i, child in enumerate(step.children):
        yield from _write_step(child, inner, i == len(step.children) - 1, most)


def _describe_ending(ending: Ending) -> list[tuple[str, str]]:
    cut = " (cut off)" if ending.finish_reason == "length" else ""
    colour = GOOD if ending.advantage > 0 else BAD if ending.advantage < 0 else ""
    return [(f"■ y{ending.member}{cut}  reward {ending.reward:.3g}  advantage {ending.advantage:+.2f}", colour)]


def _fit_text(text: str, most: int | None) -> str:
    shown = make_visible(text, one_line=True)
    return shown if most is None else shorten(shown, most)
