"""Sampling: this library's sampler against transformers' ``generate`` with ``num_return_sequences``, alternating.

    python tests/benchmarks/sampling_vs_generate.py [--quick]

Same model (fp32), prompts and group size. Three shapes: short prompt, long prompt, and completions that end at
different lengths (mean a quarter of the longest). Times are the least of the repeats. Last, one line of JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from shapes import llama_config, matrix_peak, parser

from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.samplers.decoding import Decoding, Request

EOS = 1


def end_early(model: Any, length: int) -> None:
    """Make every token the last one with a chance of 4 / ``length``: the head's row of the end is a constant."""

    def tilt(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        others = torch.cat([logits[..., :EOS], logits[..., EOS + 1 :]], -1).logsumexp(-1)
        chance = torch.tensor(4 / length)
        logits = logits.clone()
        logits[..., EOS] = others + (chance / (1 - chance)).log()
        return logits

    model.lm_head.register_forward_hook(tilt)


def main() -> None:
    """Measure, print."""
    options = parser(__doc__, vocabulary=8000).parse_args()
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(options.vocabulary)).eval()
    repeats = 2 if options.quick else options.repeats
    print(f"{torch.get_num_threads()} threads, {matrix_peak():.0f} GFLOP/s, vocabulary {options.vocabulary:,}, fp32")
    print("| P | C | G | prompts | lengths | generate s | lgrpo s | faster |\n|---|---|---|---|---|---|---|---|")
    results = []
    for prompt, length, varied in ((256, 64, False), (1024, 64, False), (256, 128, True)):
        if varied:
            end_early(model, length)
        best = measure(model, prompt, length, options, repeats)
        ratio = best["generate"] / best["lgrpo"]
        kind = "varied" if varied else "all full"
        print(
            f"| {prompt} | {length} | {options.group_size} | {options.prompts} | {kind} | {best['generate']:.2f} | "
            f"{best['lgrpo']:.2f} | {ratio:.2f}x |",
            flush=True,
        )
        results.append({"prompt": prompt, "completion": length, "varied": varied, "ratio": ratio, **best})
    print(json.dumps({"benchmark": "sampling_vs_generate", "ratio": results[0]["ratio"], "rows": results}))


@torch.no_grad()
def measure(model: Any, prompt: int, length: int, options: Any, repeats: int) -> dict[str, float]:
    """The least time of each."""
    rng = random.Random(0)
    prompts = [[rng.randrange(2, options.vocabulary) for _ in range(prompt)] for _ in range(options.prompts)]
    ids = torch.tensor(prompts)
    times: dict[str, list[float]] = {"generate": [], "lgrpo": []}
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_return_sequences=options.group_size,
            do_sample=True,
            top_k=0,
            max_new_tokens=length,
            pad_token_id=0,
            eos_token_id=EOS,
        )
        times["generate"].append(time.perf_counter() - start)
        start = time.perf_counter()
        requests = [
            Request(prompt=p, key=rng.getrandbits(62) + repeat)
            for p in range(options.prompts)
            for _ in range(options.group_size)
        ]
        Decoding(model, None, [EOS], Sampling(max_new_tokens=length)).run(prompts, requests)
        times["lgrpo"].append(time.perf_counter() - start)
    return {name: min(values[1:]) for name, values in times.items()}


if __name__ == "__main__":
    main()
