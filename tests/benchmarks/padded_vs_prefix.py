"""Forward and backward of one group: each prompt once against padded rows (and trees), alternating in one process.

    python tests/benchmarks/padded_vs_prefix.py                  Qwen3.5, GPT-OSS and Llama, four layers of width 256
    python tests/benchmarks/padded_vs_prefix.py --quick --model qwen3_5

A row tells the model, the shape (prompt P, completion C, group G; completions share nothing), the tokens that padded
rows and the prefix layout compute, the least of the measured times, their ratio, and the largest difference of
log-probs. Last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from shapes import COMMON, llama_config, qwen3_5_config

from lgrpo_lightning.functional import chunked_logprobs
from lgrpo_lightning.policy.attention import register_tree_attention
from lgrpo_lightning.policy.choice import explain_no_tree
from lgrpo_lightning.policy.layout import Layout, make_padded_layout
from lgrpo_lightning.policy.prefix_layout import make_prefix_layout
from lgrpo_lightning.policy.tree_layout import make_tree_layout

SHAPES = [(256, 64, 8), (1024, 64, 8)]
VOCABULARY = 8000


def make_model(name: str) -> Any:
    """A model of this family with random weights: four layers of width 256."""
    import transformers

    configs = {
        "qwen3_5": lambda: qwen3_5_config(VOCABULARY),
        "gpt_oss": lambda: transformers.GptOssConfig(
            **COMMON | {"vocab_size": VOCABULARY, "num_hidden_layers": 4, "head_dim": 64},
            num_local_experts=4,
            num_experts_per_tok=2,
            layer_types=["full_attention", "sliding_attention"] * 2,
        ),
        "llama": lambda: llama_config(VOCABULARY, num_hidden_layers=4),
    }
    torch.manual_seed(0)
    options = {"attn_implementation": register_tree_attention("sdpa")} if name == "llama" else {}
    return transformers.AutoModelForCausalLM.from_config(configs[name](), **options).float()


def step(model: Any, layout: Layout, upstream: torch.Tensor) -> torch.Tensor:
    """Forward and backward of the log-probs under a random loss; the log-probs."""
    chosen = layout.run(model)[0].index_select(0, layout.predictors)
    logprobs = layout.spread(chunked_logprobs(chosen, layout.targets, model.lm_head, chunk=8192)[0])
    model.zero_grad(set_to_none=True)
    (logprobs * upstream).sum().backward()
    return logprobs.detach()


def measure(model: Any, shape: tuple[int, int, int], repeats: int) -> dict[str, Any]:
    """Every layout that the model can, alternating."""
    prompt_length, length, group = shape
    rng = random.Random(0)
    draw = lambda n: [rng.randrange(2, VOCABULARY) for _ in range(n)]  # noqa: E731
    prompt = draw(prompt_length)
    rows = [prompt] * group, [draw(length) for _ in range(group)]
    upstream = torch.randn(group, length)
    layouts = {
        "padded": make_padded_layout(*rows, pad=0),
        "prefix": make_prefix_layout(*rows, pad=0),
    }
    if explain_no_tree(model) is None:
        layouts["tree"] = make_tree_layout(*rows)
    scores = {name: step(model, layout, upstream) for name, layout in layouts.items()}
    times: dict[str, list[float]] = {name: [] for name in layouts}
    for _ in range(repeats):
        for name, layout in layouts.items():
            start = time.perf_counter()
            step(model, layout, upstream)
            times[name].append(time.perf_counter() - start)
    seconds = {name: min(measured) for name, measured in times.items()}
    return {
        "shape": shape,
        "tokens": {name: layout.num_tokens for name, layout in layouts.items()},
        "seconds": {name: round(s, 4) for name, s in seconds.items()},
        "faster": {name: round(seconds["padded"] / s, 2) for name, s in seconds.items()},
        "difference": max(float((s - scores["padded"]).abs().max()) for s in scores.values()),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", choices=["qwen3_5", "gpt_oss", "llama"], nargs="*", default=["qwen3_5", "gpt_oss", "llama"]
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, fp32")
    print(
        "| model | P | C | G | padded tokens | fewer | padded s | prefix s | faster | tree s | faster | difference |\n"
        + "|---" * 12
        + "|"
    )
    found = []
    for name in options.model:
        model = make_model(name)
        for shape in SHAPES[: 1 if options.quick else None]:
            r = measure(model, shape, 2 if options.quick else options.repeats)
            found.append({"model": name} | r)
            tokens, seconds, faster = r["tokens"], r["seconds"], r["faster"]
            tree = f"{seconds['tree']:.3f} | {faster['tree']:.2f}x" if "tree" in seconds else "- | -"
            print(
                f"| {name} | {' | '.join(map(str, shape))} | {tokens['padded']:,} | "
                f"{tokens['padded'] / tokens['prefix']:.2f}x | {seconds['padded']:.3f} | {seconds['prefix']:.3f} | "
                f"{faster['prefix']:.2f}x | {tree} | {r['difference']:.0e} |",
                flush=True,
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
