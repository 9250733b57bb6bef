"""Whole optimizer steps: TRL's GRPOTrainer against this library, on the same work, alternating in one run.

    python tests/benchmarks/step_vs_trl.py [--prompt-length 256] [--completion-length 64] [--group-size 8] [--quick]

Each library runs in a process of its own and takes one step when it is its turn: sampling, rewards, forward,
backward, AdamW. Same model and weights (fp32), same prompts, same group size, every completion of full length, no
KL, no gradient checkpointing. Times are the least of the repeats, after one step to warm up; memory is the peak
resident size of the process. Last, one line of JSON; ``ratio`` is TRL's step time over ours.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing as mp
import os
import resource
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from shapes import MODELS, matrix_peak, model_folder, parser, prompt_texts, update_gigaflops


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Some number that differs within a group."""
    return [float(ids[-1] % 97) for ids in completion_ids]


def with_overlap(completions: list[list[int]], options: argparse.Namespace) -> list[list[int]]:
    """Completions whose first ``overlap`` share is that of their group's first one."""
    common = int(options.overlap * options.completion_length)
    firsts = (completions[i - i % options.group_size] for i in range(len(completions)))
    return [[*first[:common], *own[common:]] for first, own in zip(firsts, completions, strict=True)]


def shared(group: Any, options: argparse.Namespace) -> Any:
    """The same for a group of ours."""
    rows = with_overlap(group.sequences, options)
    rollouts = (replace(r, token_ids=tuple(ids)) for r, ids in zip(group.completions, rows, strict=True))
    return replace(group, completions=tuple(rollouts))


def loaded(folder: Path) -> Any:
    """The model in bf16."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


class Turns:
    """Waits for its turn before each step, and tells how long the step and its sampling took."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.sampling = 0.0
        self.started = 0.0

    def begin(self) -> None:
        """Wait."""
        self.pipe.recv()
        self.sampling, self.started = 0.0, time.perf_counter()

    def end(self) -> None:
        """Tell."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        step = time.perf_counter() - self.started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.pipe.send({"step": step, "sample": self.sampling, "train": step - self.sampling, "peak_mb": peak})


def run_trl(pipe: Connection, folder: Path, options: argparse.Namespace) -> None:
    """TRL's side."""
    _quiet()
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    turns = Turns(pipe)

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            completions, logprobs = super()._generate_single_turn(*args, **kwargs)
            turns.sampling += time.perf_counter() - start
            return with_overlap(completions, options), logprobs

    class Callback(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            turns.end()

    rows = options.prompts * options.group_size
    arguments = GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,
        num_generations=options.group_size,
        max_completion_length=options.completion_length,
        max_steps=options.repeats + 1,
        beta=0.0,
        learning_rate=1e-6,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=options.device == "cpu",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1000,
        generation_kwargs={"min_new_tokens": options.completion_length},
    )
    texts = prompt_texts(options.prompts * 64, options.prompt_length, options.vocabulary)
    Trainer(
        model=loaded(folder) if options.size else str(folder),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        callbacks=[Callback()],
    ).train()


def run_ours(pipe: Connection, folder: Path, options: argparse.Namespace) -> None:
    """This library's side."""
    _quiet()
    from lightning.pytorch import Callback, Trainer

    from lgrpo_lightning import GRPOModule, PromptDataModule, PromptSource, Sampling
    from lgrpo_lightning.policy import PolicyConfig
    from lgrpo_lightning.rewards import RewardFunction
    from lgrpo_lightning.samplers import TransformersSampler

    turns = Turns(pipe)

    class Timed(TransformersSampler):
        def sample(self, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            groups = super().sample(*args, **kwargs)
            turns.sampling += time.perf_counter() - start
            return [shared(group, options) for group in groups]

    class Texts(PromptSource):
        def rows(self) -> list[dict[str, str]]:
            texts = prompt_texts(options.prompts * 64, options.prompt_length, options.vocabulary)
            return [{"prompt": text} for text in texts]

    class Steps(Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            turns.begin()

        def on_train_batch_end(self, *args: Any) -> None:
            turns.end()

    module = GRPOModule(
        reward_model=RewardFunction(reward),
        policy=PolicyConfig(path=str(folder), dtype="bfloat16" if options.size else "float32"),
        sampler=Timed(),
        group_size=options.group_size,
        sampling=Sampling(max_new_tokens=options.completion_length),
    )
    trainer = Trainer(
        max_steps=options.repeats + 1,
        accelerator="cpu" if options.device == "cpu" else "gpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder / "ours",
        callbacks=[Steps()],
    )
    with open(os.devnull, "w") as nothing:
        sys.stdout = nothing
        trainer.fit(module, PromptDataModule(train=Texts(), prompts_per_step=options.prompts))


def _quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"


def main() -> None:
    """Alternate the two, print the table."""
    made = parser(__doc__)
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    made.add_argument("--size", choices=["0.5B", "1.5B"], help="Qwen2.5's shape, in bf16, in place of a small model")
    made.add_argument("--model", choices=list(MODELS), default="llama", help="shape of the small model")
    options = made.parse_args()
    options.repeats = min(options.repeats, 2) if options.quick else min(options.repeats, 3)
    context = mp.get_context("spawn")
    results: dict[str, list[dict[str, float]]] = {"TRL": [], "lgrpo": []}
    with tempfile.TemporaryDirectory() as name:
        folder = model_folder(Path(name), options.vocabulary, options.size, options.model)
        pipes, processes = {}, []
        for which, target in (("TRL", run_trl), ("lgrpo", run_ours)):
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=target, args=(theirs, folder, options), daemon=True))
            processes[-1].start()
            pipes[which] = ours
        for _ in range(options.repeats + 1):
            for which, pipe in pipes.items():
                pipe.send("go")
                results[which].append(pipe.recv())
        for process in processes:
            process.join()  # they write into the folder until they end
    report(options, results)


def report(options: argparse.Namespace, results: dict[str, list[dict[str, float]]]) -> None:
    """The table and the line of JSON."""
    from importlib.metadata import version

    import torch

    peak = matrix_peak()
    best = {w: {k: min(r[k] for r in rows[1:]) for k in rows[0]} for w, rows in results.items()}
    for which, rows in results.items():
        best[which]["peak_mb"] = max(r["peak_mb"] for r in rows)
    print(
        f"TRL {version('trl')} against lgrpo_lightning {version('lgrpo_lightning')}: {options.model}, "
        f"P {options.prompt_length}, C {options.completion_length}, G {options.group_size}, {options.prompts} prompts, "
        f"vocabulary {options.vocabulary:,}; {torch.get_num_threads()} threads, {peak:.0f} GFLOP/s, "
        f"{options.device}, {options.size + ', bf16' if options.size else 'fp32'}"
    )
    print("| | step s | sampling s | training s | peak MB |\n|---|---|---|---|---|")
    for which, b in best.items():
        print(f"| {which} | {b['step']:.2f} | {b['sample']:.2f} | {b['train']:.2f} | {b['peak_mb']:,.0f} |")
    ratios = {k: best["TRL"][k] / best["lgrpo"][k] for k in best["TRL"]}
    print(
        f"| ratio | {ratios['step']:.2f} | {ratios['sample']:.2f} | {ratios['train']:.2f} | {ratios['peak_mb']:.2f} |"
    )
    line: dict[str, Any] = {
        "benchmark": "step_vs_trl",
        "ratio": ratios["step"],
        "ratios": ratios,
        "raw": results,
    }
    if options.device == "cpu" and options.model != "qwen3_5":
        floor = update_gigaflops(options) / peak
        line |= {"gflops_peak": peak, "floor_s": floor, "of_floor": floor / best["lgrpo"]["train"]}
        print(
            f"At {peak:.0f} GFLOP/s the update's matrix products need {floor:.2f} s: {line['of_floor']:.0%} of lgrpo's "
            f"training time, {floor / best['TRL']['train']:.0%} of TRL's."
        )
    print(json.dumps(line))


if __name__ == "__main__":
    main()
