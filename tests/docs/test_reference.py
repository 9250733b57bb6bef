"""docs/fields.md has every value that plug-ins exchange with a run, and docs/api.md every public name."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from lgrpo_lightning import contracts, types
from lgrpo_lightning.callbacks import RolloutCallback
from lgrpo_lightning.contracts import CONTRACTS
from tests.docs.markdown import PAGES, ROOT, blocks, code, rows, section
from tools.reference_pages import PACKAGES, VALUES, list_computed, list_fields, list_public, pages

DOCUMENTED = [cls for classes in VALUES.values() for cls in classes]
FIELDS, API = ROOT / "docs" / "fields.md", ROOT / "docs" / "api.md"
TENSOR = re.compile(r"`Tensor` `\[[^`]+\]` (fp32|bool|long)( or `None`)?")
INTERNAL = {"distributed"}
"""Folders with an ``__all__`` that only the package itself reads."""


def mentioned(annotation: Any) -> Iterator[type]:
    """The classes of the package in an annotation."""
    if isinstance(annotation, type) and annotation.__module__.startswith("lgrpo_lightning"):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from mentioned(inner)


def annotations(cls: type) -> Iterator[Any]:
    """The annotations of fields, and of what methods and properties take and return."""
    names = vars(types) | vars(contracts) | vars(import_module(cls.__module__))
    if dataclasses.is_dataclass(cls):
        yield from typing.get_type_hints(cls, names).values()
    for member in vars(cls).values():
        function = getattr(member, "fget", member)
        if inspect.isfunction(function) and not function.__name__.startswith("_"):
            yield from typing.get_type_hints(function, names).values()


def exchanged() -> set[type]:
    """Every class that a method of a contract or of a callback mentions, directly or through another."""
    found: set[type] = set()
    left: list[type] = [*CONTRACTS.values(), RolloutCallback]
    while left:
        new = {cls for a in annotations(left.pop()) for cls in mentioned(a)} - found
        found |= new
        left += new
    return found


@pytest.mark.parametrize("page", ["fields.md", "api.md"])
def test_the_page_is_made_from_the_code(page: str) -> None:
    """``python -m tools.reference_pages docs`` makes it anew."""
    assert pages()[page] == (ROOT / "docs" / page).read_text(encoding="utf-8")


def test_every_value_that_a_plug_in_touches_is_there() -> None:
    lacking = exchanged() - {*DOCUMENTED, *CONTRACTS.values()}
    assert not lacking, f"tools/reference_pages.py lacks {sorted(cls.__name__ for cls in lacking)}"


@pytest.mark.parametrize("cls", DOCUMENTED)
def test_every_field_has_a_meaning_and_every_tensor_a_shape(cls: type) -> None:
    text = section(FIELDS, cls.__name__)
    written = [code(row[0])[0] for row in rows(text)]
    own = [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else inspect.get_annotations(cls)
    assert set(own) <= set(written)
    assert blocks_of(cls), f"the docstring of {cls.__name__} has no example"
    for entry in (*list_fields(cls), *list_computed(cls)):
        assert len(entry.text.split()) > 1, f"the docstring of {cls.__name__} says nothing of {entry.name}"
        if entry.type.startswith("`Tensor") and "(" not in entry.name:
            assert TENSOR.fullmatch(entry.type), f"{cls.__name__}.{entry.name} has no shape and type: {entry.type}"


def blocks_of(cls: type) -> list[str]:
    """The examples of the page that name the class."""
    return [
        b.text for b in blocks(FIELDS, "pycon") if f"import {cls.__name__}\n" in b.text and len(b.text.split("\n")) > 3
    ]


def test_the_sizes_are_those_that_the_page_says() -> None:
    """By the values of a toy group: the shape of each tensor field has as many letters as the tensor has dimensions."""
    from lgrpo_lightning.testing import toy_group, toy_loss_input, toy_tree

    group = toy_group(["ab", "acd"])
    values = (group, group.completions[0], toy_tree(group), toy_loss_input(advantages=[[1.0, 2.0]]))
    sizes = {"G": 2, "T": 3, "N": 1}
    kinds = {torch.float32: "fp32", torch.bool: "bool", torch.long: "long"}
    for value in values:
        own = sizes | ({"T": 2} if value is not values[0] and value is not values[2] else {})
        for entry in (*list_fields(type(value)), *list_computed(type(value))):
            tensor = getattr(value, entry.name, None)
            if isinstance(tensor, torch.Tensor) and TENSOR.fullmatch(entry.type):
                letters = re.search(r"\[(.+?)\]", entry.type)[1].split(", ")  # type: ignore[index]
                assert [own.get(letter, 1) for letter in letters] == list(tensor.shape), entry
                assert kinds[tensor.dtype] in entry.type, entry


def test_every_public_name_is_still_there() -> None:
    """A name that is taken away or renamed breaks other people's code: say so in the changelog, then make the page."""
    for heading in re.findall(r"^## (\S+)$", API.read_text(), flags=re.M):
        names = [code(row[0])[0] for row in rows(section(API, heading))]
        assert names
        assert not [name for name in names if not hasattr(import_module(heading), name)], heading


def test_every_folder_with_a_list_of_names_is_public() -> None:
    folders = {p.parent.name for p in (ROOT / "lgrpo_lightning").glob("*/__init__.py") if "__all__" in p.read_text()}
    assert folders == {*PACKAGES, *INTERNAL}


def test_docs_and_templates_import_public_names() -> None:
    public = {(module, name) for module, names in list_public() for name in names}
    templates = (ROOT / "lgrpo_lightning" / "registry" / "templates").rglob("*.jinja")
    shown = [*PAGES, *templates]
    for path in (p for p in shown if not p.is_relative_to(ROOT / "plugins")):
        for module, names in imports(path):
            assert {(module, name) for name in names} <= public, f"{path.name}: from {module} import {names}"


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(module, names) of each import of the package in a file's Python."""
    for module, bracketed, plain in re.findall(
        r"^(?:>>> )?from (lgrpo_lightning[\w.]*) import (?:\(([^)]+)\)|(.+))$", path.read_text(), flags=re.M
    ):
        yield module, re.findall(r"\w+", bracketed or plain.partition("#")[0])
