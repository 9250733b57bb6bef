"""The environments of a run, from what its configuration names."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence

from lgrpo_lightning.environments.environment import Environment
from lgrpo_lightning.environments.isolation.proxies import ProcessEnvironment, ProcessToolEnvironment
from lgrpo_lightning.environments.isolation.tool_references import refer_to_tools
from lgrpo_lightning.environments.isolation.workers import Workers
from lgrpo_lightning.environments.limits import name_class
from lgrpo_lightning.environments.tool_environment import ToolEnvironment
from lgrpo_lightning.environments.tools import check_described
from lgrpo_lightning.errors import UserError, listed
from lgrpo_lightning.registry.import_path import import_object


def make_environments(
    environment: Environment | str | Mapping[str, str] | None, tools: list[str] | None, *, timeout: float
) -> dict[str | None, Environment]:
    """Name → what its episodes' environments are copies of; the name is None where there is one for all prompts.

    Args:
        environment, tools: As in ``EnvironmentSampler``.
        timeout: Seconds that a call of a tool may take.
    """
    functions = listed("EnvironmentSampler: tools", tools or [])
    for path in functions:
        import_object(path)  # a wrong one is refused also where no environment takes tools
    if isinstance(environment, Environment):
        if functions:
            raise UserError(
                "EnvironmentSampler: tools go with environments by TRL's conventions (import paths); an Environment "
                "offers its own (Environment.tools)."
            )
        return {None: environment}
    if not environment and not functions:
        raise UserError("EnvironmentSampler needs an environment, or tools.")
    paths = environment if isinstance(environment, Mapping) else {None: environment}
    return {name: _make(path, functions, timeout) for name, path in paths.items()}


def place_in_processes(
    prototypes: Mapping[str | None, Environment], workers: int, timeout: float
) -> tuple[Workers, dict[str | None, Environment]]:
    """(Up to so many processes, the same environments, each copy of which lives in one of them).

    One that cannot be sent, or cannot be made there, is refused, and the processes are ended.
    """
    processes = Workers({name: _pickle(prototype) for name, prototype in prototypes.items()}, workers)
    placed: dict[str | None, Environment] = {
        name: ProcessToolEnvironment(processes, name, prototype, prototype.timeout)
        if isinstance(prototype, ToolEnvironment)
        else ProcessEnvironment(processes, name, prototype, timeout)
        for name, prototype in prototypes.items()
    }
    try:
        processes.check({name: name_class(prototype) for name, prototype in placed.items()})
    except BaseException:
        processes.close()
        raise
    return processes, placed


def _pickle(environment: Environment) -> bytes:
    try:
        if not isinstance(environment, ToolEnvironment):
            refer_to_tools(environment.tools)
        return pickle.dumps(environment)
    except Exception as error:
        raise UserError(
            f"EnvironmentSampler: {type(environment).__name__} cannot be sent to a process of its own (isolation: "
            f"process): {type(error).__name__}: {error}. Define its class in a module, and open in reset what cannot "
            "be pickled (connections, locks, generators); or set isolation: thread."
        ) from error


def _make(path: str | None, functions: Sequence[str], timeout: float) -> Environment:
    factory = None if path is None else import_object(path)
    if isinstance(factory, type) and issubclass(factory, Environment):
        return factory()
    if factory is not None and not callable(factory):
        raise UserError(f"EnvironmentSampler: {path!r} is no class, and cannot be called to make an environment.")
    environment = ToolEnvironment.from_paths(functions, path, timeout)
    check_described(environment.tools)
    return environment
