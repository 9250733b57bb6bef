"""A model of text and images: what text does not use is frozen, and counted once."""

from pathlib import Path

from lgrpo_lightning.policy import Policy, PolicyConfig
from lgrpo_lightning.policy.multimodal import freeze_outside_of_text
from tests.architectures.trial import write_model


def test_frozen_weights_are_counted_once(tmp_path: Path) -> None:
    write_model("gemma3", tmp_path)
    policy = Policy(PolicyConfig(path=str(tmp_path)))
    frozen = {name: p.numel() for name, p in policy.named_parameters() if not p.requires_grad}
    assert freeze_outside_of_text(policy.model) == sum(frozen.values()) > 0
    assert all("vision" in name or "projector" in name for name in frozen)
