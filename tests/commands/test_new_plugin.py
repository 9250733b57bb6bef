"""``lgrpo new-plugin``: what it writes installs, passes its tests and trains; ``lgrpo plugins`` lists it at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lgrpo_lightning import cli
from lgrpo_lightning.commands.new_plugin import KINDS
from tests.docs.markdown import ROOT

NAMES = {kind: f"my-{kind}" for kind in KINDS}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of every kind, written."""
    out = tmp_path_factory.mktemp("written")
    for kind, name in NAMES.items():
        assert cli.main(["new-plugin", kind, name, f"--out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def site(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, installed."""
    site = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", str(site)]
    packages = [str(path) for path in written.iterdir()]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *packages], check=True)
    return site


def run(site: Path, cwd: Path, code: str) -> subprocess.CompletedProcess[str]:
    """A program in whose environment they are installed."""
    path = os.pathsep.join([str(site), str(ROOT)])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)


USED = """
from pathlib import Path
import pytest
from lgrpo_lightning import cli
assert cli.main(["plugins"]) == 0
print("LISTED")
for example in sorted(Path(".").glob("*/example.yaml")):
    words = example.read_text().splitlines()[0].removeprefix("# lgrpo ").split()
    assert cli.main([*words, f"--trainer.default_root_dir=runs/{example.parent.name}", "--trainer.max_steps=2"]) == 0
    print("TRAINED", example.parent.name)
raise SystemExit(pytest.main(["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "."]))
"""


@pytest.fixture(scope="module")
def used(written: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """A program that lists them, trains their examples and runs their tests."""
    return run(site, written, USED)


@pytest.mark.long
def test_its_example_trains(used: subprocess.CompletedProcess[str]) -> None:
    assert used.stdout.count("TRAINED") == len(KINDS), used.stdout + used.stderr


@pytest.mark.long
def test_its_tests_pass_at_once(used: subprocess.CompletedProcess[str]) -> None:
    assert used.returncode == 0, used.stdout + used.stderr
    assert f"{3 * len(KINDS)} passed" in used.stdout


def test_it_passes_the_linter(written: Path) -> None:
    pytest.importorskip("ruff")
    words = ["-m", "ruff", "check", "--line-length=120", "--isolated", str(written)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.long
def test_lgrpo_plugins_lists_them(used: subprocess.CompletedProcess[str]) -> None:
    said, found, _ = used.stdout.partition("LISTED")
    assert found
    for name in NAMES.values():
        assert "".join(part.capitalize() for part in name.split("-")) in said


@pytest.mark.long
def test_verbose_shows_who_brings_what_and_what_fails(site: Path, tmp_path: Path) -> None:
    module = site / "lgrpo_my_segmenter" / "__init__.py"
    text = module.read_text()
    module.write_text(text.replace("LGRPO_CONTRACT = 1", "LGRPO_CONTRACT = 99"))
    try:
        code = "from lgrpo_lightning.cli import main; print([main(['plugins']), main(['plugins', '--verbose'])])"
        done = run(site, tmp_path, code)
        assert done.stdout.endswith("[1, 1]\n"), done.stderr
        assert "was made for version 99 of the contracts; this lgrpo_lightning has version 1" in done.stderr
        assert "BROKEN: Plug-in package lgrpo-my-segmenter 0.1.0" in done.stdout
        assert "MyEstimator" in done.stdout
        assert "lgrpo_my_estimator" in done.stdout
    finally:
        module.write_text(text)


@pytest.mark.parametrize(
    ("name", "says"), [("7up", "it must be letters, digits and hyphens"), ("my-reward", "is there already")]
)
def test_refusals(name: str, says: str, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new-plugin", "reward", name, f"--out={written}"]) == 2
    assert says in capsys.readouterr().err
