import importlib
import inspect
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lgrpo_lightning import builtin
from lgrpo_lightning.contracts import CONTRACTS
from lgrpo_lightning.registry.loading import PluginError
from lgrpo_lightning.registry.lookup import components, explain_unknown

TEMPLATE = Path(__file__).parents[2] / "plugins" / "lgrpo-length-reward"
HEAD = """
from lgrpo_lightning import Group, ProcessTree, RewardModel, AdvantageEstimator, hookimpl
"""


@pytest.fixture(autouse=True)
def fresh():
    """Every test loads the plug-ins anew."""
    components.cache_clear()
    yield
    components.cache_clear()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package with one module and one entry point on the path, as an installer would."""

    def installed(package, code, version="1.2"):
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(HEAD + textwrap.dedent(code))
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[lgrpo_lightning]\nmain = {module}\n")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, module, raising=False)

    monkeypatch.syspath_prepend(tmp_path)
    return installed


GOOD = """
class {name}(RewardModel):
    '''Gives one.

    More text.'''
    def score(self, group, tree):
        return [1.0] * len(group)

@hookimpl
def lgrpo_components():
    return [{name}]
"""


def test_the_built_in_components():
    found = components()
    for cls in builtin.lgrpo_components():
        component = found[cls.__name__]
        assert component.cls is cls
        assert component.package == "lgrpo_lightning"
        assert issubclass(cls, CONTRACTS[component.kind])
        assert component.summary.endswith(".")
        assert not inspect.isabstract(cls)
    assert {"GRPO", "LambdaGRPO", "ExactMatch", "TransformersSampler", "ArithmeticTasks"} <= found.keys()


def test_a_plugin_is_found_and_listed(install):
    install("lgrpo-alpha", GOOD.format(name="AlphaReward"))
    component = components()["AlphaReward"]
    assert (component.package, component.version, component.summary) == ("lgrpo-alpha", "1.2", "Gives one.")
    assert component.kind == "reward_model"


def test_loaded_once(install):
    before = components()
    install("lgrpo-alpha", GOOD.format(name="AlphaReward"))
    assert components() is before
    components.cache_clear()
    assert "AlphaReward" in components()


BROKEN = {
    "import": ("raise RuntimeError('no licence')", "cannot be imported: RuntimeError: no licence"),
    "missing import": ("import nowhere_to_be_found", "cannot be imported: ModuleNotFoundError"),
    "misspelt": ("@hookimpl\ndef lgrpo_component():\n    return []", "unknown hook 'lgrpo_component'"),
    "unmarked": ("def lgrpo_components():\n    return []", "implements no hook.*is there, but not marked"),
    "no hook": ("x = 1", r"implements no hook. It must define `lgrpo_components\(\)`"),
    "arguments": ("@hookimpl\ndef lgrpo_components(kind):\n    return []", "without arguments"),
    "raises": (
        "@hookimpl\ndef lgrpo_components():\n    return 1 / 0",
        r"lgrpo_components\(\) failed: ZeroDivision",
    ),
    "instance": (
        "@hookimpl\ndef lgrpo_components():\n    return ['GRPO']",
        "returned 'GRPO'; it must return classes",
    ),
    "no contract": (
        "@hookimpl\ndef lgrpo_components():\n    return [dict]",
        "dict fulfils no contract.*RewardModel",
    ),
    "abstract": (
        "class Half(AdvantageEstimator):\n    pass\n@hookimpl\ndef lgrpo_components():\n    return [Half]",
        "Half is abstract; it lacks estimate",
    ),
    "scores nothing": (
        "class Mute(RewardModel):\n    pass\n@hookimpl\ndef lgrpo_components():\n    return [Mute]",
        "Mute scores nothing; define score or score_batch",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_names_its_package(install, case, monkeypatch):
    code, message = BROKEN[case]
    install("lgrpo-broken", code)
    with pytest.raises(PluginError, match=message) as error:
        components()
    assert "Plug-in package lgrpo-broken 1.2" in str(error.value)
    monkeypatch.setenv("LGRPO_DISABLE_PLUGINS", "other, LGRPO_Broken")
    assert "GRPO" in components()


def test_an_import_failure_says_how_to_go_on(install):
    install("lgrpo-broken", "raise RuntimeError")
    with pytest.raises(PluginError, match=r"pip uninstall lgrpo-broken.*LGRPO_DISABLE_PLUGINS=lgrpo-broken"):
        components()


def test_a_duplicate_name_names_both_packages(install):
    install("lgrpo-first", GOOD.format(name="TwinReward"), version="1.0")
    install("lgrpo-second", GOOD.format(name="TwinReward"), version="2.0")
    with pytest.raises(PluginError, match=r"'TwinReward': lgrpo-first 1.0 \(lgrpo_first\) and lgrpo-second 2.0"):
        components()


def test_the_built_in_package_cannot_be_disabled(monkeypatch):
    monkeypatch.setenv("LGRPO_DISABLE_PLUGINS", "lgrpo_lightning")
    assert "GRPO" in components()


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "advantage_estimator",
            "LamdaGRPO",
            "'LamdaGRPO' is not an advantage_estimator. Did you mean 'LambdaGRPO'?",
        ),
        ("advantage_estimator", "grpo", "Did you mean 'GRPO'?"),
        (
            "sampler",
            "GRPO",
            "'GRPO' is an advantage_estimator, not a sampler. Installed: EnvironmentSampler, ForkingSampler",
        ),
        ("reward_model", "LengthRewards", "its package (pip install ...) and check `lgrpo plugins`"),
    ],
)
def test_unknown_names(kind, name, message):
    assert message in explain_unknown(kind, name)


def python(code, path):
    """What a new process prints, with ``path`` among the installed packages."""
    env = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    return run.stdout + run.stderr


@pytest.mark.slow
def test_the_template_installed_with_pip(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    shutil.copytree(TEMPLATE, tmp_path / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(tmp_path / "source")], check=True)
    code = (
        "from lgrpo_lightning.registry.lookup import components; c = components()['LengthReward']; "
        "print(c.package, c.version)"
    )
    assert python(code, tmp_path / "site").strip() == "lgrpo-length-reward 0.1.0"
    if "LengthReward" not in components():
        assert "KeyError: 'LengthReward'" in python(code, tmp_path)


def test_the_template_is_short():
    (source,) = TEMPLATE.glob("src/*/__init__.py")
    lines = [line for line in source.read_text().splitlines() if line.strip()]
    assert len(lines) <= 27
