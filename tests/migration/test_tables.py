"""The tables are those of the installed TRL, the pages are made of them, and what they name here exists."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import yaml

from lgrpo_lightning import callbacks, cli
from lgrpo_lightning.commands.migration.fields import DEFAULTS, OURS, VERSION
from lgrpo_lightning.commands.migration.loss import NORMALIZER
from lgrpo_lightning.distributed.fsdp2 import FSDP2Strategy
from lgrpo_lightning.registry import lookup
from tests.docs.markdown import ROOT
from tests.runs import CONFIG
from tools.migration_pages import OF_LEVEL, pages
from tools.openrlhf_fields import OPENRLHF
from tools.openrlhf_fields import ROWS as OPENRLHF_ROWS
from tools.trl_fields import OLDER, OWN, OWN_ROWS, SCRIPT, SDFT, TRAINING
from tools.verl_fields import ROWS as VERL_ROWS
from tools.verl_fields import VERL

EVERY = [
    *OWN.values(),
    *TRAINING.values(),
    *SCRIPT.values(),
    *OLDER.values(),
    *SDFT.values(),
    *VERL.values(),
    *OPENRLHF.values(),
]
OF_THE_COMMAND = ("datasets", "accelerate_config", "num_processes")
"""Options of ``trl grpo`` that are no fields of its dataclasses, or have a default that is no literal."""
NAMED = sorted({name for field in EVERY for name in field.here})
KEYS = [name for name in NAMED if name.split(".")[0] in ("seed_everything", "ckpt_path", "trainer", "model", "data")]


def trl_fields() -> tuple[dict[str, Any], set[str]]:
    """(the fields of ``GRPOConfig`` with their defaults, the names of those that its own class declares)."""
    trl = pytest.importorskip("trl")
    if not trl.__version__.startswith(f"{VERSION}."):
        pytest.skip(f"TRL {trl.__version__} is installed; the tables are of {VERSION}")
    found = {f.name: f.default for f in dataclasses.fields(trl.GRPOConfig)}
    return found, set(inspect.get_annotations(trl.GRPOConfig))


def test_every_own_field_of_trl_has_a_row_and_no_other() -> None:
    theirs, own = trl_fields()
    assert set(OWN) == own - {"learning_rate"}  # among TrainingArguments
    assert len(OWN) == len(OWN_ROWS)
    assert set(TRAINING) <= set(theirs)
    assert not set(OLDER) & set(theirs)


def test_defaults_are_those_of_trl() -> None:
    theirs, _ = trl_fields()
    from trl import ModelConfig
    from trl.scripts.grpo import GRPOScriptArguments

    for name, field in (OWN | TRAINING).items():
        assert field.default == theirs[name], name
    script = {f.name: f.default for cls in (ModelConfig, GRPOScriptArguments) for f in dataclasses.fields(cls)}
    from trl.experimental.sdft import SDFTConfig

    sdft = {f.name: f.default for f in dataclasses.fields(SDFTConfig)}
    assert {name: field.default for name, field in SDFT.items()}.items() <= sdft.items()
    for name, field in SCRIPT.items():
        assert name in OF_THE_COMMAND or field.default == script[name], name


@pytest.mark.parametrize("name", ["from-trl.md", "from-verl.md"])
def test_the_page_is_what_the_tables_give(name: str) -> None:
    """``python -m tools.migration_pages docs`` makes it anew."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == pages()[name]


def test_no_row_is_there_twice() -> None:
    assert len(VERL) == len(VERL_ROWS)
    assert len(OPENRLHF) == len(OPENRLHF_ROWS)
    assert len(DEFAULTS) == len(OWN) + len(TRAINING) + len(SCRIPT) + len(OLDER)
    assert all(field.here or field.note or field.name.endswith(("kwargs", "kernel")) for field in EVERY)


# --------------------------------------------------------------------------------------- what is named here


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    """``printed(*flags)``: the whole configuration of ``lgrpo fit``, as the parser prints it."""

    def configuration(*flags: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["fit", *flags, "--print_config"])
        assert ended.value.code == 0
        return yaml.safe_load(capsys.readouterr().out)

    return configuration


def test_every_key_is_one_of_the_parsers(printed: Any) -> None:
    config = printed(f"--config={CONFIG}", "--model.policy.lora.rank=4")
    for key in KEYS:
        place: Any = config
        for part in key.split("."):
            assert part in place, f"{key} is no key of a configuration"
            place = place[part]


@pytest.mark.parametrize("name", [name for name in NAMED if name not in KEYS])
def test_every_component_and_option_is_there(name: str) -> None:
    """``CISPO.ratio_max``: a component, a callback or the strategy, and an option of it."""
    cls, _, option = name.partition(".")
    installed = {n: c.cls for n, c in lookup.components().items()} | {"FSDP2Strategy": FSDP2Strategy}
    found = installed.get(cls) or getattr(callbacks, cls)
    assert not option or option in inspect.signature(found).parameters


def test_every_loss_of_the_table_is_installed() -> None:
    for kind in NORMALIZER:
        for name in OF_LEVEL.get(kind, ("ClippedSurrogate", "GSPO")):
            assert not name or name in lookup.components()


def test_our_defaults_are_those_of_the_parser(printed: Any) -> None:
    bare = printed("--model.reward_model=ExactMatch")
    adapted = printed("--model.reward_model=ExactMatch", "--model.policy.lora={}")
    for key, default in OURS.items():
        place: Any = adapted if key.startswith("model.policy.lora.") else bare
        for part in key.split("."):
            place = place[part]
        assert place == default or (key == "trainer.precision" and place is None), key
