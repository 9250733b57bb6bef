"""Every YAML block of README and docs builds, every ``lgrpo`` line parses, the packages they show install."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from tests.docs.markdown import PAGES, ROOT, Block, blocks

OWN = [page for page in PAGES if not page.is_relative_to(ROOT / "plugins")]
"""The library's own pages; a plug-in's page is tested with the plug-in."""

YAML = [block for page in OWN for block in blocks(page, "yaml")]
SHELL = [block for page in OWN for block in blocks(page, "bash")]
PACKAGES = [ROOT / "plugins" / "lgrpo-length-reward"]
TOP = {"seed_everything", "trainer", "model", "data", "ckpt_path"}


def lines(block: Block) -> list[str]:
    """The commands of a block, those that go on over several lines joined."""
    joined = block.text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in joined if line.strip() and not line.startswith("#")]


def words(line: str) -> list[str] | None:
    """The words after ``lgrpo`` in a line, also behind ``&&``."""
    _, found, rest = f" {line}".rpartition(" lgrpo ")
    return shlex.split(rest, comments=True) if found else None


QUICK = ("README.md", "docs/start.md", "docs/plugins.md")
"""Pages whose blocks and commands are tried always; continuous integration tries all."""


def marks(block: Block) -> list[pytest.MarkDecorator]:
    """``slow``, but for some pages, which are ``long``."""
    return [pytest.mark.long if str(block.page.relative_to(ROOT)) in QUICK else pytest.mark.slow]


COMMANDS = [
    pytest.param(block.id, argv, id=f"{block.id} {' '.join(argv)}", marks=marks(block))
    for block in SHELL
    for line in lines(block)
    if (argv := words(line))
]


def installed(site: Path, work: Path) -> None:
    """Install the plug-ins that README and docs show, and the template, into ``site``."""
    sources = list(PACKAGES)
    for page in OWN:
        files = [b for b in blocks(page) if b.title and b.title != "generate.py"]  # a script, of no package
        if any(b.title == "pyproject.toml" for b in files):
            folder = work / f"package-{page.stem}"
            folder.mkdir()
            for block in files:
                (folder / str(block.title)).write_text(block.text)
            sources.append(folder)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", str(site)]
    unbuilt = shutil.ignore_patterns("build", "*.egg-info")
    copies = [shutil.copytree(source, work / "copies" / source.name, ignore=unbuilt) for source in sources]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *map(str, copies)], check=True)


def workplace(page: Path, work: Path) -> Path:
    """A folder as a reader of ``page`` has it: configurations, the quickstart's run, the page's files."""
    folder = work / f"page-{page.parent.name}-{page.stem}"
    if not folder.exists():
        (folder / "runs" / "quickstart").mkdir(parents=True)
        (folder / "configs").symlink_to(ROOT / "configs")
        (folder / "run.yaml").symlink_to(ROOT / "configs" / "quickstart_vllm.yaml")
        (folder / "lgrpo-brevity").mkdir()
        (folder / "lgrpo-brevity" / "example.yaml").symlink_to(ROOT / "configs" / "quickstart.yaml")
        for made in ("abstention_model", "calculator_model"):
            (folder / "runs" / made).symlink_to(ROOT / "lgrpo_lightning" / "policy" / "assets" / "arithmetic")
        (folder / "runs" / "quickstart" / "config.yaml").symlink_to(ROOT / "configs" / "quickstart.yaml")
        for block in blocks(page, "python"):
            if block.title:
                (folder / block.title).write_text(block.text)
    return folder


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that names no reward with one, as every run needs one."""
    return {**config, "model": {"reward_model": "ExactMatch", **config.get("model", {})}}


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of the blocks and commands asked for; tried once, also where several processes run the tests."""
    asked = {
        item.callspec.id for item in request.session.items if item.path == Path(__file__) and hasattr(item, "callspec")
    }
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "outcomes.json"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            shared.write_text(json.dumps(tried(asked, tmp_path_factory.mktemp("commands"))))
    found: dict[str, str] = json.loads(shared.read_text())
    return found


def tried(asked: set[str], work: Path) -> dict[str, str]:
    """What became of blocks and commands, all tried in one process with the plug-ins installed."""
    installed(work / "site", work)
    tasks: list[dict[str, Any]] = []
    for block in YAML:
        folder = workplace(block.page, work)
        path = folder / f"block-{block.line}.yaml"
        path.write_text(yaml.safe_dump(completed(yaml.safe_load(block.text))))
        tasks.append({"id": block.id, "folder": str(folder), "config": str(path)})
    for command in COMMANDS:
        where, argv = command.values
        page = next(p for p in OWN if str(where).startswith(f"{p.relative_to(ROOT)}:"))
        tasks.append({"id": str(command.id), "folder": str(workplace(page, work)), "argv": argv})
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(work / "site"), str(ROOT)]),
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.docs.parse_commands"],
        input=json.dumps([task for task in tasks if task["id"] in asked]),
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, str] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("block", [pytest.param(b, id=b.id, marks=marks(b)) for b in YAML])
def test_the_configuration_builds(block: Block, outcomes: dict[str, str]) -> None:
    assert set(yaml.safe_load(block.text)) <= TOP
    assert outcomes[block.id] == ""


@pytest.mark.parametrize(("where", "argv"), COMMANDS)
def test_the_command_parses(
    where: str, argv: list[str], outcomes: dict[str, str], request: pytest.FixtureRequest
) -> None:
    assert outcomes[request.node.callspec.id] == ""


def test_the_other_commands_are_known_ones() -> None:
    """No command in the docs that nobody tries."""
    known = r"(TORCH_\w+=1 )?(pip|python|torchrun|pytest|ruff|mypy|lint-imports|pre-commit|mkdocs)\b"
    for block in SHELL:
        for line in lines(block):
            assert words(line) or re.match(known, line), f"{block.id}: {line}"


def test_the_readmes_two_commands_stand_alone() -> None:
    """Continuous integration takes them from there."""
    first, second = (block.text.strip() for block in SHELL if block.page.name == "README.md")
    assert first == "pip install -e . && lgrpo fit --config configs/quickstart.yaml"
    assert second == 'pip install -e ".[test]" && pytest -n 2'
