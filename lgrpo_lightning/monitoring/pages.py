"""HTML pages that need nothing but themselves: no network, no scripts of others; all text is escaped."""

from __future__ import annotations

import math
from typing import Any

from lgrpo_lightning.monitoring.visible import make_visible


def render_page(template: str, **values: Any) -> str:
    """A page of ``monitoring/templates``; whatever is put into it is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("lgrpo_lightning.monitoring", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": make_visible, "number": format_number, "signed": format_signed, "bar": size_bar}
    return environment.get_template(template).render(**values)


def format_number(value: float) -> str:
    """A number a person reads; – for NaN."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def format_signed(value: float) -> str:
    """The same with its sign."""
    return "–" if math.isnan(value) else f"{value:+.2f}"


def size_bar(value: float, largest: float) -> str:
    """The width of a bar, as a share of half its box."""
    if math.isnan(value) or not largest:
        return "0%"
    return f"{min(1.0, abs(value) / largest) * 50:.1f}%"
