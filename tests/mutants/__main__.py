"""Which small errors in the library do the tests of the default run find?

``python -m tests.mutants record [PATHS]`` runs tests once, all of the default run unless paths are given, and notes
which lines of the package each of them runs, and its seconds; a later call adds to the notes. Then ``python -m
tests.mutants try`` makes mutants, chosen by a seed and spread evenly over rooms and kinds of change, and tries each
against the tests that run its line until one fails.

Everything happens in a copy of the checkout, so that a run that is killed leaves nothing behind. Tests start in a fork
of a process that has imported torch and Lightning, without which imports were most of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import faulthandler
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

from tests.mutants.changes import Mutant, choose_mutants

PACKAGE = Path("lgrpo_lightning")
ROOMS: dict[str, tuple[str, tuple[str, ...]]] = {  # a room's files, and its tests
    "functional": ("functional", ("tests/functional",)),
    "estimators": ("estimators", ("tests/estimators",)),
    "losses": ("losses", ("tests/losses",)),
    "segmenters": ("segmenters", ("tests/segmenters",)),
    "process_tree": ("process_tree.py", ("tests/test_process_tree.py",)),
    "policy": ("policy", ("tests/policy",)),
    "training": ("training", ("tests/training", "tests/integration/test_objectives.py")),
    "module": ("module.py", ("tests/integration/test_",)),
    "checkpoints": ("checkpoints", ("tests/checkpoints", "tests/callbacks", "tests/reliability")),
    "samplers": ("samplers", ("tests/samplers/test_",)),
    "environments": ("environments", ("tests/environments",)),
    "rewards": ("rewards", ("tests/rewards",)),
    "data": ("data", ("tests/data", "tests/test_datamodule.py")),
    "ranks": (
        "distributed/ranks.py",
        ("tests/distributed", "tests/integration/test_distributed.py", "tests/integration/test_t"),
    ),
}
PRELOADED = [
    "coverage", "datasets", "hypothesis", "jsonargparse", "lightning.pytorch", "matplotlib.figure", "pandas", "peft",
    "scipy.stats", "tensorboard.summary.writer.event_file_writer", "torch.distributed.checkpoint",
    "torch.distributed.fsdp", "transformers.generation", "transformers.models.llama.modeling_llama",
]  # fmt: skip

# Mutants that no test can find: (file, the line as the mutant has it): why.
EQUIVALENT: dict[tuple[str, str], str] = {
    ("samplers/text.py", "elif (window.endswith(REPLACEMENT) and (goes_on and in_broken)):"): (
        "all tokens are decoded instead of a window: the same text, more slowly"
    ),
    ("losses/reinforce.py", "return -batch.advantages * torch.where(batch.mask, batch.logprobs, 1.0)"): (
        "what a token has that is not trained is left out of the sum"
    ),
    ("environments/isolation/proxies.py", "self._until = 1.0"): "respond sets it before anything reads it",
    ("samplers/around.py", "for limit in sorted(set(limits), reverse=False):"): (
        "the calls of the sampler are in another order, and a draw does not depend on it"
    ),
    (
        "process_tree.py",
        'last_row.scatter_reduce_(0, nodes[real], rows[real], "amax", include_self=False)',
    ): "what is left out are zeros, and no row has a smaller number",
}


def find_files(room: str) -> list[Path]:
    """The files of a room; those of vLLM's sampler are tested in an environment of its own."""
    root = PACKAGE / ROOMS[room][0]
    files = [root] if root.suffix else sorted(root.rglob("*.py"))
    return [file for file in files if file.name != "__init__.py" and "vllm" not in file.parts]


def copy_checkout(folder: str) -> None:
    """Make a copy of what git knows or would add the place that everything is imported from."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.check_output(listing, text=True).split("\0")[:-1]:
        if Path(name).is_file():
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, Path(folder, name))
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
    sys.path[0] = folder
    for module in PRELOADED:
        importlib.import_module(module)


def run_tests(arguments: Iterable[str], log: Path, make_plugin: Callable[[], object]) -> int:
    """pytest's exit status in a fork of this process."""
    child = os.fork()
    if not child:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for module in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[module]  # they are the checkout's, not the copy's
        status = pytest.main([*arguments, "-q", "-p", "no:cacheprovider", "--tb=line"], [make_plugin()])
        sys.stdout.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what the tests have started
    return os.waitstatus_to_exitcode(status)


class TimeLimit:
    """A pytest plug-in that ends the process where a test takes far longer than its ``seconds``."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        faulthandler.dump_traceback_later(120, exit=True)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        faulthandler.dump_traceback_later(30 + 10 * self.seconds[item.nodeid], exit=True)


class Recorder:
    """A pytest plug-in: the lines that each test ran and its seconds, for tests that passed, in ``record.json``."""

    def __init__(self, cases: int) -> None:
        self.cases = cases
        self.seconds, self.failed = dict[str, float](), set[str]()
        self.coverage = coverage.Coverage(data_file=None, source=[str(PACKAGE)])
        self.coverage.start()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        functions = defaultdict[str, list[pytest.Item]](list)
        for item in items:
            functions[item.nodeid.partition("[")[0]].append(item)
        items[:] = [i for cases in functions.values() for i in cases[:: -(-len(cases) // self.cases)]]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        start = time.monotonic()
        result = yield
        self.seconds[item.nodeid] = round(time.monotonic() - start, 3)
        self.coverage.switch_context("")
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data, lines = self.coverage.get_data(), {}
        for file in data.measured_files():
            contexts = data.contexts_by_lineno(file).items()
            lines[os.path.relpath(file)] = {line: sorted(set(tests) - self.failed - {""}) for line, tests in contexts}
        seconds = {test: spent for test, spent in self.seconds.items() if test not in self.failed}
        Path("record.json").write_text(json.dumps({"seconds": seconds, "lines": lines}))


def record_tests(paths: list[str], notes: Path, cases: int) -> None:
    """Add to the notes what these tests run."""
    kept = json.loads(notes.read_text()) if notes.exists() else {"seconds": {}, "lines": {}}
    run_tests(paths, notes.with_suffix(".log"), lambda: Recorder(cases))
    new = json.loads(Path("record.json").read_text())
    kept["seconds"] |= new["seconds"]
    for path, lines in new["lines"].items():
        for line, tests in lines.items():
            of_line = kept["lines"].setdefault(path, {}).setdefault(line, [])
            of_line += sorted(set(tests) - set(of_line))
    notes.write_text(json.dumps(kept))


def choose_tests(mutant: Mutant, near: tuple[str, ...], record: dict[str, Any], limit: float) -> list[str]:
    """Tests that run the mutant's statement, then others of their files and of the room, in ``limit`` seconds."""
    seconds, lines = record["seconds"], record["lines"].get(str(mutant.path), {})
    running = {test for line in mutant.statement for test in lines.get(str(line), ())}
    files = {test.partition("::")[0] for test in running}

    def order(tests: Iterable[str]) -> list[str]:
        """The fastest first; the room's own before others, and first cases of a function before its further ones."""
        cases, keys = Counter[str](), dict[str, float]()
        for test in sorted(tests, key=seconds.__getitem__):
            function = test.partition("[")[0]
            keys[test] = seconds[test] * (cases[function] + 1) * (1 if test.startswith(near) else 2)
            cases[function] += 1
        return sorted(keys, key=keys.__getitem__)

    beside = {test for test in seconds if test.startswith(near) or test.partition("::")[0] in files} - running
    chosen = list[str]()
    for test in order(running) + order(beside):
        limit -= seconds[test]
        if limit < 0 and chosen:
            break
        chosen.append(test)
    return chosen


def try_mutant(mutant: Mutant, tests: list[str], seconds: dict[str, float]) -> dict[str, Any]:
    """The test that found it, or None, and what is printed of it."""
    log, start = Path("mutant.log"), time.monotonic()
    kept, before = mutant.path.read_text(), mutant.path.stat()
    mutant.path.write_text(mutant.text)
    status = run_tests([*tests, "-x"], log, lambda: TimeLimit(seconds))
    mutant.path.write_text(kept)
    os.utime(mutant.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    said = log.read_text(errors="replace")
    if "ERROR: not found" in said and "ERROR collecting" not in said:
        raise SystemExit(f"The notes are of other tests; record them again.\n{said}")
    names = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    diff = list(difflib.unified_diff(kept.splitlines(), mutant.text.splitlines(), n=0, lineterm=""))[3:]
    line = "".join(line[1:].strip() for line in diff if line[0] == "+")
    return {
        "place": f"{mutant.path}:{mutant.line}", "kind": mutant.kind, "tests": len(tests), "diff": diff,
        "found": (names or [f"exit status {status}"])[0] if status else None,
        "seconds": round(time.monotonic() - start, 1),
        "equivalent": EQUIVALENT.get((str(mutant.path.relative_to(PACKAGE)), line), ""),
    }  # fmt: skip


def print_table(results: list[dict[str, Any]]) -> None:
    """Found of all by room, without equivalent ones; then what survived."""
    for room in [*dict.fromkeys(result["room"] for result in results), ""]:
        found = [bool(r["found"]) for r in results if room in ("", r["room"]) and not r["equivalent"]]
        print(f"{room or 'all':14} {sum(found):4} of {len(found)}")
    for result in results:
        if not result["found"]:
            print(f"\n{result['place']}  {result['kind']}  {result['equivalent']}", *result["diff"], sep="\n  ")


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "try"])
    parser.add_argument("--cases", type=int, default=8, help="most cases of a test that are recorded")
    parser.add_argument("--number", type=int, default=140, help="of mutants in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", default=",".join(ROOMS))
    parser.add_argument("--limit", type=float, default=60, help="seconds of tests for a mutant")
    parser.add_argument("--notes", type=Path, default=Path(tempfile.gettempdir(), "lgrpo_mutants.json"))
    options, given = parser.parse_known_args()  # the rest is pytest's
    with tempfile.TemporaryDirectory(prefix="mutants") as folder:
        copy_checkout(folder)
        if options.command == "record":
            record_tests(given, options.notes, options.cases)
        else:
            try_mutants(options)


def try_mutants(options: argparse.Namespace) -> None:
    """Print what became of each, a JSON object a line, then a table."""
    notes, rooms = json.loads(options.notes.read_text()), options.rooms.split(",")
    results = list[dict[str, Any]]()
    quickest = min(notes["seconds"], key=notes["seconds"].__getitem__)
    if run_tests([quickest], Path("mutant.log"), lambda: TimeLimit(notes["seconds"])):
        raise SystemExit(f"{quickest} fails without a mutant.\n{Path('mutant.log').read_text()}")
    for index, room in enumerate(rooms):
        share = options.number * (index + 1) // len(rooms) - options.number * index // len(rooms)
        for mutant in choose_mutants(find_files(room), share, f"{options.seed} {room}"):
            tests = choose_tests(mutant, ROOMS[room][1], notes, options.limit)
            results.append({"room": room} | try_mutant(mutant, tests, notes["seconds"]))
            print(json.dumps(results[-1]), flush=True)
    print_table(results)


if __name__ == "__main__":
    main()
