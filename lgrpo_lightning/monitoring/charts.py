"""Curves of runs as SVG, to stand in a page of either brightness; what all pictures of curves have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from markupsafe import Markup

from lgrpo_lightning.rollouts.metric_series import Series, compute_running_mean

GREY = "#8792a0"
COLOURS = ("#3b82c4", "#e0762f", "#2fa36f", "#a36fd0", "#d05a8a", "#9a7b3c", "#5f9ea0", "#c05050")


def draw_chart(lines: Mapping[str, Series], *, ylabel: str) -> Markup:
    """Curves by name over optimizer steps; long ones thin, with their running mean over it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # ids by content and no pyplot: the same run gives the same page, and no display is needed
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{ylabel}{list(lines)}", "font.size": 9}):
        figure = Figure(figsize=(4.6, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for (name, (steps, values)), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
            draw_curve(axes, steps, values, label=name, color=colour)
        axes.set_xlabel("optimizer step", color=GREY)
        axes.set_ylabel(ylabel, color=GREY)
        style_axes(axes, GREY)
        axes.grid(color=GREY, alpha=0.25, linewidth=0.7)
        if len(lines) > 1:
            axes.legend(frameon=False, labelcolor=GREY, fontsize=8)
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inline_svg(text.getvalue())


def inline_svg(svg: str) -> Markup:
    """An SVG file as an element of a page. Matplotlib has escaped its text."""
    return Markup(re.sub(r"(?s)<metadata>.*?</metadata>", "", svg[svg.index("<svg") :]))


def draw_curve(axes: Any, steps: Sequence[int], values: Sequence[float], **style: Any) -> None:
    """A short curve with its points, a long one thin with its running mean over it."""
    if len(values) < 20:
        axes.plot(steps, values, linewidth=1.7, marker="o", markersize=3.5, **style)
        return
    axes.plot(steps, values, color=style["color"], linewidth=0.8, alpha=0.3)
    axes.plot(steps, compute_running_mean(list(values), len(values) // 18), linewidth=2.0, **style)


def style_axes(axes: Any, colour: str, **ticks: Any) -> None:
    """No frame and no tick marks, a light grid behind the curves."""
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(colors=colour, length=0, **ticks)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
