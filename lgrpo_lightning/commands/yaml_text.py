"""YAML as a configuration has it: what is plainly a number, true, false or null is one, all else is text."""

from __future__ import annotations

import re
from typing import Any

import yaml
from jsonargparse import set_dumper, set_loader
from jsonargparse.typing import register_type

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
    """Takes ``12:30``, ``on``, ``no``, ``1_000``, ``007`` and dates for text, unlike YAML 1.1; no key stands twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, whose keys differ.

        Raises:
            yaml.MarkedYAMLError: They do not.
        """
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (before := first.setdefault(key.value, key)) is not key:
                lines = f"line {before.start_mark.line + 1} and line {key.start_mark.line + 1}"
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice, in {lines}")
        return dict(super().construct_mapping(node, deep=deep))

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


def loaded(text: str) -> Any:
    """What the YAML stands for; ``Answer:`` and ``{a, b}``, which name keys without values, are text.

    >>> loaded("{time: 12:30, when: on, rate: 1e-6, on: true}")
    {'time': '12:30', 'when': 'on', 'rate': 1e-06, 'on': True}
    """
    value = yaml.load(text, Loader=Loader)
    if isinstance(value, dict) and value and all(v is None for v in value.values()):
        if text.strip() == f"{next(iter(value))}:":
            return text
        if set(text.strip(" {}").replace(" ", "").split(",")) == set(value):
            return text
    return value


def dumped(value: Any) -> str:
    """``value`` in YAML, which ``loaded`` reads as it was."""
    return str(yaml.dump(value, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False))


def use_yaml_text() -> None:
    """Have jsonargparse read and write YAML so."""
    set_loader("yaml", loaded, (yaml.YAMLError,))
    set_dumper("yaml", dumped)
