"""Peak memory of forward and backward at 8,192 completion tokens: vocabulary 49,152 against 1,000.

    python tests/benchmarks/memory_vs_vocabulary.py

Each vocabulary runs in a process of its own. "Beyond" is the peak less the parameters, their gradients and AdamW's
state. Last, one line of JSON; ``ratio`` is the larger over the smaller, ``difference_mb`` their difference.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import random
import resource
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from shapes import model_folder


def peak(pipe: Connection, vocabulary: int) -> None:
    """One forward and backward pass and an optimizer step; the memory it took, in MB."""
    import torch

    from lgrpo_lightning.policy import Policy, PolicyConfig

    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        policy = Policy(PolicyConfig(path=str(model_folder(Path(folder), vocabulary)), logprob_chunk_mb=64))
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows = [[rng.randrange(2, vocabulary) for _ in range(512)] for _ in range(16)]
        policy([[5] * 16] * 16, rows).logprobs.sum().backward()
        optimizer.step()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    parameters = sum(p.numel() for p in policy.parameters()) * 4 / 2**20
    pipe.send(
        {
            "peak_mb": after,
            "start_mb": before,
            "parameters_mb": parameters,
            "beyond_mb": after - 4 * parameters,
        }
    )


def main() -> None:
    """Measure both, print."""
    context = mp.get_context("spawn")
    found = {}
    print("| vocabulary | parameters MB | peak MB | beyond parameters, gradients and AdamW MB |\n|---|---|---|---|")
    for vocabulary in (1000, 49152):
        ours, theirs = context.Pipe()
        process = context.Process(target=peak, args=(theirs, vocabulary))
        process.start()
        found[vocabulary] = ours.recv()
        process.join()
        m = found[vocabulary]
        print(
            f"| {vocabulary:,} | {m['parameters_mb']:.0f} | {m['peak_mb']:.0f} | {m['beyond_mb']:.0f} |",
            flush=True,
        )
    small, large = found[1000]["beyond_mb"], found[49152]["beyond_mb"]
    print(
        json.dumps(
            {
                "benchmark": "memory_vs_vocabulary",
                "ratio": large / small,
                "difference_mb": large - small,
                "raw": found,
            }
        )
    )


if __name__ == "__main__":
    main()
