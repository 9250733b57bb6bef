"""What the benchmarks share: their options, the model they run, the machine's speed."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def parser(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--prompt-length", type=int, default=defaults.get("prompt_length", 256))
    made.add_argument("--completion-length", type=int, default=defaults.get("completion_length", 64))
    made.add_argument("--group-size", type=int, default=8)
    made.add_argument("--prompts", type=int, default=defaults.get("prompts", 4))
    made.add_argument(
        "--overlap", type=float, default=0.0, help="share of each completion that its group has in common"
    )
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--vocabulary", type=int, default=defaults.get("vocabulary", 49152))
    made.add_argument("--quick", action="store_true", help="fewer repeats: under four minutes")
    return made


def llama_config(vocabulary: int, **shape: Any) -> Any:
    """Six layers, hidden 256, intermediate 512, 4 heads, 2 key-value heads; or another shape."""
    from transformers import LlamaConfig

    return LlamaConfig(**COMMON | {"vocab_size": vocabulary} | shape)


def qwen3_5_config(vocabulary: int) -> Any:
    """Four layers, every second one of linear attention; otherwise as the Llama."""
    from transformers import Qwen3_5TextConfig

    return Qwen3_5TextConfig(
        **COMMON | {"vocab_size": vocabulary, "num_hidden_layers": 4, "head_dim": 64},
        layer_types=["linear_attention", "full_attention"] * 2,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
    )


COMMON = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
MODELS: dict[str, Callable[[int], Any]] = {
    "llama": llama_config,
    "smollm2": lambda vocabulary: llama_config(vocabulary, **SMOLLM2),
    "qwen3_5": qwen3_5_config,
}


def model_folder(folder: Path, vocabulary: int, size: str | None = None, model: str = "llama") -> Path:
    """A model with random weights, and a tokenizer whose tokens are the words ``t2``, ``t3``, …

    Args:
        size: One of the shapes of ``tests.gpu.models``, as a Llama in bf16, in place of the small one.
        model: One of ``MODELS``.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    if size:
        from tests.gpu.models import SIZES

        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            made = AutoModelForCausalLM.from_config(llama_config(vocabulary, **SIZES[size]))
        made.to(torch.bfloat16).save_pretrained(folder)
    else:
        AutoModelForCausalLM.from_config(MODELS[model](vocabulary)).save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": 1} | {f"t{i}": i for i in range(2, vocabulary)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    return folder


def prompt_texts(count: int, length: int, vocabulary: int) -> list[str]:
    """Random prompts of ``length`` tokens."""
    rng = random.Random(0)
    return [" ".join(f"t{rng.randrange(2, vocabulary)}" for _ in range(length)) for _ in range(count)]


def update_gigaflops(options: argparse.Namespace) -> float:
    """What the matrix products of an update of a Llama need, the prompt computed once a group.

    Forward and backward, linear layers and head; nothing is recomputed, attention is left out.
    """
    config = MODELS[options.model](options.vocabulary)
    hidden, heads = config.hidden_size, config.num_key_value_heads / config.num_attention_heads
    layer = hidden * (2 * hidden + 2 * hidden * heads + 3 * config.intermediate_size)
    completions = options.prompts * options.group_size * options.completion_length
    tokens = options.prompts * options.prompt_length + completions
    products = tokens * config.num_hidden_layers * layer + completions * hidden * options.vocabulary
    return 6 * float(products) / 1e9


def matrix_peak() -> float:
    """Gigaflops of a large fp32 matrix product with the threads there are."""
    a = torch.randn(1024, 1024)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        best = max(best, 2 * 1024**3 / (time.perf_counter() - start) / 1e9)
    return best
