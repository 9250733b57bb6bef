"""The processes of a run: how it is divided over them, how they are stopped, and how they notice that one is gone."""

from lgrpo_lightning.distributed.processes import is_process_gone, name_machine

__all__ = ["is_process_gone", "name_machine"]
