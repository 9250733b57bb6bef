"""A model of text and images: what text does not use is frozen, and counted once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.multimodal import freeze_outside_of_text
from tests.architectures.trial import write_model


def test_frozen_weights_are_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_model("gemma3", tmp_path)
    with caplog.at_level("INFO"):
        policy = Policy(PolicyConfig(path=str(tmp_path)))
    frozen = {name: p.numel() for name, p in policy.named_parameters() if not p.requires_grad}
    assert freeze_outside_of_text(policy.model) == sum(frozen.values()) > 0
    assert f"{sum(frozen.values()):,} weights that text does not go through are kept as they are" in caplog.text
    assert all("vision" in name or "projector" in name for name in frozen)


def test_nothing_is_frozen_of_a_model_of_text(
    model_folder: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        policy = Policy(PolicyConfig(path=str(model_folder("llama"))))
    assert all(p.requires_grad for p in policy.parameters())
    assert "more than text" not in caplog.text
