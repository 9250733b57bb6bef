"""Forward and backward of one group: trees against padded rows, alternating in one process.

    python tests/benchmarks/padded_vs_tree.py                       the grid, and docs/results/padded_vs_tree.png
    python tests/benchmarks/padded_vs_tree.py --prompt-length 256   one shape
    python tests/benchmarks/padded_vs_tree.py --quick

A row tells the shape (prompt P, completion C, group G, share of the completion that is common), the tokens padded
rows and trees compute and their ratio (the most that linear layers can save), the measured times (the least of the
repeats) and their ratio, and what ``policy.layout: auto`` would take. Last, one line of JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from shapes import llama_config, matrix_peak, parser

from lgrpo_lightning.functional import chunked_logprobs
from lgrpo_lightning.policy.attention import register_tree_attention
from lgrpo_lightning.policy.choice import choose_layout
from lgrpo_lightning.policy.layout import Layout, make_padded_layout
from lgrpo_lightning.policy.tree_layout import make_tree_layout

GRID = [
    (16, 128, 8, 0.0),
    (64, 64, 8, 0.0),
    (256, 64, 8, 0.0),
    (1024, 64, 8, 0.0),
    (256, 256, 8, 0.5),
    (64, 128, 16, 0.8),
]
PLOT = Path(__file__).parent.parent.parent / "docs" / "results" / "padded_vs_tree.png"


def step(model: Any, layout: Layout, upstream: torch.Tensor) -> torch.Tensor:
    """Forward and backward of the log-probs under a random loss; the log-probs."""
    chosen = layout.run(model)[0].index_select(0, layout.predictors)
    logprobs = layout.spread(chunked_logprobs(chosen, layout.targets, model.lm_head, chunk=8192)[0])
    model.zero_grad(set_to_none=True)
    (logprobs * upstream).sum().backward()
    return logprobs.detach()


def seconds(work: Callable[[], Any]) -> float:
    """How long ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(model: Any, shape: tuple[int, int, int, float], repeats: int) -> dict[str, Any]:
    """Both layouts at one shape, alternating."""
    prompt_length, length, group, overlap = shape
    rng = random.Random(0)
    draw = lambda n: [rng.randrange(2, model.config.vocab_size) for _ in range(n)]  # noqa: E731
    prompt, common = draw(prompt_length), draw(int(overlap * length))
    rows = [prompt] * group, [common + draw(length - len(common)) for _ in range(group)]
    upstream = torch.randn(group, length)
    difference = (
        (step(model, make_padded_layout(*rows, pad=0), upstream) - step(model, make_tree_layout(*rows), upstream))
        .abs()
        .max()
    )
    times: dict[str, list[float]] = {"padded": [], "tree": []}
    for _ in range(repeats):
        times["padded"].append(seconds(lambda: step(model, make_padded_layout(*rows, pad=0), upstream)))
        times["tree"].append(seconds(lambda: step(model, make_tree_layout(*rows), upstream)))
    padded, tree = min(times["padded"]), min(times["tree"])
    taken = choose_layout(model, "auto", *rows, unsupported={"prefix": "it is measured elsewhere"})
    return {
        "shape": shape,
        "tokens": [taken.padded, make_tree_layout(*rows).num_tokens],
        "theoretical": taken.padded / make_tree_layout(*rows).num_tokens,
        "padded_s": padded,
        "tree_s": tree,
        "ratio": padded / tree,
        "auto": taken.layout,
        "auto_ratio": padded / tree if taken.layout == "tree" else 1.0,
        "difference": float(difference),
    }


def plot(rows: list[dict[str, Any]]) -> None:
    """Measured against theoretical saving."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 4.2))
    most = max(r["theoretical"] for r in rows) * 1.15
    axes.plot([1, most], [1, most], color="0.7", linewidth=1, label="as many times fewer tokens")
    axes.axhline(1, color="0.85", linewidth=1)
    for r in rows:
        axes.plot(r["theoretical"], r["ratio"], "o", color="tab:blue")
        p, c, g, o = r["shape"]
        text = f"P {p}, C {c}, G {g}" + (f", {o:.0%} common" if o else "")
        axes.annotate(
            text,
            (r["theoretical"], r["ratio"]),
            xytext=(-8, 6) if o else (6, -12),
            ha="right" if o else "left",
            textcoords="offset points",
            fontsize=7,
        )
    axes.set(
        xlabel="padded tokens / tree tokens",
        ylabel="padded time / tree time",
        xlim=(0.9, most + 1),
        ylim=(0, None),
    )
    axes.set_title("Forward and backward, trees against padded rows", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=130)


def main() -> None:
    """Measure, print, draw."""
    options = parser(__doc__, vocabulary=8000).parse_args()
    one = any(a.startswith(("--prompt-length", "--completion-length", "--overlap", "--group-size")) for a in sys.argv)
    shapes = [(options.prompt_length, options.completion_length, options.group_size, options.overlap)] if one else GRID
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    implementation = register_tree_attention("sdpa")
    model = LlamaForCausalLM._from_config(llama_config(options.vocabulary), attn_implementation=implementation)
    peak = matrix_peak()
    print(f"{torch.get_num_threads()} threads, {peak:.0f} GFLOP/s in a matrix product, torch {torch.__version__}, fp32")
    print(
        "| P | C | G | common | padded tokens | tree tokens | fewer | padded s | tree s | faster | auto |\n"
        + "|---" * 11
        + "|"
    )
    rows = []
    for shape in shapes:
        r = measure(model, shape, 3 if options.quick else options.repeats)
        rows.append(r)
        p, c, g, o = shape
        a, b = r["tokens"]
        print(
            f"| {p} | {c} | {g} | {o:.0%} | {a:,} | {b:,} | {r['theoretical']:.2f}x | {r['padded_s']:.3f} | "
            f"{r['tree_s']:.3f} | {r['ratio']:.2f}x | {r['auto']} |",
            flush=True,
        )
    if not one and not options.quick:
        plot(rows)
    print(json.dumps({"benchmark": "padded_vs_tree", "ratio": rows[0]["ratio"], "matmul_gflops": peak, "rows": rows}))


if __name__ == "__main__":
    main()
