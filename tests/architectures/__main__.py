"""Tries every causal language model of the installed transformers, tiny, and writes docs/models.md.

    python -m tests.architectures [MODEL_TYPE ...] [--jobs 2] [--seconds 120] [--out docs/models.md]

Each in a process of its own, which is stopped after ``--seconds``. With model types only those are tried, and what
came out is printed. Run where vLLM is installed it also says which of them vLLM has.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning  # noqa: F401  imported once, before the processes are forked
import peft  # noqa: F401

from tests.architectures.page import Result, page
from tests.architectures.trial import COLUMNS, NOT_TRIED, try_all

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def model_types() -> list[str]:
    """Every model type that has a causal language model, and those that have one in a model of images or sound."""
    from transformers.models.auto import modeling_auto

    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return sorted({*causal, *modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES})


def tried(model_type: str, seconds: float) -> Result:
    """What came of ``model_type``: an answer a column."""
    if model_type in NOT_TRIED:
        return {"made": NOT_TRIED[model_type]}
    with TemporaryDirectory() as folder:
        out = Path(folder, "answers.jsonl")
        process = multiprocessing.get_context("fork").Process(
            target=_quietly, args=(model_type, Path(folder, "model"), out)
        )
        process.start()
        process.join(seconds)
        stopped = process.is_alive()
        process.kill()
        process.join()
        lines = out.read_text().splitlines() if out.exists() else []
    answers = {line["column"]: line["answer"] for line in map(json.loads, lines)}
    if stopped:
        pending = next(c for c in ("made", *COLUMNS) if c not in answers and (c != "made" or not answers))
        answers[pending] = f"no: not done in {seconds:g} s"
    return answers


def _quietly(model_type: str, folder: Path, out: Path) -> None:
    """Without the bars and reports of transformers."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    try_all(model_type, folder, out)


def main() -> None:
    """Try what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", metavar="MODEL_TYPE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    names = options.only or model_types()
    found: dict[str, Result] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for name, result in zip(names, pool.map(lambda n: tried(n, options.seconds), names), strict=True):
            found[name] = result
            print(name, json.dumps(result), file=sys.stderr, flush=True)
    if not options.only:
        options.out.write_text(page(found))


if __name__ == "__main__":
    main()
