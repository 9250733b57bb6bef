"""Several commands of ``lgrpo`` one after the other in the same processes, which saves starting them anew.

torchrun --nproc-per-node 2 -m tests.several '[["fit", "--config=..."], ["validate", "--config=..."]]'
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from lgrpo_lightning import cli


def torchrun(processes: int, module: str, *arguments: str) -> str:
    """Run a module in several processes, as on a cluster; what they printed."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone",
         "-m", module, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def commands(words: Sequence[Sequence[str]]) -> str:
    """Run commands of ``lgrpo`` in two processes; what they printed."""
    return torchrun(2, "tests.several", json.dumps([[str(w) for w in command] for command in words]))


def main(words: str) -> None:
    for command in json.loads(words):
        if status := cli.main(command):
            sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
