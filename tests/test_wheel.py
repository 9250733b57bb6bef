"""Wheel and source archive hold every file of the package, and the wheel trains without a copy of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from lgrpo_lightning.registry.hookspecs import PROJECT
from lgrpo_lightning.registry.loading import DISABLE

ROOT = Path(__file__).parent.parent
PLUGINS = ",".join({e.dist.name for e in entry_points(group=PROJECT) if e.dist} - {PROJECT})
"""Plug-ins that are installed beside the tests: editable ones cannot be imported from the bare environment."""


def run(python: Path | str, *words: str, cwd: Path) -> str:
    """What a program prints that sees nothing of the repository."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {DISABLE: PLUGINS}
    done = subprocess.run([str(python), *words], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_the_wheel_trains_outside_of_the_repository(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    unbuilt = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lgrpo_lightning", source / "lgrpo_lightning", ignore=unbuilt)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = ("-m", "pip", "--disable-pip-version-check", "-q")
    run(sys.executable, *pip, "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("lgrpo_lightning/")}
    there = {str(path.relative_to(source)) for path in (source / "lgrpo_lightning").rglob("*") if path.is_file()}
    assert packed == there
    run(sys.executable, "-c", "from setuptools.build_meta import build_sdist; build_sdist('..')", cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        assert there <= {name.partition("/")[2] for name in opened.getnames()}

    run(sys.executable, "-m", "venv", "--without-pip", "bare", cwd=tmp_path)
    python = tmp_path / "bare" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # a path alone: no editable package
    run(sys.executable, *pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel), cwd=tmp_path)

    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(ROOT / "configs" / "quickstart.yaml", work)
    found = run(python, "-c", "import lgrpo_lightning; print(lgrpo_lightning.__file__)", cwd=work)
    assert Path(found.strip()).is_relative_to(site)
    small = ("--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--data.prompts_per_step=2")
    run(python, "-m", "lgrpo_lightning.cli", "fit", "--config=quickstart.yaml", *small, cwd=work)
    assert (work / "runs" / "quickstart" / "checkpoints" / "last.ckpt").exists()
    run(python, "-m", "lgrpo_lightning.cli", "init", "reward", cwd=work)
    assert (work / "my_reward.py").exists()
