"""HTML pages that need nothing but themselves: no network, no scripts of others; all text is escaped."""

from __future__ import annotations

import math
from functools import partial
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
    environment.filters |= {
        "visible": make_visible,
        "number": format_number,
        "signed": partial(format_number, form="+.2f"),
        "bar": size_bar,
    }
    return environment.get_template(template).render(**values)


def format_number(value: float, form: str = ".3g") -> str:
    """A number a person reads; – for NaN."""
    return "–" if math.isnan(value) else format(value, form)


def size_bar(value: float, largest: float) -> str:
    """The width of a bar, as a share of half its box."""
    if math.isnan(value) or not largest:
        return "0%"
    return f"{min(1.0, abs(value) / largest) * 50:.1f}%"
