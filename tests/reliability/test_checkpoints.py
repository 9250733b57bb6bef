"""A damaged checkpoint is recognised, a full disk costs nothing that was there."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lgrpo_lightning.callbacks import LastCheckpoint
from lgrpo_lightning.checkpoints.checkpoint_check import explain_unreadable
from lgrpo_lightning.checkpoints.checkpoint_file import CheckpointFile
from lgrpo_lightning.checkpoints.checkpoint_io import AtomicCheckpointIO
from lgrpo_lightning.rollouts.whole_files import DiskFullError, explain_if_unwritable, whole_file
from tests.callbacks.stub import StubModule, fit, trainer
from tests.reliability.processes import RUN, Run, finished, finished_pair, same_run
from tests.runs import lgrpo

EVERY = LastCheckpoint
SHARDS = {
    "class_path": "lgrpo_lightning.distributed.fsdp2.FSDP2Strategy",
    "init_args": {"save_distributed_checkpoint": True},
}


def damage(path: Path, how: str) -> None:
    size = path.stat().st_size
    if how == "cut":
        os.truncate(path, size // 2)
    elif how == "end":
        os.truncate(path, size - 10)
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "zeros":
        path.write_bytes(bytes(size))
    else:
        path.write_text("not a checkpoint")


@pytest.mark.parametrize("how", ["cut", "end", "empty", "zeros", "text"])
def test_a_damaged_file_is_passed_over(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = fit(tmp_path / "whole", EVERY(every_n_rollouts=1))
    root = tmp_path / "run"
    fit(root, EVERY(every_n_rollouts=1), limit_train_batches=3, max_epochs=1)
    last = root / "checkpoints" / "last.ckpt"
    assert not explain_unreadable(last)
    damage(last, how)
    assert explain_unreadable(last)
    capsys.readouterr()
    resumed = fit(root, EVERY(every_n_rollouts=1), ckpt_path="last")
    said = capsys.readouterr().out
    assert "Passed over" in said
    assert "last.ckpt: it is" in said
    assert "resumes from" in said
    assert "last-previous.ckpt" in said
    assert resumed.seen[0] == 2
    assert torch.equal(resumed.weight, whole.weight)


def test_nothing_but_damaged_ones_is_an_error(tmp_path: Path) -> None:
    fit(tmp_path, EVERY(every_n_rollouts=10))
    damage(tmp_path / "checkpoints" / "last.ckpt", "cut")
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read: it is cut off.*no whole one beside it"):
        fit(tmp_path, ckpt_path="last")


def test_a_damaged_one_that_was_named_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, EVERY(every_n_rollouts=1))
    named = tmp_path / "checkpoints" / "last.ckpt"
    damage(named, "cut")
    with pytest.raises(ValueError, match=r"last-previous\.ckpt.*--ckpt_path last"):
        fit(tmp_path, ckpt_path=str(named))
    assert lgrpo("fit", tmp_path, ckpt_path=str(named)) == 2
    assert "cannot be read: it is cut off" in capsys.readouterr().err


def test_no_checkpoint_yet_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, ckpt_path="last")
    assert "--ckpt_path last: there is no checkpoint in" in capsys.readouterr().out


def test_the_checkpoints_of_users_are_atomic_too(tmp_path: Path) -> None:
    running = trainer(tmp_path, ModelCheckpoint(monitor=None))
    running.fit(StubModule())
    assert isinstance(running.strategy.checkpoint_io, AtomicCheckpointIO)
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)

    class Unpicklable:
        def __reduce__(self) -> Any:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        AtomicCheckpointIO().save_checkpoint({"a": Unpicklable()}, path)
    assert torch.load(path) == {"a": 1}
    assert not list(tmp_path.glob(".x*"))


# ------------------------------------------------------------------------------------------ replacing


def content(path: Path) -> int:
    return torch.load(path / "meta.pt" if path.is_dir() else path)["n"]


def folder(path: Path, n: int) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save({"w": torch.full((100,), float(n))}, checkpoint_id=path, no_dist=True)
    torch.save({"n": n}, path / "meta.pt")


def file(path: Path, n: int) -> None:
    torch.save({"n": n}, path)


def killed_after(steps: int, checkpoints: CheckpointFile) -> bool:
    """Publish in a process that is gone before step number ``steps`` on the disk; whether it was."""

    def counted(event: str, arguments: Any) -> None:
        nonlocal left
        if event in ("os.rename", "os.remove", "os.rmdir"):
            left -= 1
            if left < 0:
                os._exit(9)

    left = steps
    if (pid := os.fork()) == 0:
        sys.addaudithook(counted)
        checkpoints.publish()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


@pytest.mark.parametrize("make", [file, folder])
@pytest.mark.parametrize("keep", ["keep", "drop"])
def test_killed_before_any_step_of_replacing(make: Any, keep: str, tmp_path: Path) -> None:
    """Whatever the moment, the newest whole checkpoint is that before or the new one, and the next run clears up."""
    for steps in range(20):
        where = tmp_path / str(steps)
        where.mkdir()
        checkpoints = CheckpointFile(where)
        for n in (1, 2):
            make(checkpoints.partial, n)
            checkpoints.publish()
        make(checkpoints.partial, 3)
        killed = killed_after(steps, CheckpointFile(where, keep_previous=keep == "keep"))
        newest = checkpoints.find_newest()
        assert newest is not None
        assert content(newest) in (2, 3)
        before = content(newest)
        checkpoints.settle(newest)
        newest = checkpoints.find_newest()
        assert newest is not None
        assert content(newest) == before
        assert not list(where.glob(".*"))
        if not killed:
            assert before == 3
            return
    pytest.fail("replacing never ended")


@pytest.mark.parametrize("missing", [".metadata", "meta.pt", "shard", "half a shard", "half .metadata"])
def test_a_folder_that_is_not_whole(missing: str, tmp_path: Path) -> None:
    where = tmp_path / "x.ckpt"
    folder(where, 1)
    assert not explain_unreadable(where)
    (shard,) = where.glob("*.distcp")
    if missing.startswith("half"):
        path = shard if "shard" in missing else where / ".metadata"
        os.truncate(path, path.stat().st_size // 2)
    else:
        (shard if missing == "shard" else where / missing).unlink()
    assert explain_unreadable(where)


@pytest.mark.slow
def test_sharded_checkpoints_resume(tmp_path: Path) -> None:
    """Folders of shards: a damaged one is passed over, resuming is exact."""
    options = RUN | {"trainer__strategy": json.dumps(SHARDS)}
    whole = finished_pair(tmp_path / "whole", **options)
    root = finished_pair(tmp_path / "run", **options | {"trainer__max_steps": 6})
    assert (root / "checkpoints" / "last.ckpt").is_dir()
    (root / "checkpoints" / "last.ckpt" / ".metadata").unlink()
    finished_pair(root, log="2", ckpt_path="last", **options)
    a, b = (torch.load(r / "checkpoints" / "last.ckpt" / "meta.pt") for r in (whole, root))
    assert a["global_step"] == b["global_step"] == 8
    for r in range(2):
        name = f"__{r}_0.distcp"
        left, right = ((x / "checkpoints" / "last.ckpt" / name).read_bytes() for x in (whole, root))
        assert left == right


# ------------------------------------------------------------------------------------------ a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    where = tmp_path / "small"
    where.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(where)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip(f"needs the right to mount a tmpfs: {made.stderr.strip()}")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def fill(disk: Path, leave: int) -> None:
    """Leave so many bytes."""
    with (disk / "filling").open("wb") as out:
        out.write(bytes(max(shutil.disk_usage(disk).free - leave, 0)))


def test_no_room_for_a_checkpoint(small_disk: Path) -> None:
    fill(small_disk, 6 << 20)
    path = small_disk / "x.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"a": torch.zeros(600_000)}, path)
    with pytest.raises(DiskFullError, match=r"No room to write .*x\.ckpt: 3\.\d MiB are left.*default_root_dir"):
        io.save_checkpoint({"a": torch.zeros(2_000_000)}, path)
    assert io.load_checkpoint(path)["a"].shape == (600_000,)
    assert sorted(p.name for p in small_disk.iterdir()) == ["filling", "x.ckpt"]


def test_no_room_for_other_files(small_disk: Path) -> None:
    fill(small_disk, 8192)
    path = small_disk / "y.parquet"
    path.write_text("old")
    with pytest.raises(DiskFullError, match=r"y\.parquet"), whole_file(path) as hidden:
        hidden.write_bytes(bytes(100_000))
    assert path.read_text() == "old"
    with pytest.raises(DiskFullError, match="metrics"), explain_if_unwritable(small_disk / "metrics.csv"):
        (small_disk / "metrics.csv").write_bytes(bytes(100_000))
    with pytest.raises(OSError, match="something else") as error, explain_if_unwritable(path):
        raise OSError(errno.EIO, "something else")
    assert not isinstance(error.value, DiskFullError)


@pytest.mark.slow
def test_the_disk_runs_full_in_a_run(small_disk: Path, tmp_path: Path) -> None:
    """The run ends with status 2 and the reason; with room again it goes on exactly."""
    whole = finished(tmp_path / "whole", **RUN)
    root = small_disk / "run"
    size = (whole / "checkpoints" / "last.ckpt").stat().st_size
    finished(root, log="1", **RUN | {"trainer__max_steps": 4})
    fill(small_disk, size // 2)
    run = Run(root, log="2", ckpt_path="last", **RUN)
    assert run.ended() == 2
    assert "lgrpo: [Errno 28] No room to write" in run.said()
    assert "MiB are left" in run.said()
    (small_disk / "filling").unlink()
    finished(root, log="3", ckpt_path="last", **RUN)
    same_run(whole, root)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_put_in_place_of_an_older_one(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the two renames of a folder leaves the old one, whole, beside the new one."""
    from lgrpo_lightning.checkpoints import checkpoint_file

    def made(path: Path, text: str) -> Path:
        if kind == "file":
            path.write_text(text)
        else:
            path.mkdir()
            (path / "meta.pt").write_text(text)
        return path

    def text(path: Path) -> str:
        return (path if kind == "file" else path / "meta.pt").read_text()

    best, partial = made(tmp_path / "best.ckpt", "old"), made(tmp_path / ".best.ckpt.part", "new")
    if kind == "folder":
        monkeypatch.setattr(checkpoint_file.os, "replace", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            checkpoint_file.put_in_place(partial, best)
        monkeypatch.undo()
        assert text(tmp_path / "best-replaced.ckpt") == "old"
        assert text(partial) == "new"
    checkpoint_file.put_in_place(partial, best)
    assert text(best) == "new"
    assert [p.name for p in tmp_path.iterdir() if p.name != "best-replaced.ckpt"] == ["best.ckpt"]
