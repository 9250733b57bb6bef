"""The processes of a run: what they are doing, how they are stopped, and how they notice that one is gone."""

from lgrpo_lightning.processes.alive import machine, process_gone

__all__ = ["machine", "process_gone"]
