"""docs/fields.md and docs/api.md, made from signatures and docstrings: python -m tools.reference_pages docs"""

from __future__ import annotations

import doctest
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from docstring_parser import parse

import lgrpo_lightning
from lgrpo_lightning.contracts import Adapter, RandomKey, Scorer, WeightSource
from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.errors import MissingPackageError, NotFoundError, listed, mapped, require
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.functional.vocabulary import Vocabulary
from lgrpo_lightning.images import ImageFile
from lgrpo_lightning.process_tree import ProcessTree, Step
from lgrpo_lightning.types import (
    Completion,
    Credit,
    Fork,
    Group,
    LossInput,
    Progress,
    Prompt,
    Rewards,
    Rollout,
    Turn,
)
from tools.migration_pages import rendered

VALUES = {
    "What samplers get": (Prompt, ImageFile, Sampling, RandomKey, WeightSource, Vocabulary, Adapter),
    "What samplers return": (Group, Completion, Fork),
    "Episodes": (Turn, Environment),
    "What segmenters return": (ProcessTree, Step),
    "What rewards get and return": (Progress, Scorer, Rewards),
    "What estimators return": (Credit,),
    "What losses get": (LossInput,),
    "What callbacks get": (Rollout,),
}
"""Part of docs/fields.md → the classes in it."""

PACKAGES = (
    "callbacks",
    "data",
    "environments",
    "estimators",
    "functional",
    "losses",
    "policy",
    "rewards",
    "samplers",
    "segmenters",
    "testing",
    "training",
)
"""The folders whose ``__all__`` is public."""
MODULES = {
    "contracts": (Adapter, RandomKey, Scorer, WeightSource),
    "types": (Fork, LossInput, Progress, Rollout, Turn),
    "process_tree": (Step,),
    "functional.vocabulary": (Vocabulary,),
    "images": (ImageFile,),
    "errors": (MissingPackageError, NotFoundError, listed, mapped, require),
}
"""What is public in other modules, beside the names of the package itself."""

FIELDS_PAGE = """# Fields

Plug-ins exchange the values on this page with a run. [Components](components.md) has the methods of each kind of
component, and [Writing a plug-in](plugins.md) has complete examples.

- All dataclasses here are frozen and take keyword arguments only. `dataclasses.replace(value, field=...)` makes a
  changed copy.
- In shapes, G is the number of completions of a group, T the number of tokens of the longest one, S the number of
  steps of the group's process tree, and N the number of completions of a batch. In a `Completion` T is its own number
  of tokens.
- Tensors are on the CPU, except those of `LossInput`, which are on the device of the model.
- A field without a default is required. NaN in rewards means that the reward [does not
  apply](components.md#words-on-this-page).
- Arguments of reward functions are listed in [Data](data.md#reward-functions), and data rows in [Data](data.md).
- A *message* is a mapping with the keys `role` ("system", "user", "assistant" or "tool") and `content` (text). A
  message of the policy that calls tools also has `tool_calls`, a list of
  `{{"type": "function", "function": {{"name": ..., "arguments": ...}}}}`.

{parts}
"""

API_PAGE = """# Public names

These names stay: a release that removes or renames one says so in the changelog. Everything else in the package may
change without notice. [Configuration](configuration.md) lists the keys of the YAML file, which stay as well.

{parts}
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A field, property or method of a value: its type with the shape, its default, and what it is."""

    name: str
    type: str
    default: str
    text: str


def pages() -> dict[str, str]:
    """The text of each page, by its name."""
    values = [f"## {part}\n\n" + "\n\n".join(map(describe_value, classes)) for part, classes in VALUES.items()]
    modules = "\n\n".join(describe_module(*module) for module in list_public())
    return {"fields.md": FIELDS_PAGE.format(parts="\n\n".join(values)), "api.md": API_PAGE.format(parts=modules)}


def describe_value(cls: type) -> str:
    """The section of a class: what it is, an example, its fields, and what it computes from them."""
    parts = [f"### {cls.__name__}", read_summary(cls)]
    parts.append("```pycon\n" + "\n".join([*list_imports(cls, example := read_example(cls)), example]) + "\n```")
    if own := list(list_fields(cls)):
        rows = ([f"`{e.name}`", e.type, e.default, e.text] for e in own)
        parts.append(rendered(["field", "type", "default", "meaning"], rows))
    if computed := list(list_computed(cls)):
        rows = ([f"`{e.name}`", e.type, e.text] for e in computed)
        parts.append(rendered(["property or method", "type", "meaning"], rows))
    return "\n\n".join(parts)


def read_summary(cls: type) -> str:
    """The docstring without its sections and examples, as Markdown."""
    text = inspect.cleandoc(cls.__doc__ or "").split("\n>>>")[0]
    return as_markdown(re.split(r"\n(?:Attributes|Args|Raises):\n", text)[0])


def read_example(cls: type) -> str:
    """The examples of the docstring, as a session."""
    examples = doctest.DocTestParser().get_examples(inspect.cleandoc(cls.__doc__ or ""))
    lines = []
    for example in examples:
        first, *more = example.source.rstrip("\n").split("\n")
        lines += [f">>> {first}", *(f"... {line}" for line in more), *example.want.rstrip("\n").split("\n")]
    return "\n".join(line for line in lines if line)


def list_imports(cls: type, example: str) -> list[str]:
    """The lines that import what an example uses of this page, and the class itself."""
    lines = [">>> import torch"] if "torch." in example else []
    for classes in VALUES.values():
        for other in classes:
            if other is cls or re.search(rf"(?<!import )\b{other.__name__}[.(]", example):
                public = other.__name__ in lgrpo_lightning.__all__
                module = "lgrpo_lightning" if public else other.__module__
                lines.append(f">>> from {module} import {other.__name__}")
    return lines


def list_fields(cls: type) -> Iterator[Entry]:
    """The fields of a dataclass or named tuple, or the attributes of a contract, in order."""
    described = {p.arg_name: p.description or "" for p in parse(cls.__doc__ or "").params}
    for name, annotation in inspect.get_annotations(cls).items():
        yield make_entry(name, annotation, described.get(name, read_attribute(cls, name)), find_default(cls, name))


def list_computed(cls: type) -> Iterator[Entry]:
    """The public properties and methods of a class that have a docstring, in order."""
    for name, member in vars(cls).items():
        function: Any = getattr(member, "fget", None) or getattr(member, "func", None) or member
        function = getattr(function, "__func__", function)  # of a classmethod
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        shown = name if isinstance(member, property) or hasattr(member, "func") else f"{name}({list_arguments(member)})"
        text = re.split(r"\n(?:Args|Raises):\n|\n>>>", inspect.cleandoc(function.__doc__))[0]
        text += "".join(f" ``{p.arg_name}``: {p.description}" for p in parse(function.__doc__).params)
        yield make_entry(shown, function.__annotations__.get("return", ""), text, "")


def list_arguments(function: Any) -> str:
    """The arguments of a method, without ``self`` and annotations."""
    signature = inspect.signature(getattr(function, "__func__", function))
    _, *own = (p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values())
    return str(signature.replace(parameters=own, return_annotation=inspect.Signature.empty))[1:-1]


def read_attribute(cls: type, name: str) -> str:
    """The string below an attribute in the source of a class."""
    found = re.search(rf'^    {name}: [^\n]+\n    """(.+?)"""', inspect.getsource(cls), flags=re.MULTILINE | re.DOTALL)
    return inspect.cleandoc(found[1]) if found else ""


def find_default(cls: type, name: str) -> str:
    """The default of a field, as Python writes it; empty if it is required."""
    if is_dataclass(cls):
        field = next(f for f in fields(cls) if f.name == name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        return "" if default is MISSING else f"`{default!r}`"
    default = getattr(cls, "_field_defaults", vars(cls)).get(name, MISSING)
    return "" if default is MISSING else f"`{default!r}`"


def make_entry(name: str, annotation: Any, text: str, default: str) -> Entry:
    """An entry, whose text begins with the shape and type of a tensor: "``[G, T]`` fp32, …"."""
    kind, *others = getattr(annotation, "__forward_arg__", annotation).split(" | ")
    text, shape = " ".join(text.split()), ""
    if found := re.match(r"``(\[[^`]*\])``(?: (fp32|bool|long))?[:,;]? ", text):
        shape, text = f" `{found[1]}`" + (f" {found[2]}" if found[2] else ""), text[found.end() :]
    kind = f"`{kind}`{shape}" + "".join(f" or `{other}`" for other in others)
    return Entry(name=name, type=kind, default=default, text=escape(capitalise(as_markdown(text))))


def as_markdown(text: str) -> str:
    """Text of a docstring with the code marks of Markdown."""
    return text.replace("``", "`").strip()


def escape(text: str) -> str:
    """Text for the cell of a table."""
    return text.replace("\\|", "|").replace("|", "\\|")


def capitalise(text: str) -> str:
    """Text whose first letter is large, unless it begins with code."""
    return text[:1].upper() + text[1:]


def list_public() -> Iterator[tuple[str, list[str]]]:
    """(module, its public names), the package itself first."""
    for name in ("lgrpo_lightning", *(f"lgrpo_lightning.{package}" for package in PACKAGES)):
        yield name, list(import_module(name).__all__)
    for name, values in MODULES.items():
        yield f"lgrpo_lightning.{name}", [value.__name__ for value in values]


def describe_module(name: str, public: list[str]) -> str:
    """The section of a module: its public names, and the first sentence about each."""
    values = [(n, getattr(import_module(name), n)) for n in sorted(public, key=str.lower)]
    rows = ([f"`{n}`", find_kind(value), escape(describe_name(value))] for n, value in values)
    return f"## {name}\n\n" + rendered(["name", "kind", "what it is"], rows)


def find_kind(value: Any) -> str:
    """What kind of thing a name is."""
    return "class" if inspect.isclass(value) else "function" if callable(value) else "constant"


def describe_name(value: Any) -> str:
    """The first paragraph of a docstring in one line."""
    text = inspect.cleandoc(value.__doc__ or "") if callable(value) else f"`{value!r}`"
    return as_markdown(" ".join(text.split("\n\n")[0].split()))


if __name__ == "__main__":
    for name, text in pages().items():
        (Path(sys.argv[1]) / name).write_text(text, encoding="utf-8")
