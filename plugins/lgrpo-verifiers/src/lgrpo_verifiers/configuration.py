"""From what a configuration names to an environment of verifiers and its tasks."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from itertools import islice
from typing import Any

from lgrpo_lightning.errors import UserError

HARNESS = "lgrpo-verifiers"
"""verifiers' id of ``ChatHarness``."""


def environment_config(who: str, environment: str, args: Mapping[str, Any]) -> Any:
    """verifiers' configuration (``EnvConfig``) of an environment.

    An agent for which neither ``args`` nor the environment names a harness gets ``ChatHarness``, unless the package of
    the tasks has one of its own; one for which neither names a runtime gets the ``subprocess`` runtime.

    Args:
        who: Who asks, for messages.
        environment: Id of the package that has the tasks, such as ``my-env`` or ``owner/my-env``.
        args: What stands under ``--env`` of verifiers' commands: ``taskset``, ``agent`` or other roles, ``id``, ….

    Raises:
        ValueError: There is no such package, or it refuses its arguments.
    """
    import verifiers.v1 as vf

    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # as other import paths of a configuration
    raw: dict[str, Any] = copy.deepcopy(dict(args))
    try:
        raw["taskset"] = {**dict(raw.get("taskset") or {}), "id": environment}
        kind = vf.env_config_type(environment, str(raw.get("id") or ""))
        own = vf.default_harness_id(environment)
        for role, default in _roles(kind).items():
            raw[role] = _role(dict(raw.get(role) or {}), default, own if own == environment else HARNESS)
        return vf.resolve_env_config(raw)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{who}: environment is {environment!r}, environment_args {dict(args)!r}; verifiers refuses them: {error}. "
            "environment is an installed package (or module) that exports a Taskset, environment_args what stands "
            "under --env in verifiers' own commands, such as {taskset: {...}, agent: {...}}."
        ) from error


def _roles(kind: Any) -> dict[str, Any]:
    """Name → default of the agents that an environment's configuration declares."""
    import verifiers.v1 as vf

    defaults = {name: field.get_default(call_default_factory=True) for name, field in kind.model_fields.items()}
    return {name: default for name, default in defaults.items() if isinstance(default, vf.AgentConfig)}


def _role(given: dict[str, Any], default: Any, harness: str) -> dict[str, Any]:
    """An agent's arguments, with harness and runtime where nobody has named them."""
    if default.harness is None:
        given.setdefault("harness", {"id": harness})
    if "runtime" not in default.model_fields_set:
        given.setdefault("runtime", {"type": "subprocess"})
    return given


class Tasks:
    """The tasks of an environment, by their number in it; read as far as they are asked for."""

    def __init__(self, taskset: Any) -> None:
        self._rest, self._read = iter(taskset), []  # type: ignore[var-annotated]

    def at(self, number: int, key: str) -> Any:
        """The task ``number`` (from 0), whose key is ``key``."""
        self._read.extend(islice(self._rest, max(0, number + 1 - len(self._read))))
        found = self._read[number] if number < len(self._read) else None
        if found is None or found.key != key:
            what = "there is none" if found is None else f"it has the key {found.key}"
            raise UserError(
                f"VerifiersSampler: the prompt is task {number} with the key {key}, but {what} among the tasks of "
                "the environment. Give VerifiersPrompts and VerifiersSampler the same environment and "
                "environment_args; tasks that are generated have to be the same each time."
            )
        return found
