"""What the parser says of a configuration, with the place of the mistake and what is possible."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from lightning.pytorch import callbacks as lightning_callbacks

from lgrpo_lightning import callbacks
from lgrpo_lightning.commands.entries import Entry
from lgrpo_lightning.distributed.precision import SUPPORTED
from lgrpo_lightning.errors import hint
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
UNKNOWN = r"(?:unrecognized arguments: --|[Oo]ption '|[Kk]ey ['\"])([\w.]+)"
"""How the parser names an option that is not there; of other mistakes it says ``Parser key``."""


def explain(message: str, written: Sequence[Entry] = (), keys: Iterable[str] = ()) -> str:
    """The parser's ``message`` with the place where the mistake stands, and what is possible there.

    Args:
        written: What the user wrote.
        keys: The options that exist outside of components.
    """
    # from the particular to the general: the parser puts one message into another
    key = _search(r'Parser key "([\w.]+)"', message)
    denied = _search(r"Importing '([\w.]+)' is not allowed", message)
    if denied and denied.partition(".")[0] in STANDARD:
        return f"{describe_place(written, key, denied)}{key}: {denied!r} is {STANDARD_REFUSED}"
    name = _search(r"Expected a dot import path string: ([\w.]+)", message)
    if key in KINDS and name:
        return f"{describe_place(written, key, name)}{key}: {lookup.explain_unknown(KINDS[key], name)}"
    if path := _search(r"Problem with given class_path '([\w.]+)'", message):
        return _explain_class(path, message, written)
    path = _search(r"Expected a path but ([\w.]+) either not accessible or invalid", message)
    if path and key == "model.optimizer":
        return _explain_optimizer(path, key, written)
    if unknown := _search(UNKNOWN, message.replace("Parser key", "")):
        return _explain_option(unknown, written, sorted(keys))
    if required := _search(r"arguments are required: (.*)", message):
        return _explain_required(required, written)
    inner = re.findall(r'Parser key "([\w.]+)":\s+(Expected an? .+\. Got value: .*)', message)
    innermost = message[max(message.rfind("Parser key"), 0) :]  # what is wrong inside of what was wrong
    key, message = inner[-1] if inner else (key, innermost)
    wanted = _search(r"Subtypes: \[(.*)\]", message) or _search(r"Expected an? (.+?)\. Got value", message)
    if key and wanted:
        return _explain_value(key, wanted, message, written)
    return (describe_place(written, key) if key else "") + message


def _explain_option(unknown: str, written: Sequence[Entry], keys: Sequence[str]) -> str:
    """There is no such option: of a component, if it stands in one, else of the run."""
    entry = _find_entry(written, unknown)
    cls = _find_component(entry.owner, written) if entry else None
    if entry and cls is not None:
        options, name, what = _list_options(cls), entry.name, f"{cls.__name__} ({entry.owner}) has"
    else:
        group, _, name = unknown.rpartition(".")
        what = f"{group} has"
        inside = [k.removeprefix(f"{group}.") for k in keys if group and k.startswith(f"{group}.")]
        options = [k for k in inside if "." not in k]
        if not options:
            options, name, what = list(keys), unknown, "there is"
    same_ending = [k for k in keys if k.rpartition(".")[2] == name.rpartition(".")[2]]
    meant = hint(name, options) or "".join(f" Did you mean {key!r}?" for key in same_ending[:1])
    possible = f"It has: {', '.join(options)}." if len(options) <= 16 else "`lgrpo fit --help` lists them all."
    return f"{describe_place(written, unknown)}{what} no option {name!r}.{meant} {possible}"


def _explain_required(names: str, written: Sequence[Entry]) -> str:
    """An argument without a default is missing: of the component that has it, if one was written."""
    name = names.split(", ")[0].removeprefix("fit.")
    for entry in written:
        cls = _find_component(entry.key, written) if entry.name != "class_path" else None
        if cls is not None and name in _list_options(cls, required=True):
            has = ", ".join(_list_options(cls))
            return f"{_show(entry)}{cls.__name__} ({entry.key}) needs {name!r}. It has: {has}."
    if name in KINDS:
        installed = sorted(c.name for c in lookup.components().values() if c.kind == KINDS[name])
        return f"{name} is not set; it has no default. Installed: {', '.join(installed)}."
    return f"{names} must be set; there is no default."


def _explain_value(key: str, wanted: str, message: str, written: Sequence[Entry]) -> str:
    """A value of a wrong type, or none of the choices."""
    given = _search(r"(?:Got value|Given value): (.*)", message) or ""
    entry = _find_entry(written, key, given)
    if lacking := getattr(_find_class(given), "__abstractmethods__", None):
        return f"{_show(entry)}{key}: {given!r} is abstract; it lacks {', '.join(sorted(lacking))}."
    if key == "trainer.precision":  # Lightning's has more
        wanted = f"Literal[{', '.join(map(repr, SUPPORTED))}]"
    choices = re.findall(r"'([^']*)'", re.sub(r"<class '.*?'>", "", wanted))
    if "Callback" in wanted:
        choices = [*callbacks.__all__, *lightning_callbacks.__all__]
    for pattern, plain in (
        *((r"<class '(.*?)'>", r"\1"), (r"\b[A-Za-z_]\w*\.", "")),
        *((r"\bNoneType\b", "null"), (r"\btuple\b", "list"), (r"Literal\[(.*?)\]", r"one of \1")),
    ):
        wanted = re.sub(pattern, plain, wanted)
    cls = _find_component(entry.owner, written) if entry else None
    what = f"{entry.name} of {cls.__name__} ({entry.owner})" if cls is not None and entry else key
    return f"{_show(entry)}{what} is {given!r}; it must be {wanted}.{hint(given, choices)}"


def _explain_class(path: str, message: str, written: Sequence[Entry]) -> str:
    """A class cannot be imported."""
    entry = _find_entry(written, value=path)
    reason = (_search(rf"class_path '{re.escape(path)}':\s*(.*)", message) or "").strip()
    return (
        f"{_show(entry)}{f'{entry.key}: ' if entry else ''}the class {path!r} cannot be used: {reason}. An installed "
        "component goes by its class name (`lgrpo plugins` lists them), your own by its import path."
    )


def _explain_optimizer(path: str, key: str, written: Sequence[Entry]) -> str:
    """A class named by its import path, such as an optimizer, is not there."""
    module, _, name = path.rpartition(".")
    where, there = describe_place(written, key, path), dir(sys.modules.get(module))
    if name in there:
        return f"{where}{key}: {path!r} is no class that can stand there."
    close = [f"{module}.{found}" for found in get_close_matches(name, there, n=1)]
    return f"{where}{key}: there is no class {path!r}.{''.join(f' Did you mean {found!r}?' for found in close)}"


def _find_component(key: str, written: Sequence[Entry]) -> Any:
    """The class that was written for ``key``, or None."""
    classes = (e.value for e in reversed(written) if e.key in (key, f"{key}.class_path"))
    return next((_find_class(value) for value in classes if isinstance(value, str)), None)


def _find_class(name: str) -> Any:
    """The installed component or imported class of this name, or None; nothing is imported to phrase an error."""
    if component := lookup.components().get(name):
        return component.cls
    module, _, attribute = name.rpartition(".")
    cls = getattr(sys.modules.get(module), attribute, None)
    return cls if isinstance(cls, type) else None


def _list_options(cls: Any, *, required: bool = False) -> list[str]:
    """The arguments of a class that a configuration can give; an optimizer's parameters are not among them."""
    return [
        p.name
        for p in inspect.signature(cls).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.name != "params"
        and not (required and p.default is not p.empty)
    ]


def explain_maker(error: BaseException, written: Sequence[Entry]) -> str:
    """Place and key of the class whose ``__init__`` raised ``error``, as the beginning of a message."""
    frames = [f for f, _ in traceback.walk_tb(error.__traceback__) if f.f_code.co_name == "__init__"]
    names = {type(frame.f_locals.get("self")).__name__ for frame in frames}
    entry = next((e for e in reversed(written) if str(e.value).rpartition(".")[2] in names), None)
    return f"{_show(entry)}{entry.key.removesuffix('.class_path')}: " if entry else ""


def describe_place(written: Sequence[Entry], key: str | None = None, value: str | None = None) -> str:
    """Where a value, a key, or one that ends with it was written last, as the beginning of a message."""
    return _show(_find_entry(written, key, value))


def _find_entry(written: Sequence[Entry], key: str | None = None, value: str | None = None) -> Entry | None:
    of_value = [e for e in written if value is not None and e.value == value and (key or "") in e.key]
    of_key = [e for e in written if key and f".{e.key}".endswith(f".{key}")]
    return next(reversed(of_value or of_key), None)


def _show(entry: Entry | None) -> str:
    return f"{entry.place}: " if entry and entry.place else ""


def _search(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None
