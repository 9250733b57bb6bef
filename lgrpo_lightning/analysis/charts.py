"""Curves of runs as SVG, to stand in a page of either brightness."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import StringIO

from markupsafe import Markup

from lgrpo_lightning.run_folder.metric_series import Series, running_mean

GREY = "#8792a0"
COLOURS = ("#3b82c4", "#e0762f", "#2fa36f", "#a36fd0", "#d05a8a", "#9a7b3c", "#5f9ea0", "#c05050")


def chart(lines: Mapping[str, Series], *, xlabel: str = "optimizer step", ylabel: str = "") -> Markup:
    """Curves by name; long ones thin, with their running mean over it."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{ylabel}{list(lines)}", "font.size": 9}):
        figure = Figure(figsize=(4.6, 2.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for (name, (steps, values)), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
            _draw(axes, steps, values, name, colour)
        axes.set_xlabel(xlabel, color=GREY)
        axes.set_ylabel(ylabel, color=GREY)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axes.tick_params(colors=GREY, length=0)
        axes.grid(color=GREY, alpha=0.25, linewidth=0.7)
        if len(lines) > 1:
            axes.legend(frameon=False, labelcolor=GREY, fontsize=8)
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return inline(text.getvalue())


def inline(svg: str) -> Markup:
    """An SVG file as an element of a page. Matplotlib has escaped its text."""
    return Markup(re.sub(r"(?s)<metadata>.*?</metadata>", "", svg[svg.index("<svg") :]))


def _draw(axes: object, steps: Sequence[int], values: Sequence[float], name: str, colour: str) -> None:
    plot = axes.plot  # type: ignore[attr-defined]
    if len(values) < 20:
        plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=name)
        return
    plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
    plot(steps, running_mean(list(values), len(values) // 20), color=colour, linewidth=1.8, label=name)
