"""What the parser says of a configuration, in words that name the place and what is possible."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from lgrpo_lightning import registry
from lgrpo_lightning.commands.written import Entry

KINDS = {
    "model.sampler": "sampler",
    "model.segmenter": "segmenter",
    "model.reward_model": "reward_model",
    "model.advantage_estimator": "advantage_estimator",
    "data.train": "prompt_source",
    "data.validation": "prompt_source",
    "data.test": "prompt_source",
    "data.predict": "prompt_source",
}
"""Key of the configuration → the kind of component it takes."""

TYPES = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'list'>": "a list",
    "<class 'dict'>": "a mapping",
    "<class 'NoneType'>": "null",
}
"""Types as the parser prints them → in words."""

UNKNOWN = (
    r"unrecognized arguments: --([\w.]+)",
    r"does not accept option '([\w.]+)'",
    r"Option '([\w.]+)' is not accepted",
    r"[Kk]ey ['\"]([\w.]+)['\"] is not expected",
    r"No action for key \"([\w.]+)\"",
)
"""How the parser says that there is no such option."""


def explained(message: str, written: Sequence[Entry] = (), keys: Iterable[str] = ()) -> str:
    """The parser's ``message`` in words, with the place where the mistake stands.

    Args:
        message: What the parser says.
        written: What the user wrote.
        keys: The options that exist outside of components.
    """
    key = _found(r'Parser key "([\w.]+)"', message)
    name = _found(r"Expected a dot import path string: ([\w.]+)", message)
    if key in KINDS and name:
        return f"{_place(_of_value(name, written, key))}{key}: {registry.unknown_component_message(KINDS[key], name)}"
    if path := _found(r"Problem with given class_path '([\w.]+)'", message):
        return _not_imported(path, message, written)
    if unknown := next((found for p in UNKNOWN if (found := _found(p, message))), None):
        return _unknown_option(unknown, written, sorted(keys))
    if required := _found(r"arguments are required: (.*)", message):
        return _required(required, written)
    if key and (wanted := _wanted(message)):
        return _wrong_value(key, wanted, message, written)
    where = _place(_of_key(key, written)) if key else ""
    return where + message


def _unknown_option(unknown: str, written: Sequence[Entry], keys: Sequence[str]) -> str:
    """There is no such option: of a component, if it stands in one, else of the run."""
    entry = _of_key(unknown, written)
    cls = _component(entry.owner, written) if entry else None
    if entry and cls is not None:
        options = _options(cls)
        what, name, possible = (
            f"{cls.__name__} ({entry.owner})",
            entry.name,
            f" It has: {', '.join(options) or 'none'}.",
        )
    else:
        options, name = [k for k in keys if not k.endswith("help")], unknown
        group = name.rpartition(".")[0] + "."
        siblings = [
            k.removeprefix(group) for k in options if k.startswith(group) and "." not in k[len(group) :]
        ]
        what = "there" if not siblings else group.rstrip(".")
        few = 0 < len(siblings) <= 16
        possible = f" It has: {', '.join(siblings)}." if few else " `lgrpo fit --help` lists them all."
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6) or _close_ending(name, options)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    shown = "there is" if what == "there" else f"{what} has"
    return f"{_place(entry)}{shown} no option {name!r}.{meant}{possible}"


def _close_ending(name: str, options: Sequence[str]) -> list[str]:
    """The option of the same last part, where a part before it is wrong."""
    return [k for k in options if k.rpartition(".")[2] == name.rpartition(".")[2]][:1]


def _required(names: str, written: Sequence[Entry]) -> str:
    """An argument without a default is missing: of the component that has it, if one was written."""
    name = names.split(", ")[0].removeprefix("fit.")
    for entry in written:
        cls = _component(entry.key, written) if entry.name != "class_path" else None
        if cls is not None and name in _options(cls, required=True):
            return f"{_place(entry)}{cls.__name__} ({entry.key}) needs {name!r}. It has: {', '.join(_options(cls))}."
    if name in KINDS:
        kind = KINDS[name]
        installed = sorted(c.name for c in registry.components().values() if c.kind == kind)
        return f"{name} is not set; it has no default. Installed: {', '.join(installed)}."
    return f"{names} must be set; there is no default."


def _wrong_value(key: str, wanted: str, message: str, written: Sequence[Entry]) -> str:
    given = _found(r"(?:Got value|Given value): (.*)", message)
    entry = _of_value(given, written, key) or _of_key(key, written)
    choices = re.findall(r"'([^']*)'", wanted) if "one of" in wanted else []
    close = difflib.get_close_matches(given or "", choices, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    cls = _component(entry.owner, written) if entry else None
    of = f" of {cls.__name__} ({entry.owner})" if cls is not None and entry else ""
    return (
        f"{_place(entry)}{entry.name if of and entry else key}{of} is {given!r}; it must be {wanted}.{meant}"
    )


def _wanted(message: str) -> str | None:
    """What the parser expected, in words."""
    if subtypes := _found(r"Subtypes: \[(.*)\]", message):
        parts = re.findall(r"<class '[\w.]+'>|typing\.Literal\[[^\]]*\]|[\w.]+(?:\[[^\]]*\])?", subtypes)
        return ", or ".join(_type(part) for part in parts)
    expected = _found(r"Expected an? (.+?)\. Got value", message)
    return _type(expected) if expected else None


def _type(text: str) -> str:
    """
    >>> _type("<class 'int'>"), _type("typing.Literal['a', 'b']")
    ('a whole number', "one of 'a', 'b'")
    """
    if literal := _found(r"Literal\[(.*)\]", text):
        return f"one of {literal}"
    if text.startswith("list["):
        return "a list"
    if text.startswith("dict["):
        return "a mapping"
    return TYPES.get(text, _found(r"<class '[\w.]*?(\w+)'>", text) or text)


def _not_imported(path: str, message: str, written: Sequence[Entry]) -> str:
    entry = _of_value(path, written)
    reason = (_found(rf"class_path '{re.escape(path)}':\s*(.*)", message) or "").strip()
    key = f"{entry.key}: " if entry else ""
    return (
        f"{_place(entry)}{key}the class {path!r} cannot be used: {reason}. An installed component goes by its "
        "class name (`lgrpo plugins` lists them), your own by its import path."
    )


def _component(key: str, written: Sequence[Entry]) -> Any:
    """The class that was written for ``key``, or None."""
    for entry in reversed(written):
        if entry.key in (key, f"{key}.class_path") and isinstance(entry.value, str):
            return _class(entry.value)
    return None


def _class(name: str) -> Any:
    """The installed component or importable class of this name, or None."""
    if found := registry.components().get(name):
        return found.cls
    module, _, attribute = name.rpartition(".")
    try:
        found_class = getattr(import_module(module), attribute, None) if module else None
    except ImportError:
        return None
    return found_class if isinstance(found_class, type) else None


def _options(cls: Any, *, required: bool = False) -> list[str]:
    """The arguments of a class that a configuration can give (an optimizer's parameters are not among them)."""
    parameters = inspect.signature(cls).parameters.values()
    return [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.name != "params"
        and not (required and p.default is not p.empty)
    ]


def _of_key(key: str, written: Sequence[Entry]) -> Entry | None:
    """Where ``key`` (or a key that ends with it) was written last."""
    for entry in reversed(written):
        if (
            entry.key == key
            or entry.key.endswith(f".{key}")
            or (key.startswith(f"{entry.key}.") and "." not in entry.key)
        ):
            return entry
    return None


def _of_value(value: str | None, written: Sequence[Entry], key: str = "") -> Entry | None:
    """Where ``value`` was written last, under ``key`` if that is known."""
    for entry in reversed(written):
        if entry.value == value and key in entry.key:
            return entry
    return None


def _place(entry: Entry | None) -> str:
    return f"{entry.place}: " if entry and entry.place else ""


def _found(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found[1] if found else None
