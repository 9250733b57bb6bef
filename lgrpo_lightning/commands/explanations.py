"""What the parser says of a configuration, in words that name the place and what is possible."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch import Callback

from lgrpo_lightning.commands.written import Entry
from lgrpo_lightning.distributed.precision import SUPPORTED
from lgrpo_lightning.registry import lookup
from lgrpo_lightning.registry.import_path import STANDARD, STANDARD_REFUSED

KINDS = {
    "model.sampler": "sampler",
    "model.segmenter": "segmenter",
    "model.reward_model": "reward_model",
    "model.advantage_estimator": "advantage_estimator",
    "model.loss": "loss",
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
    "<class 'tuple'>": "a list",
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
    denied = _found(r"Importing '([\w.]+)' is not allowed", message)
    if denied and denied.partition(".")[0] in STANDARD:
        entry = _of_value(denied, written) or (_of_key(key, written) if key else None)
        return f"{_place(entry)}{key}: {denied!r} is {STANDARD_REFUSED}"
    name = _found(r"Expected a dot import path string: ([\w.]+)", message)
    if key in KINDS and name:
        unknown_component = lookup.unknown_component_message(KINDS[key], name)
        return f"{_place(_of_value(name, written, key))}{key}: {unknown_component}"
    if path := _found(r"Problem with given class_path '([\w.]+)'", message):
        return _not_imported(path, message, written)
    path = _found(r"Expected a path but ([\w.]+) either not accessible or invalid", message)
    if path and key == "model.optimizer":
        return _no_class(path, key, written)
    if unknown := next((found for p in UNKNOWN if (found := _found(p, message))), None):
        return _unknown_option(unknown, written, sorted(keys))
    if required := _found(r"arguments are required: (.*)", message):
        return _required(required, written)
    inner = re.findall(r'Parser key "([\w.]+)":\s+(Expected an? .+\. Got value: .*)', message)
    nested = message[max(message.rfind("Parser key"), 0) :]  # what is wrong inside of what was wrong
    key, message = inner[-1] if inner else (key, nested)
    if key and (wanted := _wanted(message)):
        return _wrong_value(key, wanted, message, written)
    where = _place(_of_key(key, written)) if key else ""
    return where + message


def _unknown_option(unknown: str, written: Sequence[Entry], keys: Sequence[str]) -> str:
    """There is no such option: of a component, if it stands in one, else of the run."""
    entry = _of_key(unknown, written)
    cls = _component(entry.owner, written) if entry else None
    if entry and cls is not None:
        options, name, what = _options(cls), entry.name, f"{cls.__name__} ({entry.owner}) has"
    else:
        group, _, name = unknown.rpartition(".")
        options, what = _members(group, keys), f"{group} has"
        if not options:
            options, name, what = list(keys), unknown, "there is"
    close = difflib.get_close_matches(name, options, n=1) or _same_ending(name, keys)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    few = 0 < len(options) <= 16
    possible = f"It has: {', '.join(options)}." if few else "`lgrpo fit --help` lists them all."
    return f"{_place(entry)}{what} no option {name!r}.{meant} {possible}"


def _members(group: str, keys: Sequence[str]) -> list[str]:
    """The options directly in a group."""
    inside = [k.removeprefix(f"{group}.") for k in keys if group and k.startswith(f"{group}.")]
    return [k for k in inside if "." not in k]


def _same_ending(name: str, keys: Sequence[str]) -> list[str]:
    """The option whose last part is the same, where a part before it is wrong or lacking."""
    return [k for k in keys if k.rpartition(".")[2] == name.rpartition(".")[2]][:1]


def _required(names: str, written: Sequence[Entry]) -> str:
    """An argument without a default is missing: of the component that has it, if one was written."""
    name = names.split(", ")[0].removeprefix("fit.")
    for entry in written:
        cls = _component(entry.key, written) if entry.name != "class_path" else None
        if cls is not None and name in _options(cls, required=True):
            has = ", ".join(_options(cls))
            return f"{_place(entry)}{cls.__name__} ({entry.key}) needs {name!r}. It has: {has}."
    if name in KINDS:
        installed = sorted(c.name for c in lookup.components().values() if c.kind == KINDS[name])
        return f"{name} is not set; it has no default. Installed: {', '.join(installed)}."
    return f"{names} must be set; there is no default."


def _wrong_value(key: str, wanted: str, message: str, written: Sequence[Entry]) -> str:
    """A value of a wrong type, or none of the choices."""
    given = _found(r"(?:Got value|Given value): (.*)", message)
    entry = _of_value(given, written, key) or _of_key(key, written)
    if lacking := getattr(_class(given or ""), "__abstractmethods__", None):
        return f"{_place(entry)}{key}: {given!r} is abstract; it lacks {', '.join(sorted(lacking))}."
    if key == "trainer.precision":  # Lightning's has more
        wanted = "one of " + ", ".join(map(repr, SUPPORTED))
    choices = re.findall(r"'([^']*)'", wanted) if "one of" in wanted else _callbacks(wanted)
    close = difflib.get_close_matches(given or "", choices, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    cls = _component(entry.owner, written) if entry else None
    what = f"{entry.name} of {cls.__name__} ({entry.owner})" if cls is not None and entry else key
    return f"{_place(entry)}{what} is {given!r}; it must be {wanted}.{meant}"


def _callbacks(wanted: str) -> list[str]:
    """Names of all callbacks, where one is wanted."""
    found, pending = set(), [Callback] if "Callback" in wanted else []
    while pending:
        subclasses = pending.pop().__subclasses__()
        found |= {cls.__name__ for cls in subclasses}
        pending += subclasses
    return sorted(found)


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


def _no_class(path: str, key: str, written: Sequence[Entry]) -> str:
    """A class named by its import path, such as an optimizer, is not there."""
    entry = _of_value(path, written) or _of_key(key, written)
    module, _, name = path.rpartition(".")
    if hasattr(sys.modules.get(module), name):
        return f"{_place(entry)}{key}: {path!r} is no class that can stand there."
    close = difflib.get_close_matches(name, dir(sys.modules.get(module)), n=1)
    meant = f" Did you mean '{module}.{close[0]}'?" if close else ""
    return f"{_place(entry)}{key}: there is no class {path!r}.{meant}"


def _component(key: str, written: Sequence[Entry]) -> Any:
    """The class that was written for ``key``, or None."""
    for entry in reversed(written):
        if entry.key in (key, f"{key}.class_path") and isinstance(entry.value, str):
            return _class(entry.value)
    return None


def _class(name: str) -> Any:
    """The installed component or imported class of this name, or None; nothing is imported to phrase an error."""
    if found := lookup.components().get(name):
        return found.cls
    module, _, attribute = name.rpartition(".")
    found_class = getattr(sys.modules.get(module), attribute, None)
    return found_class if isinstance(found_class, type) else None


def _options(cls: Any, *, required: bool = False) -> list[str]:
    """The arguments of a class that a configuration can give; an optimizer's parameters are not among them."""
    parameters = inspect.signature(cls).parameters.values()
    return [
        p.name
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.name != "params"
        and not (required and p.default is not p.empty)
    ]


def _of_key(key: str, written: Sequence[Entry]) -> Entry | None:
    """Where ``key``, or a key that ends with it, was written last."""
    return next((e for e in reversed(written) if e.key == key or e.key.endswith(f".{key}")), None)


def _of_value(value: str | None, written: Sequence[Entry], key: str = "") -> Entry | None:
    """Where ``value`` was written last, under ``key`` if that is known."""
    for entry in reversed(written):
        if entry.value == value and key in entry.key:
            return entry
    return None


def maker(error: BaseException, written: Sequence[Entry]) -> str:
    """Place and key of the class whose ``__init__`` raised ``error``, as the beginning of a message."""
    frames = [
        frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "__init__"
    ]
    names = {type(frame.f_locals.get("self")).__name__ for frame in frames}
    entry = next((e for e in reversed(written) if str(e.value).rpartition(".")[2] in names), None)
    return f"{_place(entry)}{entry.key.removesuffix('.class_path')}: " if entry else ""


def place_of(key: str, written: Sequence[Entry]) -> str:
    """Where a key was written, as the beginning of a message; nothing where it was not."""
    return _place(_of_key(key, written))


def _place(entry: Entry | None) -> str:
    return f"{entry.place}: " if entry and entry.place else ""


def _found(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found[1] if found else None
