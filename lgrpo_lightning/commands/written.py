"""What a person wrote in configuration files and flags, and where: so that an error can name the line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lgrpo_lightning.commands.migration.whose import owner, remedy
from lgrpo_lightning.errors import NotFoundError, UserError

CONFIG_FLAGS = ("--config", "-c")


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


def entries(words: Sequence[str]) -> list[Entry]:
    """Every key in the configuration files and flags among ``words``, in order.

    Raises:
        FileNotFoundError: A configuration file is not there.
        ValueError: It is no YAML or no mapping, and the message has the line; or another library's.
    """
    found: list[Entry] = []
    for flag, value in _flags(words):
        if flag in CONFIG_FLAGS:
            found.extend(_of_file(value))
        else:
            found.append(Entry(key=_plain(flag.lstrip("-")), value=value, place="command line"))
    return found


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(flag, value) pairs; a flag without a value gets an empty one."""
    for word, following in zip(words, [*words, "--"][1:], strict=True):
        if not word.startswith("-"):
            continue
        flag, equals, value = word.partition("=")
        yield flag, value if equals or following.startswith("--") else following


def _of_file(name: str) -> list[Entry]:
    """The keys of a configuration file; none of a configuration that stands on the command line itself."""
    path = Path(name).expanduser()
    if name == "-" or "://" in name or name.lstrip().startswith("{"):
        return []
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, near, n=1)
        there = f" Did you mean {str(path.with_name(close[0]))!r}?" if close else ""
        missing = "" if path.parent.is_dir() else f" There is no folder {path.parent} either."
        raise NotFoundError(
            f"There is no configuration file {name} (looked in {Path.cwd()}).{missing}{there}"
        )
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(
            f"{name}{line}: not valid YAML: {error.problem}. Check the indentation there and one line above."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not valid YAML: {error}") from error
    if not isinstance(node, yaml.MappingNode):
        what = "is empty" if node is None else "holds no keys"
        raise UserError(
            f"{name} {what}. A configuration has the keys trainer, model and data, as in "
            "configs/quickstart.yaml."
        )
    if library := owner(str(key.value) for key, _ in node.value):
        raise UserError(f"{name} is written for {library}, not for `lgrpo`. {remedy(library, name)}")
    found: dict[str, Entry] = {}
    for entry in _of_node(node, "", name):
        if (before := found.setdefault(entry.key, entry)) is not entry:
            raise UserError(
                f"{before.place} and {entry.place.removeprefix(f'{name}, ')}: {entry.key} is given twice; a key stands "
                "once in a file. Put together what belongs together, and delete the other."
            )
    return list(found.values())


def _of_node(node: yaml.Node, key: str, name: str) -> Iterator[Entry]:
    if not re.fullmatch(r"tag:yaml\.org,2002:\w+", node.tag):
        place = f"{name}, line {node.start_mark.line + 1}"
        raise UserError(f"{place}: {node.tag} would make an object; a configuration holds values alone.")
    if isinstance(node, yaml.MappingNode):
        for key_node, value in node.value:
            inner = _plain(f"{key}.{key_node.value}" if key else str(key_node.value))
            scalar = value.value if isinstance(value, yaml.ScalarNode) else None
            if inner != key:
                yield Entry(key=inner, value=scalar, place=f"{name}, line {key_node.start_mark.line + 1}")
            yield from _of_node(value, inner, name)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            inner = f"{key}[{i}]"
            if isinstance(item, yaml.ScalarNode):
                yield Entry(key=inner, value=item.value, place=f"{name}, line {item.start_mark.line + 1}")
            yield from _of_node(item, inner, name)


def _plain(key: str) -> str:
    """The key without ``init_args`` and ``dict_kwargs``, which name no option."""
    return ".".join(part for part in key.split(".") if part not in ("init_args", "dict_kwargs"))
