"""Which Ctrl-C is the second one."""

import os
import signal
import subprocess
import sys

import pytest

SCRIPT = """
import signal, time
from lightning.pytorch import Trainer
from lgrpo_lightning.distributed.stop_signals import StopSignals
from lgrpo_lightning.distributed.interruption import request_stop, read_stop_signal
signals = StopSignals(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False))
request_stop({first})
signals._note(signal.SIGINT, None)
signals._note(signal.SIGINT, None)  # the same Ctrl-C, once more
print("still here", flush=True)
time.sleep(0.4)
signals._note(signal.SIGINT, None)
print("never said", flush=True)
"""


@pytest.mark.long
def test_a_stop_that_another_process_passed_on_is_no_ctrl_c_of_this_one() -> None:
    """In a terminal every process gets the one Ctrl-C; a rank may have heard of it from another before."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(first=int(signal.SIGINT))],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert "still here" in done.stdout
    assert "never said" not in done.stdout
    assert "SIGINT again" in done.stderr
