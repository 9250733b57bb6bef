"""``lgrpo new-plugin KIND NAME``: a package with a component, its tests and an example that runs."""

from __future__ import annotations

import argparse
import keyword
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lgrpo_lightning.errors import UserError
from lgrpo_lightning.registry.hookspecs import CONTRACT
from lgrpo_lightning.rollouts.names import show_path

KINDS = {
    "reward": "A reward",
    "segmenter": "A step segmenter",
    "estimator": "An advantage estimator",
    "loss": "A policy loss",
    "sampler": "A sampler",
    "prompt-source": "A prompt source",
}
"""What may be asked for → the beginning of its description."""


def main(argv: Sequence[str]) -> int:
    """Write the package that ``argv`` asks for."""
    options = build_parser().parse_args(list(argv)[1:])
    where = show_path(write(options.kind, options.name, options.out))
    print(f"Wrote {where}. Install it, test it, run it:")
    print(f'  pip install -e "{where}[test]"\n  pytest {where}\n  lgrpo fit --config {where}/example.yaml')
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="lgrpo new-plugin", description=__doc__)
    add = parser.add_argument
    add("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    add("name", metavar="NAME", help="such as brevity: the package lgrpo-brevity, the class Brevity")
    add("--out", type=Path, default=Path(), help="folder to put the package's folder in; default here")
    return parser


def write(kind: str, name: str, out: Path) -> Path:
    """Write the package; its folder."""
    short = re.sub(r"[-\s]+", "_", name.strip().removeprefix("lgrpo-")).lower()
    cls = "".join(part.capitalize() for part in short.split("_"))
    if not short.isidentifier() or keyword.iskeyword(cls):
        raise UserError(f"NAME is {name!r}; it must be letters, digits and hyphens, such as brevity or step-length.")
    package, module = f"lgrpo-{short.replace('_', '-')}", f"lgrpo_{short}"
    folder = out / package
    if folder.exists():
        raise UserError(
            f"{show_path(folder)} is there already, and nothing is overwritten. Take another NAME or --out."
        )
    values = {"kind": kind, "what": KINDS[kind], "package": package, "module": module, "short": short, "cls": cls}
    paths = {name: folder / name for name in ("pyproject.toml", "README.md", "example.yaml")}
    paths |= {"init.py": folder / f"src/{module}/__init__.py", "test.py": folder / f"tests/test_{short}.py"}
    write_templates(paths, contract=CONTRACT, **values)
    return folder


def write_templates(paths: Mapping[str, Path], **values: Any) -> None:
    """Fill in templates of this package, and write each as the file of its path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("lgrpo_lightning.registry", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    for template, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(templates.get_template(f"{template}.jinja").render(**values), encoding="utf-8")
