"""What an engine does to its process does not reach training."""

import os
import random

import numpy as np
import pytest
import torch

from lgrpo_lightning.samplers.vllm.isolation import isolate_engine


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed() -> None:
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)


def test_generators_go_on_where_they_were() -> None:
    seed()
    expected = [draws(), draws()]
    seed()
    found = [draws()]
    with isolate_engine():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
    assert [*found, draws()] == expected


def test_threads_can_still_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    with isolate_engine():
        torch.set_num_threads(threads + 1)
        torch.set_num_threads = lambda n: None  # type: ignore[assignment]
    assert torch.set_num_threads is set_threads
    assert torch.get_num_threads() == threads


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGRPO_KEPT", "1")
    monkeypatch.setenv("LGRPO_REMOVED", "1")
    monkeypatch.delenv("VLLM_LGRPO_TEST", raising=False)
    with isolate_engine({"VLLM_LGRPO_TEST": "0"}):
        os.environ["LGRPO_KEPT"] = "2"
        os.environ["LGRPO_ADDED"] = "2"
        del os.environ["LGRPO_REMOVED"]
    assert os.environ["LGRPO_KEPT"] == os.environ["LGRPO_REMOVED"] == "1"
    assert "LGRPO_ADDED" not in os.environ
    assert os.environ.pop("VLLM_LGRPO_TEST") == "0"  # the engine reads it later


def test_mixed_precision_is_off_inside() -> None:
    ones = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (ones @ ones).dtype == torch.bfloat16
        with isolate_engine():
            assert (ones @ ones).dtype == torch.float32
        assert (ones @ ones).dtype == torch.bfloat16
