"""Earlier weights of the policy, kept on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lgrpo_lightning.policy.sharded_weights import divide_like, join_parts, reshard, take_part


@dataclass(frozen=True, kw_only=True)
class KeptWeights:
    """The trained weights after some optimizer step: of a sharded policy, this rank's part.

    Attributes:
        version: Optimizer steps that they have had.
        tensors: Name of a parameter -> its value, on the CPU. Never changed.
    """

    version: int
    tensors: Mapping[str, Tensor]

    @classmethod
    def copy_from(cls, policy: nn.Module, version: int) -> KeptWeights:
        """A copy of the current weights."""
        # after a forward pass FSDP2 shows gathered weights in the place of shards
        reshard(policy)
        trained = ((name, p) for name, p in policy.named_parameters() if p.requires_grad)
        tensors = {name: take_part(p).detach().to("cpu", copy=True) for name, p in trained}
        return cls(version=version, tensors=tensors)

    @classmethod
    def read(cls, policy: nn.Module, state: Mapping[str, Any]) -> KeptWeights:
        """Restore ``state``, in any number of processes."""
        reshard(policy)
        parameters = dict(policy.named_parameters())
        tensors = {
            name: take_part(divide_like(parameters[name], tensor)).to("cpu", copy=True)
            for name, tensor in state["tensors"].items()
        }
        return cls(version=int(state["version"]), tensors=tensors)

    def gather_state(self, policy: nn.Module, *, keep: bool = True) -> dict[str, Any]:
        """For a checkpoint: whole tensors. Collective where the policy is sharded.

        Args:
            keep: False on ranks that do not write it: they only take part.
        """
        reshard(policy)
        parameters, tensors = dict(policy.named_parameters()), dict[str, Tensor]()
        for name, part in self.tensors.items():
            tensor = join_parts(parameters[name], part)
            if keep:
                tensors[name] = tensor.cpu()
        return {"version": self.version, "tensors": tensors}

    @contextmanager
    def put(self, policy: nn.Module) -> Iterator[None]:
        """A context in which the policy has these weights."""
        now = KeptWeights.copy_from(policy, self.version)
        self._write(policy)
        try:
            yield
        finally:
            now._write(policy)

    @torch.no_grad()
    def _write(self, policy: nn.Module) -> None:
        reshard(policy)
        parameters = dict(policy.named_parameters())
        for name, part in self.tensors.items():
            take_part(parameters[name]).copy_(part)
