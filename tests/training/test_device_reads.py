"""How often an update makes the host wait for the device: once before each optimizer step, whatever the passes."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from lgrpo_lightning.module import GRPOModule
from lgrpo_lightning.policy import layout, prefix_layout, tree_layout
from tests.runs import fit

READS = {"item", "tolist", "cpu", "numpy", "nonzero", "unique", "masked_select"}
READS |= {"__bool__", "__float__", "__int__", "__index__", "__contains__"}


class Reads(TorchFunctionMode):
    """Counts reads of what was computed from weights or from a pass's tokens, by the function of ours that reads."""

    def __init__(self, module: GRPOModule) -> None:
        self.count: Counter[str] = Counter()
        self.of_device: Any = WeakIdKeyDictionary(dict.fromkeys(module.policy.parameters(), True))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = list(_tensors((args, kwargs or {})))
        out = func(*args, **(kwargs or {}))
        if any(t in self.of_device for t in given):
            self.of_device.update(dict.fromkeys(_tensors(out), True))
            name = getattr(func, "__name__", "")
            index = name == "__getitem__" and any(t.dtype == torch.bool for t in given[1:])
            if name in READS or index:
                ours = [f for f in traceback.extract_stack() if "/lgrpo_lightning/" in f.filename]
                self.count[f"{Path(ours[-1].filename).stem}.{ours[-1].name}"] += 1
        return out

    @contextmanager
    def watching(self, patched: pytest.MonkeyPatch) -> Iterator[None]:
        """Tokens and masks of a pass are on the device, too."""

        def placed(*args: Any, place: Any = layout.place, **given: Any) -> Any:
            tensors = place(*args, **given)
            self.of_device.update(dict.fromkeys(tensors.values(), True))
            return tensors

        for user in (layout, prefix_layout, tree_layout):
            patched.setattr(user, "place", placed)
        with self:
            yield


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


@pytest.mark.parametrize("name", ["padded", "tree", "prefix"])
def test_the_host_waits_once_for_each_optimizer_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Counter[str]] = []
    train_on = GRPOModule.train_on

    def watched(module: GRPOModule, *args: Any) -> None:
        reads = Reads(module)
        with monkeypatch.context() as patched, reads.watching(patched):
            train_on(module, *args)
        found.append(reads.count)

    monkeypatch.setattr(GRPOModule, "train_on", watched)
    fit(
        tmp_path,
        trainer__max_steps=6,
        trainer__limit_val_batches=0,
        model__updates__iterations=3,
        model__policy__layout=name,
        model__policy__micro_batch_tokens=150,
    )
    checked, plain = found  # the first rollout has the checks of a run's first batch
    assert sum(checked.values()) > sum(plain.values())
    # transformers looks at the mask of each pass; the losses of a step are ready when its norm is
    own = {key: n for key, n in plain.items() if not key.endswith("layout.run")}
    assert own == {"guard.allows": 3, "pending_step.losses": 3}
