"""YAML as a configuration has it: what is plainly a number, true, false or null is one, all else is text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_dumper, set_loader
from jsonargparse.typing import register_type

from lgrpo_lightning.errors import UserError

INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)$|0x[0-9a-fA-F]+$")
FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$"
    r"|\.(?:nan|NaN|NAN)$"
)
PLAIN = (
    ("merge", re.compile(r"<<$"), "<"),
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", INT, "-+0123456789"),
    ("float", FLOAT, "-+0123456789."),
)
"""What YAML 1.2 takes for no text, and the characters that it begins with."""


class Text(str):
    """Text such as ``"7"`` or ``"[1, 2]"``: where any value may stand, jsonargparse would read a ``str`` once more."""


register_type(Text, serializer=Text, deserializer=Text)


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Takes ``12:30``, ``on``, ``no``, ``1_000``, ``007`` and dates for text, unlike YAML 1.1."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """A text, which stays one."""
        text = str(self.construct_scalar(node))
        try:
            again = yaml.compose(text, Loader=type(self))
        except yaml.YAMLError:
            return text
        plain = isinstance(again, yaml.ScalarNode) and again.tag.endswith(":str") and not text.isdigit()
        return text if plain or not text.strip() else Text(text)


class Dumper(yaml.SafeDumper):
    """Puts text in quotes wherever ``Loader`` or YAML 1.1 would take it for something else."""


Loader.add_constructor("tag:yaml.org,2002:str", Loader.construct_text)
Dumper.add_representer(Text, yaml.SafeDumper.represent_str)
for _tag, _pattern, _begins in PLAIN:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_begins))
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_begins))


def load(text: str) -> Any:
    """What the YAML stands for; ``Answer:`` and ``{a, b}``, which name keys without values, are text.

    >>> load("{time: 12:30, when: on, rate: 1e-6, on: true}")
    {'time': '12:30', 'when': 'on', 'rate': 1e-06, 'on': True}
    """
    value = yaml.load(text, Loader=Loader)
    if isinstance(value, dict) and value and all(v is None for v in value.values()):
        if text.strip() == f"{next(iter(value))}:":
            return text
        if set(text.strip(" {}").replace(" ", "").split(",")) == set(value):
            return text
    return value


def dump(value: Any) -> str:
    """``value`` in YAML, which ``load`` reads as it was."""
    return str(yaml.dump(value, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False))


def use_yaml_text() -> None:
    """Have jsonargparse read and write YAML so."""
    set_loader("yaml", load, (yaml.YAMLError,))
    set_dumper("yaml", dump)


def compose_mapping(path: Path, example: str) -> yaml.MappingNode:
    """The nodes of a file of keys, which know their lines.

    Args:
        example: What such a file looks like.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(
            f"{path}{line}: not valid YAML: {error.problem}. Check the indentation there and one line above."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path} {'is empty' if node is None else 'holds no keys'}. {example}")
    return node
