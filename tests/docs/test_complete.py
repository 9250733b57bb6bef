"""Every component, option, hook, command, callback, metric and file has its place in the docs, as it is."""

import inspect
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

from lgrpo_lightning.callbacks import make_default_callbacks
from lgrpo_lightning.cli import COMMANDS
from lgrpo_lightning.commands.run import TRAINER_DEFAULTS
from lgrpo_lightning.contracts import CONTRACTS
from lgrpo_lightning.data.curriculum import Curriculum
from lgrpo_lightning.datamodule import PromptDataModule
from lgrpo_lightning.distributed.fsdp2 import FSDP2Strategy
from lgrpo_lightning.errors import OWN_METRICS
from lgrpo_lightning.functional.sampling import Sampling
from lgrpo_lightning.module import GRPOModule
from lgrpo_lightning.policy import PolicyConfig
from lgrpo_lightning.policy.lora import Lora
from lgrpo_lightning.registry import hookspecs
from lgrpo_lightning.registry.loading import DISABLE
from lgrpo_lightning.registry.lookup import components
from lgrpo_lightning.testing import toy_loss_input
from lgrpo_lightning.training import Objective, Schedule, Updates, Validation
from lgrpo_lightning.training.settings import ELSEWHERE
from tests.docs.markdown import ROOT, code, headings, prose, rows, section
from tests.runs import CONFIG, VALIDATED, fit, metrics, rollouts

DOCS = ROOT / "docs"
COMPONENTS, CONFIGURATION, METRICS = (DOCS / f"{n}.md" for n in ("components", "configuration", "metrics"))
BUILT_IN = sorted(n for n, c in components().items() if c.package == hookspecs.PROJECT)
GROUPS = {
    "model": GRPOModule,
    "model.policy": PolicyConfig,
    "model.policy.lora": Lora,
    "model.sampling": Sampling,
    "model.objective": Objective,
    "model.updates": Updates,
    "model.schedule": Schedule,
    "model.validation": Validation,
    "trainer.strategy: fsdp2": FSDP2Strategy,
    "data": PromptDataModule,
    "data.curriculum": Curriculum,
}


def plain(value: Any) -> Any:
    """A default as YAML writes it."""
    return list(value) if isinstance(value, tuple) else value


def options(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class; a dataclass's factories are called."""
    own = fields(cls) if is_dataclass(cls) else ()
    made = {f.name: f.default_factory() for f in own if f.default_factory is not MISSING}
    parameters = inspect.signature(cls).parameters
    return {n: p.replace(default=made[n]) if n in made else p for n, p in parameters.items()}


def assert_options(cls: type, text: str) -> None:
    """The table rows in ``text`` are the options of ``cls``; defaults written as code are its defaults."""
    documented = {code(row[0])[0]: row[1] for row in rows(text) if len(row) == 3}
    assert set(documented) == set(options(cls)), f"{cls.__name__}: the table has other options"
    for name, parameter in options(cls).items():
        cell = documented[name]
        if parameter.default is inspect.Parameter.empty:
            assert cell == "required", f"{cls.__name__}.{name} is required"
        elif re.fullmatch(r"`[^`]*`", cell):
            assert yaml.safe_load(cell.strip("`")) == plain(parameter.default), f"{cls.__name__}.{name}"
        else:
            assert not isinstance(parameter.default, bool | int | float | str), f"{cls.__name__}.{name}"


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_component_has_a_heading_and_its_options(name: str) -> None:
    assert name in headings(COMPONENTS), f"docs/components.md has no heading {name!r}"
    cls = components()[name].cls
    text = section(COMPONENTS, name)
    if options(cls):
        assert_options(cls, text)
    else:
        assert "No options" in text


def test_every_contract_has_a_heading_and_its_methods() -> None:
    for kind, contract in CONTRACTS.items():
        text = section(COMPONENTS, contract.__name__)
        for method in (n for n, v in vars(contract).items() if inspect.isfunction(v)):
            assert f"`{method}(" in text, f"{contract.__name__}.{method} is not in docs/components.md"
        assert f"| `{kind}` |" in prose(COMPONENTS)


def test_no_heading_for_what_does_not_exist() -> None:
    names = {h for h in headings(COMPONENTS) if re.fullmatch(r"[A-Z]\w+", h)} - {"Components"}
    assert names == set(BUILT_IN) | {c.__name__ for c in CONTRACTS.values()}


@pytest.mark.parametrize("key", GROUPS)
def test_every_option_of_a_configuration_has_a_row(key: str) -> None:
    assert_options(GROUPS[key], section(CONFIGURATION, key))


def test_the_hook_has_a_heading() -> None:
    hooks = [n for n, v in vars(hookspecs).items() if hasattr(v, f"{hookspecs.PROJECT}_spec")]
    assert hooks
    for hook in hooks:
        assert hook in headings(DOCS / "plugins.md")


def test_every_command_has_a_row() -> None:
    listed = [row[0] for row in rows(section(CONFIGURATION, "Configuration"))]
    assert listed == [f"`lgrpo {command}`" for command in COMMANDS]


def test_trainer_options_are_as_documented() -> None:
    table = {name: row for row in rows(section(CONFIGURATION, "trainer")) for name in code(row[0])}
    for name, value in TRAINER_DEFAULTS.items():
        assert yaml.safe_load(table[name][1].strip("`")) == value, name
    for name in ELSEWHERE:
        assert name in table


def test_every_callback_has_a_row_with_its_options() -> None:
    table = {code(row[0])[0]: code(row[1]) for row in rows(section(CONFIGURATION, "Callbacks"))}
    assert list(table) == [type(c).__name__ for c in make_default_callbacks()]
    for callback in make_default_callbacks():
        documented = yaml.safe_load("{" + ", ".join(table[type(callback).__name__]) + "}")
        assert documented == {n: p.default for n, p in options(type(callback)).items()}, type(callback)


def test_environment_variables() -> None:
    from lgrpo_lightning.commands.messages import TRACEBACK

    assert [code(r[0])[0] for r in rows(section(CONFIGURATION, "Environment variables"))] == [
        DISABLE,
        TRACEBACK,
        "OMP_WAIT_POLICY",
    ]


# ------------------------------------------------------------------------------------------ what a run leaves


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that is logged only on demand: KL, a second reward, several validation sets, a curriculum."""
    folder = tmp_path_factory.mktemp("documented")
    config = yaml.safe_load(CONFIG.read_text())
    tasks = {"class_path": "ArithmeticTasks", "init_args": {"count": 2, "seed": 1}}
    config["data"]["validation"] = {"easy": tasks, "hard": tasks}
    config["data"]["curriculum"] = {}
    function = {
        "class_path": "RewardFunction",
        "init_args": {"function": "tests.rewards.sample_functions.only_completions"},
    }
    steps = {
        "class_path": "StepRewardFunction",
        "init_args": {"function": "tests.rewards.test_step_reward_function.right_line"},
    }
    config["model"]["reward_model"] = ["ExactMatch", function, steps]
    config["model"]["reward_weights"] = [1.0, 0.001, 1.0]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return fit(
        folder / "run",
        config=path,
        data__validation__init_args__count=None,
        **VALIDATED,
        model__objective__kl_coef=0.01,
        model__objective__entropy_coef=0.001,
        model__objective__off_policy_kl=1.0,
        trainer__max_steps=2,
    )


def matched(names: Iterable[str], patterns: Iterable[str]) -> tuple[set[str], set[str]]:
    """(names that no pattern fits, patterns that fit no name); ``<x>`` stands for anything but a slash."""

    def expression(pattern: str) -> re.Pattern[str]:
        parts = re.split(r"(<\w+>)", pattern)
        return re.compile("".join("[^/]+" if part.startswith("<") else re.escape(part) for part in parts))

    expressions = {pattern: expression(pattern) for pattern in patterns}
    names = list(names)
    fitting = {n: [p for p, x in expressions.items() if x.fullmatch(n)] for n in names}
    used = {p for found in fitting.values() for p in found}
    return {n for n, found in fitting.items() if not found}, set(expressions) - used


def of_losses() -> set[str]:
    """What the built-in policy losses log, each its own."""
    batch = toy_loss_input(advantages=[[1.0]])
    kinds = [components()[name].cls for name in BUILT_IN if components()[name].kind == "loss"]
    return {name for cls in kinds for name in cls().metrics(batch)}


def test_every_room_is_on_the_map() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = {p.name + "/" * p.is_dir() for p in (ROOT / "lgrpo_lightning").iterdir() if p.suffix in ("", ".py")}
    lacking = {room for room in rooms if f"`{room}`" not in text} - {
        "__init__.py",
        "py.typed",
        "__pycache__/",
    }
    assert not lacking, f"CONTRIBUTING.md has no row for {sorted(lacking)}"


def test_every_metric_has_a_row_and_every_row_a_metric(run: Path) -> None:
    documented = [name for row in rows(prose(METRICS)) if len(row) == 4 for name in code(row[0])]
    assert len(documented) == len(set(documented))
    missing, stale = matched({*metrics(run).columns, *of_losses()}, documented)
    assert not missing, f"docs/metrics.md has no row for {sorted(missing)}"
    of_components = ("rewards/", "clip_ratio/", "cispo_", "vespo/", "episodes/", "tools/")
    free = [n for n in documented if not OWN_METRICS.fullmatch(n) and not n.startswith(of_components)]
    assert not free, f"options.OWN_METRICS lacks {free}"
    stale -= {"mfu", "router_loss", "gradient_snr"}  # only on CUDA; only of mixtures of experts
    stale -= {name for name in stale if name.startswith(("episodes/", "tools/"))}  # only with an environment
    stale -= {"time/trainer_idle", "time/sampler_idle"}  # only with rollouts ahead
    assert not stale, f"docs/metrics.md has rows for what is not logged: {sorted(stale)}"
    for row in rows(prose(METRICS)):
        assert len(row) == 4
        assert row[2], row


def test_every_column_of_the_rollouts_has_a_row(run: Path) -> None:
    documented = [name for row in rows(section(CONFIGURATION, "Columns of the rollouts")) for name in code(row[0])]
    missing, stale = matched(rollouts(run).columns, documented)
    assert not missing, f"docs/configuration.md has no row for the columns {sorted(missing)}"
    assert not stale, f"docs/configuration.md has rows for columns that are not there: {sorted(stale)}"


def test_every_file_of_a_run_has_a_row(run: Path) -> None:
    optional = {"predictions.parquet", "nonfinite", "exports", "report.html", "logged_completions.json"}
    documented = {code(row[0])[0].split("/")[0] for row in rows(section(CONFIGURATION, "The folder of a run"))}
    assert {p.name for p in run.iterdir()} == documented - optional
    assert isinstance(metrics(run), pandas.DataFrame)
