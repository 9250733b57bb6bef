"""The Python code of README and docs runs.

The blocks of a page run one after the other, in one process and an empty folder; a block with a title is
written to that file first. Numbers that would take minutes are replaced: see ``SHORTER``.
"""

import doctest
import os
import runpy
import sys
from pathlib import Path

import pandas
import pytest

from tests.docs.markdown import PAGES, ROOT, blocks
from tests.runs import CONFIG, lgrpo, train_metrics
from tests.several import Fork

SHORTER = {"max_steps=150": "max_steps=2", "count=200": "count=4"}
"""What is replaced in the code of the docs so that it runs in seconds."""

WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_SESSIONS = [page for page in PAGES if blocks(page, "pycon")]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run_page(page: Path, folder: Path) -> tuple[int | None, str]:
    """Run the blocks of ``page`` in ``folder``: status and output; line numbers of errors are those of the page."""
    lines: list[str] = []
    for block in blocks(page, "python"):
        if block.title:
            (folder / block.title).write_text(block.text)
        else:
            lines += [""] * (block.line - len(lines)) + block.text.splitlines()
    script = "\n".join(lines) + "\n"
    for long, short in SHORTER.items():
        script = script.replace(long, short)
    (folder / f"{page.stem}_page.py").write_text(script)
    run = Fork(folder / "log", as_main, folder, f"{page.stem}_page.py")
    run.process.join(300)
    return run.status(), run.said()


def as_main(folder: Path, script: str) -> None:
    """Be ``python SCRIPT`` in ``folder``."""
    os.chdir(folder)
    sys.argv, sys.path[:0] = [script], [str(folder), str(ROOT)]
    runpy.run_path(script, run_name="__main__")


@pytest.mark.parametrize("page", [p for p in WITH_PYTHON if p.name != "README.md"], ids=name)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    status, said = run_page(page, tmp_path)
    assert status == 0, said


@pytest.mark.parametrize("page", WITH_SESSIONS, ids=name)
def test_sessions_print_what_they_show(page: Path) -> None:
    code = "".join(block.text for block in blocks(page, "pycon"))
    test = doctest.DocTestParser().get_doctest(code, {}, name(page), name(page), 0)
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.attempted > 5
    assert not result.failed, "".join(report)


@pytest.mark.long
def test_the_readmes_python_is_the_same_run_as_the_quickstart(tmp_path: Path) -> None:
    status, said = run_page(ROOT / "README.md", tmp_path)
    assert status == 0, said
    kept = "data__prompts_per_step data__train__init_args__count model__group_size model__validation__k "
    kept += "model__sampling__max_new_tokens model__schedule__warmup_steps"
    unchanged = dict.fromkeys(kept.split())
    root = tmp_path / "yaml"
    assert lgrpo("fit", root, trainer__max_steps=2, trainer__val_check_interval=50, **unchanged) == 0
    yaml, python = train_metrics(root), train_metrics(tmp_path / "runs" / "python")
    names = ["reward", "loss", "grad_norm", "entropy", "learning_rate", "completions/mean_length"]
    pandas.testing.assert_frame_equal(yaml[names], python[names], rtol=1e-4)


@pytest.mark.parametrize("page", ["README.md", "docs/configuration.md"])
def test_an_exported_model_generates(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``generate.py`` of the page, beside the folder that ``lgrpo export`` has written."""
    from lgrpo_lightning.policy import Policy, PolicyConfig
    from lgrpo_lightning.policy.export import export
    from lgrpo_lightning.policy.loading import load_tokenizer

    config = PolicyConfig()
    export(Policy(config), load_tokenizer(config), tmp_path / "exported")
    (block,) = (block for block in blocks(ROOT / page, "python") if block.title == "generate.py")
    monkeypatch.chdir(tmp_path)
    exec(block.text, {})
    assert "15+1=16\n16+20=36\n36+16=52\n" in capsys.readouterr().out


def test_few_blocks_do_not_run() -> None:
    """``no-run`` is for what needs a finished run, a download, packages of loggers or a second machine."""
    text = "".join(page.read_text() for page in PAGES)
    assert text.count("no-run") <= 4
    assert CONFIG.exists()
