"""The processes of a run: how it is divided over them, how they are stopped, and how they notice that one is gone."""

from lgrpo_lightning.distributed.processes import machine, process_gone

__all__ = ["machine", "process_gone"]
