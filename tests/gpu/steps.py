"""The steps of ``tests.gpu.measure``: each a function of (device, tiny) that yields results as dicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch

from tests.gpu.models import Clock, config, peak_memory, policy, rows

Result = dict[str, Any]
ROOT = Path(__file__).parent.parent.parent
SHAPES = [(512, 512, 8), (2048, 512, 8), (1024, 2048, 16)]


def peaks(device: str, tiny: bool) -> Iterator[Result]:
    """Versions, the device, and what a matrix product and a copy reach on it."""
    found: Result = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "lightning", "triton", "peft", "trl", "vllm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if device == "cuda":
        at = torch.cuda.get_device_properties(0)
        found |= {"name": at.name, "gib": round(at.total_memory / 2**30, 1), "sms": at.multi_processor_count}
        found |= {"cuda": torch.version.cuda, "capability": f"{at.major}.{at.minor}"}
    yield found
    yield {"bf16_tflops": matrix_peak(device, tiny)}
    yield {"copy_gb_s": copy_peak(device, tiny)}


def matrix_peak(device: str, tiny: bool, dtype: torch.dtype = torch.bfloat16) -> float:
    """TFLOP/s of a large product of random matrices, the best of ten."""
    n = 256 if tiny else 8192
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    clock = Clock(device)
    best = 0.0
    for _ in range(10):
        start = clock.now()
        a @ b
        best = max(best, 2 * n**3 / (clock.now() - start) / 1e12)
    return round(best, 6)  # not 0 on a busy CPU


def copy_peak(device: str, tiny: bool) -> float:
    """GB/s of a copy on the device, read and written, the best of five."""
    a = torch.randn((2**20 if tiny else 2**29), device=device)
    b = torch.empty_like(a)
    clock = Clock(device)
    best = 0.0
    for _ in range(5):
        start = clock.now()
        b.copy_(a)
        best = max(best, 2 * a.numel() * 4 / (clock.now() - start) / 1e9)
    return round(best, 1)


def trees(device: str, tiny: bool) -> Iterator[Result]:
    """Trees against padded rows: values and gradients, four architectures, fp32 and bf16."""
    from lgrpo_lightning.policy import Policy, PolicyConfig
    from lgrpo_lightning.policy.flex_attention import COMPILED
    from tests.models import make_model
    from tests.policy.test_flex_attention import long_forest
    from tests.policy.test_tree import scored

    torch.backends.cuda.matmul.allow_tf32 = False
    with tempfile.TemporaryDirectory() as folder:
        for architecture in ("llama", "qwen2", "gemma3", "mistral"):
            path = make_model(architecture, Path(folder) / architecture, max_position_embeddings=1024)
            exact = None
            for dtype in ("float32", "bfloat16"):
                made = Policy(PolicyConfig(path=str(path), dtype=dtype)).to(device)
                given = long_forest(7)
                torch.manual_seed(0)
                upstream = torch.randn(len(given[0]), max(map(len, given[1])), device=device)
                padded, tree = (scored(made, given, layout, upstream) for layout in ("padded", "tree"))
                exact = padded if exact is None else exact
                yield {
                    "architecture": architecture,
                    "dtype": dtype,
                    "largest_difference": float((tree[0] - padded[0]).abs().max()),
                    "gradient_difference": relative(tree[1], padded[1]),
                    "tree_against_fp32": relative(tree[1], exact[1]),
                    "padded_against_fp32": relative(padded[1], exact[1]),
                    "kernels": len(COMPILED),
                }


def relative(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Norm of the difference over the norm."""
    wrong = sum(float((a.float() - b.float()).square().sum()) for a, b in zip(found, expected, strict=True))
    return float((wrong / sum(float(b.float().square().sum()) for b in expected)) ** 0.5)


def quickstart(device: str, tiny: bool) -> Iterator[Result]:
    """The quickstart whole."""
    import pandas

    with tempfile.TemporaryDirectory() as folder:
        flags = ["--trainer.max_steps=3", "--data.validation.init_args.count=4"] if tiny else []
        clock = Clock(device)
        start = clock.now()
        command(
            "lgrpo_lightning.cli", "fit", f"--config={ROOT / 'configs' / 'quickstart.yaml'}",
            f"--trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}",
            f"--trainer.default_root_dir={folder}", *flags,
        )  # fmt: skip
        seconds = clock.now() - start
        table = pandas.read_csv(Path(folder) / "metrics.csv")
    checked = table["val/avg@k"].dropna().tolist()
    times = {name: float(table[name].mean()) for name in table.columns if name.startswith("time/")}
    yield {"seconds": round(seconds, 1), "avg@k": [round(x, 3) for x in checked], "times": times}


def command(*words: str) -> str:
    """Run a module; what it printed. Its last words are the error where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=False, cwd=ROOT
    )  # fmt: skip
    print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


def layouts(device: str, tiny: bool, size: str) -> Iterator[Result]:
    """Forward and backward of one group: padded rows, trees, and the prompt once; layers compiled or not."""
    from lgrpo_lightning.policy.compiled_layers import compile_layers, restore_layers
    from lgrpo_lightning.policy.flex_attention import COMPILED

    if tiny:
        torch.compiler.set_default_backend("eager")  # a CPU takes minutes to generate code
    made = policy(size, device, layout="padded", micro_batch_tokens=16384)
    best = matrix_peak(device, tiny)
    kinds = {"eager": restore_layers, "compiled": compile_layers}
    for shape, layers in product([(32, 16, 4)] if tiny else SHAPES, kinds):
        prompt, completion, group = shape
        kinds[layers](made.model)
        given = rows(1, *shape, config(size).vocab_size)
        found: Result = {"model": size, "layers": layers, "P": prompt, "C": completion, "G": group, "peak_tflops": best}
        for layout in ("padded", "tree", "prefix"):
            made.config = replace(made.config, layout=layout)
            made.choose_layout(*given)
            memory: Result = {}
            try:
                with peak_memory(memory, device):
                    first, _ = passes(made, given, device)
                    seconds, host = min(passes(made, given, device) for _ in range(1 if tiny else 3))
            except RuntimeError as error:  # no memory, or no graph
                found[layout] = {"error": str(error)[:200]}
                continue
            tokens = (prompt + completion) * group if layout == "padded" else prompt + completion * group
            work = flops(size, tokens, completion * group, pairs(layout, prompt, completion, group))
            found[layout] = memory | {
                "first_seconds": round(first, 2),
                "seconds": round(seconds, 4),
                "host_seconds": round(host, 4),
                "layout_seconds": round(laid_out(layout, given, device), 4),
                "tokens": tokens,
                "passes": len(made.divide_rows(*given)),
                "completion_tokens_per_s": round(completion * group / seconds),
                "mfu": round(work / seconds / 1e12 / best, 3),
            }
        if "seconds" in found["padded"] and "seconds" in found["tree"]:
            found["faster"] = round(found["padded"]["seconds"] / found["tree"]["seconds"], 2)
        found["kernels"] = len(COMPILED)
        yield found


def laid_out(layout: str, given: Any, device: str) -> float:
    """Seconds that making the index tensors of one pass takes."""
    from lgrpo_lightning.policy.layout import make_padded_layout
    from lgrpo_lightning.policy.prefix_layout import make_prefix_layout
    from lgrpo_lightning.policy.tree_layout import make_tree_layout

    clock = Clock(device)
    start = clock.now()
    if layout == "tree":
        make_tree_layout(*given, device=device)
    else:
        (make_prefix_layout if layout == "prefix" else make_padded_layout)(*given, pad=0, device=device)
    return clock.now() - start


def passes(made: Any, given: Any, device: str) -> tuple[float, float]:
    """Seconds of forward and backward over all packs: all, and until the host had launched it."""
    prompts, completions = given
    clock = Clock(device)
    start = clock.now()
    for pack in made.divide_rows(prompts, completions):
        scores = made([prompts[i] for i in pack], [completions[i] for i in pack])
        scores.logprobs.sum().backward()
    host = time.perf_counter() - start
    seconds = clock.now() - start
    made.zero_grad()
    return seconds, host


def pairs(layout: str, prompt: int, completion: int, group: int) -> float:
    """Queries times keys that are read, causally."""
    if layout == "padded":
        return group * (prompt + completion) ** 2 / 2
    return prompt**2 / 2 + group * (completion * prompt + completion**2 / 2)


def flops(size: str, tokens: int, scored: int, read: float) -> float:
    """Operations of forward and backward without what is recomputed: 6 a parameter and token, 12 a pair and width."""
    c = config(size)
    head_dim = c.hidden_size // c.num_attention_heads
    projections = c.hidden_size * (2 * c.hidden_size + 2 * c.num_key_value_heads * head_dim)
    body = c.num_hidden_layers * (projections + 3 * c.hidden_size * c.intermediate_size)
    attention = 12 * c.num_hidden_layers * c.hidden_size * read
    return float(6 * body * tokens + 6 * c.hidden_size * c.vocab_size * scored + attention)


def sampling(device: str, tiny: bool) -> Iterator[Result]:
    """Tokens a second of the decode loop."""
    from lgrpo_lightning.functional.sampling import Sampling
    from lgrpo_lightning.samplers.compiled import CompiledDecoding
    from lgrpo_lightning.samplers.decoding import Decoding, Request

    size = "tiny" if tiny else "0.5B"
    made = policy(size, device)
    shapes = [(1, 4)] if tiny else [(8, 8), (32, 8)]
    for (count, group), kind in [(shape, kind) for kind in (Decoding, CompiledDecoding) for shape in shapes]:
        prompt, limit = (8, 8) if tiny else (512, 128)
        given, _ = rows(count, prompt, 1, 1, config(size).vocab_size)
        requests = [Request(prompt=i // group, key=i) for i in range(count * group)]
        best, memory = float("inf"), {}
        with made.generation_model() as causal, peak_memory(memory, device):
            for _ in range(1 if tiny else 2):
                clock = Clock(device)
                start = clock.now()
                kind(causal, None, (), Sampling(max_new_tokens=limit)).run(given, requests)
                best = min(best, clock.now() - start)
        yield memory | {
            "model": size, "compile": kind is CompiledDecoding,
            "rows": count * group, "P": prompt, "C": limit, "seconds": round(best, 3),
            "tokens_per_s": round(count * group * limit / best), "ms_per_token": round(1000 * best / limit, 2),
        }  # fmt: skip


def step_vs_trl(device: str, tiny: bool) -> Iterator[Result]:
    """Whole steps against TRL's."""
    if find_spec("trl") is None:
        yield {"skipped": "TRL is not installed"}
        return
    shape = [
        "--prompt-length=16",
        "--completion-length=8",
        "--group-size=2",
        "--prompts=1",
        "--vocabulary=200",
    ]
    if not tiny:
        shape = ["--prompt-length=256", "--completion-length=64", "--group-size=8", "--prompts=2"]
        shape += ["--size=0.5B", "--vocabulary=151936"]
    out = command("tests.benchmarks.step_vs_trl", *shape, "--quick", f"--device={device}")
    yield json.loads(out.strip().splitlines()[-1])


def profile(device: str, tiny: bool) -> Iterator[Result]:
    """The operations that take most of a forward and backward pass over trees."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    size = "tiny" if tiny else "0.5B"
    made = policy(size, device, layout="tree")
    given = rows(1, *((16, 8, 2) if tiny else (2048, 512, 8)), config(size).vocab_size)
    made.choose_layout(*given)
    passes(made, given, device)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profiled(activities=kinds) as seen:
        passes(made, given, device)
    events = seen.key_averages()
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    total = sum(getattr(e, own) for e in events)
    for e in sorted(events, key=lambda e: -getattr(e, own))[:15]:
        yield {"operation": e.key[:120], "ms": round(getattr(e, own) / 1000, 2), "calls": e.count,
               "share": round(getattr(e, own) / max(total, 1), 3)}  # fmt: skip


def pytest_files(device: str, tiny: bool) -> Iterator[Result]:
    """The files of ``tests/gpu``."""
    on_cpu = {"LGRPO_GPU_TESTS_ON": "cpu"} if device == "cpu" else {}
    only = ["-k", "log_probs_are_those or llama"] if tiny else []
    words = ["-p", "no:cacheprovider", "-m", "gpu", "-v", "-rA", "--tb=short", "tests/gpu", *only]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=ROOT, env=os.environ | on_cpu,
    )  # fmt: skip
    lines = []
    for line in process.stdout or ():  # at once, so that the log has it when time runs out
        print(line, end="", file=sys.stderr, flush=True)
        lines.append(line.rstrip())
    short = [x for x in lines if x.startswith(("FAILED", "ERROR", "SKIPPED"))]
    yield {"returncode": process.wait(), "summary": lines[-1:], "not_passed": short}


STEPS: dict[str, tuple[Callable[[str, bool], Iterator[Result]], int]] = {
    "peaks": (peaks, 30),
    "layouts_1.5B": (lambda device, tiny: layouts(device, tiny, "tiny" if tiny else "1.5B"), 150),
    "layouts_0.5B": (lambda device, tiny: layouts(device, tiny, "tiny" if tiny else "0.5B"), 120),
    "step_vs_trl": (step_vs_trl, 90),
    "sampling": (sampling, 60),
    "trees": (trees, 90),
    "profile": (profile, 45),
    "quickstart": (quickstart, 120),
    "pytest": (pytest_files, 240),
}
"""Name → (what to run, the most seconds it may take), the most important first: there may be no time for the last."""
