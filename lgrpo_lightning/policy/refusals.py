"""Errors of loading that name the option behind them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lgrpo_lightning.errors import UserError

CODE = "custom code"
"""What transformers says of a folder with code of its own."""


@contextmanager
def explain_load_errors(key: str, path: str, resolved: str) -> Iterator[None]:
    """Names the option behind what transformers refuses to load, and what is there instead.

    Raises:
        ValueError: With the key, its value and the reason.
    """
    try:
        yield
    except Exception as error:  # of any kind: KeyError for an unknown name, SafetensorError, Exception of tokenizers
        if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
            name = str(error).rpartition("argument")[2].strip()
            raise UserError(
                f"policy.model_kwargs has {name}, which is neither an entry of the config.json of {path!r} nor an "
                "argument of AutoModelForCausalLM.from_pretrained."
            ) from error
        raise UserError(f"{key} is {path!r}: {_explain(resolved, error)}") from error


def check_weights(
    key: str,
    path: str,
    model: Any,
    info: Any,
    *,
    unexpected: Iterable[str] = (),
    take: str = "files that are whole and belong to this model",
) -> None:
    """Refuse weights that were not in the files, which transformers draws at random, and those that are not finite.

    Args:
        info: ``missing_keys`` and ``mismatched_keys``, as transformers tells them of what it loaded.
        unexpected: Names in the files that belong to no weight, where that matters.
        take: What the message advises to take.
    """
    weights = dict(model.named_parameters())
    for what, names in (
        ("lacks weights of the model", weights.keys() & set(info["missing_keys"])),
        (
            "has weights of another shape than its configuration says",
            {f"{n} {[*one]} for {[*other]}" for n, one, other in info["mismatched_keys"]},
        ),
        ("has weights that the model has no place for", set(unexpected)),
        ("holds NaN or infinity", {n for n, t in weights.items() if not bool(t.isfinite().all())}),
    ):
        if names:
            raise UserError(
                f"{key} is {path!r}, which {what}: {', '.join(sorted(names)[:3])}"
                f"{f' and {len(names) - 3} more' if len(names) > 3 else ''}. Take {take}."
            )


def _explain(path: str, error: Exception) -> str:
    """Why a model or tokenizer cannot be loaded from ``path``."""
    folder, lines = (
        Path(path).expanduser(),
        [line.strip() for line in str(error).strip().splitlines()] or [""],
    )
    message = " ".join(lines[:4]) if lines[0].endswith(":") else lines[0]
    if not isinstance(error, OSError | ValueError | ImportError):
        message = (
            f"{type(error).__name__}: {message.rstrip('.')}. A file is cut or damaged, or holds a name or value that "
            "transformers does not know."
        )
    if CODE in str(error):
        return (
            "it comes with Python code of its own, which is not run unasked. If you trust its authors, set "
            "policy.model_kwargs: {trust_remote_code: true}."
        )
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return (
            "its weights are a pickle that holds more than tensors and could run code, so they are not read. Take "
            "a model with model.safetensors, or convert it where you trust it."
        )
    if not folder.exists() and path.startswith((".", "/", "~")):
        return f"there is no such folder (looked in {Path.cwd()}). Give one with config.json and model.safetensors."
    if not folder.exists():
        offline = " (HF_HUB_OFFLINE is set: only its cache is searched)" if os.environ.get("HF_HUB_OFFLINE") else ""
        return (
            f"there is no such folder (looked in {Path.cwd()}), and no model of that name can be loaded from the "
            f"Hugging Face hub{offline}: {message} Give a folder with config.json, model.safetensors and "
            "tokenizer.json, a name such as Qwen/Qwen2.5-0.5B-Instruct, or lgrpo:arithmetic."
        )
    needed = ("config.json", "tokenizer_config.json")
    if folder.is_dir() and (missing := [name for name in needed if not (folder / name).is_file()]):
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:12]) or "nothing"
        return f"this folder lacks {' and '.join(missing)}; in it: {there}."
    return f"transformers refuses to load it: {message}"
