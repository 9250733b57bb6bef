"""The model card of an exported model, from the folder of its run."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lgrpo_lightning import estimators, losses
from lgrpo_lightning.monitoring.recorded_run import RecordedRun
from lgrpo_lightning.monitoring.report import summarise
from lgrpo_lightning.rollouts.names import ENVIRONMENT
from lgrpo_lightning.rollouts.reading import mask_secrets

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
DATA_FILES = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".gz", ".zst")
LOCAL = ("/", "~", "./", "../", "file:")
"""What paths of this machine begin with."""
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5})")


def write_model_card(run: RecordedRun, *, base: str, checkpoint: str, steps: int | None, adapter: bool) -> str:
    """A ``README.md`` for the Hugging Face Hub; folders of this machine and secrets are not in it.

    Args:
        base: The model that was trained, by its Hub name or folder.
        checkpoint: Name of the exported checkpoint.
        steps: Its optimizer steps; None where it does not say.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=base if HUB_NAME.fullmatch(base) else None,
        datasets=_list_data_sets(run) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["lgrpo_lightning", "grpo", "reinforcement-learning"],
    )
    config = {name: run.config[name] for name in ("seed_everything", "model", "data") if name in run.config}
    text = yaml.safe_dump(_hide_folders(mask_secrets(config)), sort_keys=False, allow_unicode=True)
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", text))])
    rows = _describe(run, base) | {"checkpoint": checkpoint + ("" if steps is None else f", {steps} optimizer steps")}
    return "\n".join([
        f"---\n{data.to_yaml()}\n---\n",
        f"# {_name(base)}, trained with {_get_class_name(run, 'advantage_estimator') or 'lgrpo_lightning'}\n",
        f"{'A LoRA adapter for' if adapter else 'Fine-tuned from'} `{_name(base)}` by reinforcement learning.\n",
        "| | |\n|---|---|",
        *(f"| {name} | {_escape(value)} |" for name, value in rows.items()),
        *([f"\n## Configuration\n\n{fence}yaml\n{text}{fence}"] if config else []),
        "",
    ])  # fmt: skip


def _describe(run: RecordedRun, base: str) -> dict[str, str]:
    """What the table of the card says."""
    rows = {"base model": f"`{_name(base)}`"}
    for title, key, module in (("method", "advantage_estimator", estimators), ("loss", "loss", losses)):
        if name := _get_class_name(run, key):
            rows[title] = f"`{name}`" + _cite(getattr(module, name, None))
    for title, key in (("data", "data.train"), ("reward model", "model.reward_model")):
        if (value := run.get_option(key)) is not None:
            parts = value if isinstance(value, list) else [value]
            rows[title] = ", ".join(_write_component(part) for part in parts)
    figures = summarise(run)
    rows |= {name: text for name, text in figures.items() if name not in ("estimator", "model")}
    with run.reading(ENVIRONMENT) as path:
        packages = json.loads(path.read_text(encoding="utf-8"))["packages"] if path.exists() else {}
        rows["versions"] = ", ".join(f"{name} {version}" for name, version in packages.items())
    return {name: text for name, text in rows.items() if text}


def _list_data_sets(run: RecordedRun) -> list[str]:
    path = run.get_option("data.train.init_args.path")
    on_hub = isinstance(path, str) and HUB_NAME.fullmatch(path) and not path.endswith(DATA_FILES)
    return [path] if on_hub and not Path(path).exists() else []


def _cite(component: object) -> str:
    """The first paper that the documentation of a built-in component names; nothing for other components."""
    found = ARXIV.search(inspect.getdoc(component) or "") if inspect.isclass(component) else None
    return f" ([arXiv:{found[1]}](https://arxiv.org/abs/{found[1]}))" if found else ""


def _write_component(value: Any) -> str:
    """A component of a configuration: its class, and the options that say what it is."""
    if not isinstance(value, Mapping):
        return f"`{_hide_folders(value)}`"
    options = _hide_folders(mask_secrets(value.get("init_args") or {}))
    shown = ", ".join(f"{name}: {options[name]}" for name in ("function", "path", "split") if options.get(name))
    return f"`{str(value.get('class_path', '')).rpartition('.')[2]}`" + (f" ({shown})" if shown else "")


def _escape(cell: str) -> str:
    return " ".join(cell.replace("|", "\\|").split())


def _get_class_name(run: RecordedRun, key: str) -> str:
    return str(run.get_option(f"model.{key}.class_path") or "").rpartition(".")[2]


def _name(base: str) -> str:
    return Path(base).name if base.startswith(LOCAL) else base


def _hide_folders(value: Any) -> Any:
    """``value`` with the last part of each path of this machine, and without the addresses of servers."""
    if isinstance(value, Mapping):
        return {name: _hide_folders(inner) for name, inner in value.items() if name != "server"}
    if isinstance(value, list):
        return [_hide_folders(inner) for inner in value]
    return _name(value) if isinstance(value, str) else value
