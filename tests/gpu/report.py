"""The tables of docs/results/gpu.md from what ``tests.gpu.measure`` left.

    python -m tests.gpu.report gpu-results [more folders]

Prints them; where a step was measured more than once, the last folder's results stand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def results(folders: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Step → its lines."""
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "measure.jsonl").read_text().splitlines()]
        found |= {step: [x for x in lines if x["step"] == step] for step in {x["step"] for x in lines}}
    return found


def table(heads: list[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table of Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def sections(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The tables that there are results for, each under its heading."""
    made = []
    if peaks := {k: v for line in found.get("peaks", []) for k, v in line.items()}:
        named = ("name", "gib", "cuda", "python", "torch", "transformers", "bf16_tflops", "copy_gb_s")
        made.append("## The device\n\n" + table(["what", "value"], ((n, peaks[n]) for n in named if n in peaks)))
    if trees := [x for x in found.get("trees", []) if "architecture" in x]:
        heads = ["architecture", "dtype", "log-probs differ by", "gradients differ by", "kernels so far"]
        rows = (
            (x["architecture"], x["dtype"], f"{x['largest_difference']:.1e}",
             f"{x['gradient_difference']:.1e}", x["kernels"])
            for x in trees
        )  # fmt: skip
        made.append("## Trees against padded rows: numbers\n\n" + table(heads, rows))
    if layouts := [x for n, lines in found.items() if n.startswith("layouts") for x in lines if "P" in x]:
        made.append("## Trees against padded rows: speed\n\n" + layout_table(layouts))
    if drawn := [x for x in found.get("sampling", []) if "rows" in x]:
        heads = ["model", "compiled", "rows", "P", "C", "seconds", "tokens/s", "ms a token"]
        keys = ("rows", "P", "C", "seconds", "tokens_per_s", "ms_per_token")
        lines = ([x["model"], "yes" if x.get("compile") else "no", *(x[k] for k in keys)] for x in drawn)
        made.append("## Sampling\n\n" + table(heads, lines))
    if profile := [x for x in found.get("profile", []) if "operation" in x]:
        rows = ((f"`{x['operation'][:70]}`", x["ms"], x["calls"], f"{x['share']:.0%}") for x in profile)
        made.append("## Where a step's time goes\n\n" + table(["operation", "ms", "calls", "share"], rows))
    return made + other(found)


def other(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The quickstart, TRL, pytest, and what did not end well."""
    made = []
    if quick := [x for x in found.get("quickstart", []) if "seconds" in x]:
        rising = " → ".join(map(str, quick[0]["avg@k"]))
        made.append(f"## The quickstart\n\n{quick[0]['seconds']} s; avg@k {rising}.")
    if trl := [x for x in found.get("step_vs_trl", []) if "ratios" in x]:
        ratios = trl[0]["ratios"]
        made.append("## A step against TRL\n\n" + table(list(ratios), [[f"{v:.2f}" for v in ratios.values()]]))
    if tests := [x for x in found.get("pytest", []) if "summary" in x]:
        made.append("## Tests\n\n" + "\n".join([*tests[0]["summary"], *tests[0]["not_passed"]]))
    if bad := [(x["step"], x["error"]) for lines in found.values() for x in lines if "error" in x]:
        made.append("## What did not end\n\n" + "\n".join(f"- {s}: {e.splitlines()[-1]}" for s, e in bad))
    return made


def layout_table(layouts: list[dict[str, Any]]) -> str:
    """A row a model and shape."""
    heads = ["model", "layers", "P", "C", "G"]
    names = [name for name in ("padded", "tree", "prefix") if any(name in x for x in layouts)]
    for layout in names:
        heads += [f"{layout} {what}" for what in ("s", "host s", "MFU", "GiB")]
    rows = []
    for x in layouts:
        row = [x["model"], x.get("layers", "eager"), x["P"], x["C"], x["G"]]
        for layout in names:
            y = x.get(layout, {})
            row += [y.get(k, "") for k in ("seconds", "host_seconds", "mfu", "peak_gib")]
        rows.append([*row, f"{x.get('faster', '')}x"])
    return table([*heads, "padded s / tree s"], rows)


if __name__ == "__main__":
    print("\n\n".join(sections(results(map(Path, sys.argv[1:])))))
