"""A process that a component left something running in ends soon, says so, and keeps its status."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import atexit, os, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from lgrpo_lightning import cli
from lgrpo_lightning.distributed import leaving

leaving.GRACE = 0.5

def sleeps():
    time.sleep(600)

def starts():
    threading.Thread(target=sleeps, name="poller").start()
    ThreadPoolExecutor().submit(sleeps)
    get_context("fork").Process(target=sleeps, name="judge").start()

def ends():
    ThreadPoolExecutor().submit(int).result()
    threading.Thread(target=sleeps, daemon=True).start()

atexit.register(lambda: (time.sleep(1), print("uploaded", flush=True)))  # a logger's, which may take its time
print("begun")
globals()[sys.argv.pop(1)]()
sys.exit(cli.main())
"""


@pytest.mark.parametrize("what", ["starts", "ends"])
def test_what_is_left_is_named(what: str, tmp_path: Path) -> None:
    (file := tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, str(file), what, "nonsense"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2  # of a command that there is not
    assert done.stdout == "begun\nuploaded\n"
    refused, *left = done.stderr.splitlines()
    assert "no command 'nonsense'" in refused
    if what == "ends":
        assert not left
        return
    threads, process = left
    at = f"({file}, line 11)"
    assert f"Left 0.5 seconds after the end: thread 'poller' {at}, thread 'ThreadPoolExecutor-0_0' {at}." in threads
    assert "('judge'), which is killed" in process


ABANDONED = """
import time, torch
from lgrpo_lightning.distributed.worker_thread import call_with_limit

weights = torch.randn(64, 64)

def scores():
    until = time.monotonic() + 2
    while time.monotonic() < until:
        weights @ weights

try:
    call_with_limit(scores, timeout=0.2)
except TimeoutError:
    print("abandoned")
"""


@pytest.mark.long
def test_a_reward_that_took_too_long_does_not_abort_the_process_at_its_end() -> None:
    done = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "abandoned\n", "")
