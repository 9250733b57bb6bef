"""Everything that a GPU shows, in one go: a line of JSON a result, and no step able to stop the next.

    python -m tests.gpu.measure [--minutes 7] [--only trees,sampling] [--out gpu-results]
    python -m tests.gpu.measure --device cpu --tiny          shows that the script works, not that CUDA does
    python -m tests.gpu.report gpu-results                   the tables of docs/results/gpu.md

Each step runs in a process of its own with a time limit of its own; ``--minutes`` is that of all together. The folder
gets ``measure.jsonl`` and ``log.txt``, what the steps printed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.gpu.steps import ROOT, STEPS, Result

MARK = "@result "


def main() -> int:
    """Run the steps, or one of them where that is what is asked; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", default=",".join(STEPS), help="steps to take, divided by commas")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        for result in STEPS[options.step][0](options.device, options.tiny):
            print(MARK + json.dumps(result), flush=True)
        return 0
    return all_steps(options)


def all_steps(options: argparse.Namespace) -> int:
    """Take every step that time is left for; 1 where one failed."""
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    good = True
    with open(options.out / "measure.jsonl", "w") as results, open(options.out / "log.txt", "w") as log:
        for name in options.only.split(","):
            if options.tiny and name == "layouts_0.5B":  # tiny, it is the other one again
                continue
            left = end - time.monotonic()
            limit = min(STEPS[name][1] * (2 if options.tiny else 1), left)  # tiny, the machine may be busy
            for line in one_step(name, options, limit, log) if left > 5 else [skipped()]:
                good &= "error" not in line and not line.get("returncode")
                written = json.dumps({"step": name, **line})
                print(written, flush=True)
                print(written, file=results, flush=True)
    return 0 if good else 1


def skipped() -> Result:
    """The result of a step that no time was left for."""
    return {"error": "no time was left"}


def one_step(name: str, options: argparse.Namespace, limit: float, log: object) -> list[Result]:
    """What a step gave within ``limit`` seconds, and how it ended."""
    words = [sys.executable, "-m", "tests.gpu.measure", f"--step={name}", f"--device={options.device}"]
    started = time.monotonic()
    process = subprocess.Popen(
        [*words, *(["--tiny"] if options.tiny else [])], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=ROOT, start_new_session=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    late = False
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        late = True
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    print(f"===== {name}\n{out}\n{err}", file=log, flush=True)  # type: ignore[call-overload]
    found = [json.loads(x.removeprefix(MARK)) for x in out.splitlines() if x.startswith(MARK)]
    took = {"ended_after_s": round(time.monotonic() - started, 1)}
    if late:
        return [*found, took | {"error": f"more than {limit:.0f} s"}]
    if process.returncode:
        return [*found, took | {"error": err[-1500:]}]
    return [*found, took]


if __name__ == "__main__":
    sys.exit(main())
