"""What a person wrote in configuration files and flags, and where: so that an error can name the line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from lgrpo_lightning.commands.migration.whose import advise, find_library
from lgrpo_lightning.commands.yaml_text import compose_mapping
from lgrpo_lightning.data.readers import READERS, find_suffix
from lgrpo_lightning.errors import NotFoundError, UserError
from lgrpo_lightning.rollouts.names import CONFIG

CONFIG_FLAGS = ("--config", "-c")
FLAG = "command line"
EXAMPLE = "A configuration has the keys trainer, model and data, as in configs/quickstart.yaml."
START = "`lgrpo init` writes one to start from."


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One key that was written.

    Attributes:
        key: Dotted, without ``init_args``; items of a list are numbered: ``model.reward_model[1].column``.
        value: What was written there; None for a mapping or a list.
        place: Such as "run.yaml, line 12", or "command line".
    """

    key: str
    value: Any
    place: str

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    @property
    def owner(self) -> str:
        """The key without its last part."""
        return self.key.rpartition(".")[0]


def read_entries(words: Sequence[str]) -> list[Entry]:
    """Every key in the configuration files and flags among ``words``, in order."""
    entries: list[Entry] = []
    for word, following in zip(words, [*words[1:], "--"], strict=False):
        if not word.startswith("-"):
            continue
        flag, equals, value = word.partition("=")
        if not equals:
            value = "" if following.startswith("--") else following
        key = _shorten(flag.lstrip("-"))
        if flag not in CONFIG_FLAGS:
            entries += [Entry(key=key, value=value, place=FLAG), *_read_value(value, key)]
        elif value.lstrip().startswith("{"):
            entries += _read_value(value, "")
        elif value != "-" and "://" not in value:
            entries += _read_file(value)
    return entries


def _read_file(name: str) -> list[Entry]:
    """The keys of a configuration file."""
    path = Path(name).expanduser()
    if not path.is_file():
        _refuse_missing(name, path)
    suffix = find_suffix(path)
    if suffix in READERS and suffix != ".json":  # a configuration may be JSON
        raise UserError(f"{name} is a file of prompts, not a configuration. Use it as data: --data.train={name}")
    if suffix == ".py":
        raise UserError(
            f"{name} is a Python file, not a configuration. If it is a script for TRL, `lgrpo import-trl {name}` "
            "prints the configuration that does the same."
        )
    node = compose_mapping(path, EXAMPLE)
    if library := find_library(str(key.value) for key, _ in node.value):
        raise UserError(f"{name} is written for {library}, not for `lgrpo`. {advise(library, name)}")
    return _read_node(node, "", f"{name}, ")


def find_drawing_sampler(sampler: Any) -> dict[str, Any]:
    """Of a sampler's configuration, that of the one that draws, inside of those around it; empty where it has none."""
    found: dict[str, Any] = sampler if isinstance(sampler, dict) else {}
    while isinstance(inner := (found.get("init_args") or {}).get("sampler"), dict):
        found = inner
    return found


def _refuse_missing(name: str, path: Path) -> NoReturn:
    """Say what ``path`` is, which is no file, and what to do instead."""
    if not name:
        raise UserError(f"--config needs the path of a configuration file. {START}")
    if (path / CONFIG).is_file():
        raise UserError(f"{name} is the folder of a run. The configuration of the run is {path / CONFIG}.")
    there = path if path.is_dir() else path.parent
    near = sorted(p.name for p in there.glob("*.y*ml"))
    if path.is_dir():
        has = f"The folder has {', '.join(near[:5])}{' ...' if near[5:] else ''}." if near else START
        raise UserError(f"{name} is a folder, not a configuration file. {has}")
    close = difflib.get_close_matches(path.name, near, n=1)
    do = f"Did you mean {str(path.with_name(close[0]))!r}?" if close else START
    missing = "" if there.is_dir() else f" There is no folder {there} either."
    raise NotFoundError(f"There is no configuration file {name} (looked in {Path.cwd()}).{missing} {do}")


def _read_value(text: str, key: str) -> list[Entry]:
    """The keys inside of the value of a flag, where brackets say that it has some: a prompt may look like YAML."""
    if not text.lstrip().startswith(("{", "[")):
        return []
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return []
    return _read_node(node, key, "") if isinstance(node, yaml.CollectionNode) else []


def _read_node(node: yaml.Node, key: str, file: str) -> list[Entry]:
    """The keys below a node, none of them twice."""
    entries: dict[str, Entry] = {}
    for entry in _walk(node, key, file):
        if (before := entries.setdefault(entry.key, entry)) is not entry:
            raise UserError(
                f"{before.place} and {entry.place.removeprefix(file)}: {entry.key} is given twice; a key stands "
                "once in a file. Put together what belongs together, and delete the other."
            )
    return list(entries.values())


def _walk(node: yaml.Node, key: str, file: str) -> Iterator[Entry]:
    def locate(at: yaml.Node) -> str:
        return f"{file}line {at.start_mark.line + 1}" if file else FLAG

    if not node.tag.startswith("tag:yaml.org,2002:") or not node.tag.rpartition(":")[2].isalpha():
        raise UserError(f"{locate(node)}: {node.tag} would make an object; a configuration holds values alone.")
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            written = f"{key}.{name.value}".lstrip(".")
            inner = _shorten(written)
            scalar = value.value if isinstance(value, yaml.ScalarNode) else None
            yield Entry(key=written if inner == key else inner, value=scalar, place=locate(name))
            yield from _walk(value, inner, file)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            if isinstance(item, yaml.ScalarNode):
                yield Entry(key=f"{key}[{i}]", value=item.value, place=locate(item))
            yield from _walk(item, f"{key}[{i}]", file)


def _shorten(key: str) -> str:
    """The key without ``init_args`` and ``dict_kwargs``, which name no option, and without the + of a list."""
    return ".".join(part for part in key.rstrip("+").split(".") if part not in ("init_args", "dict_kwargs"))
