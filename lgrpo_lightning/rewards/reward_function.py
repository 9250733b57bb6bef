"""Any reward function written for TRL's GRPOTrainer, unchanged."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # type: ignore[attr-defined]

from lgrpo_lightning.contracts import RewardModel
from lgrpo_lightning.distributed.interruption import abandon_if_stopping
from lgrpo_lightning.distributed.worker_thread import call_with_limit
from lgrpo_lightning.errors import UserError, mapped, require
from lgrpo_lightning.process_tree import ProcessTree
from lgrpo_lightning.registry.import_path import import_object
from lgrpo_lightning.rewards.background_loop import BackgroundLoop
from lgrpo_lightning.rewards.checks import RewardError
from lgrpo_lightning.rewards.function_call import NEVER_PASSED, PASSED, FunctionCall
from lgrpo_lightning.types import Group, Progress, Rewards

OnError = Literal["stop", "none"]


class RewardFunction(RewardModel):
    """Calls a reward function as TRL does, once per rollout with all groups one after the other.

    The function gets keyword arguments, each list with one entry per completion: ``prompts`` and
    ``completions`` (strings; for chat prompts lists of messages, ``completions[i][0]["content"]``),
    ``completion_ids``, one list for each other data column, and ``trainer_state``
    (``transformers.TrainerState``), ``log_extra(column, values)`` and ``log_metric(name, value)``. It returns
    a list of numbers; None means "does not apply": it adds
    nothing to the sum, and a completion without any reward leaves its group. It may be ``async``. A function without
    ``**kwargs`` gets only what it names; data columns that it names without a default are checked to exist
    before the first step.

    Args:
        function: Import path of the function, such as ``my_rewards.brevity`` (also from the working
            directory), or the function itself.
        name: What its rewards are logged under; the function's name by default.
        kwargs: Further keyword arguments for the function, the same at every call.
        timeout: Seconds that an ``async`` function, or one on a ``thread``, may take for one rollout.
        thread: Run a function that is not ``async`` on a thread, so that ``timeout`` holds for it; else nothing can
            interrupt it. One that took too long is abandoned and goes on beside the run. Not for functions that set
            signal handlers, as math-verify does.
        on_error: What a call leads to that raises, takes too long or returns what are no rewards: "stop" ends the
            run, "none" makes its completions "does not apply", as None does.
        max_errors_in_a_row: With "none", so many calls that fail one after the other end the run.

    Raises:
        ValueError: The import path leads nowhere, to something that cannot be called, or to a function that
            cannot take these arguments.

    >>> from lgrpo_lightning.testing import toy_group, toy_tree
    >>> def brevity(completions, **kwargs):
    ...     return [-float(len(c)) for c in completions]
    >>> group = toy_group(["abc", "d"])
    >>> RewardFunction(brevity).score_batch([group], [toy_tree(group)])[0].outcome.tolist()
    [-3.0, -1.0]
    """

    call_type: ClassVar[type[FunctionCall]] = FunctionCall

    def __init__(
        self,
        function: str | Callable[..., Any],
        name: str | None = None,
        kwargs: dict[str, Any] | None = None,
        timeout: float = 1800.0,
        thread: bool = False,
        on_error: OnError = "stop",
        max_errors_in_a_row: int = 10,
    ) -> None:
        require(
            "RewardFunction: ",
            locals(),
            (timeout > 0, "timeout", "a number of seconds above 0"),
            (on_error in ("stop", "none"), "on_error", "'stop' or 'none'"),
            (max_errors_in_a_row >= 1, "max_errors_in_a_row", "at least 1"),
        )
        self.function = import_object(function) if isinstance(function, str) else function
        if not callable(self.function) or isinstance(self.function, type):
            what = "the class" if isinstance(self.function, type) else f"a {type(self.function).__name__}:"
            raise UserError(
                f"RewardFunction needs a function, or an instance with __call__; got {what} {_name_callable(function)}."
            )
        self._name = name or _name_callable(self.function)
        self.kwargs = mapped("RewardFunction: kwargs", {} if kwargs is None else kwargs)
        self.timeout = timeout
        self.thread = thread
        self.on_error, self.max_errors_in_a_row = on_error, max_errors_in_a_row
        self.errors_in_a_row = 0
        self._accepts, self.columns, self._reserved = check_arguments(  # type: ignore[misc]
            self.function, self._name, self.kwargs, self.call_type.passed
        )
        self._loop = BackgroundLoop()
        self._progress = Progress()
        self._warned_of_nan = self._warned_of_failure = False

    @property
    def name(self) -> str:
        return self._name

    def check_row(self, row: Mapping[str, Any]) -> None:
        if clash := sorted(self._reserved & set(row)):
            raise UserError(
                f"reward function {self.name!r} takes {', '.join(clash)}, and the data has a column of that name, "
                f"which it cannot be given: {', '.join(self.call_type.passed)} are the call's own. Rename the column."
            )

    def start(self, progress: Progress) -> None:
        self._progress = progress

    def score_batch(self, groups: Sequence[Group], trees: Sequence[ProcessTree]) -> list[Rewards]:
        if not groups:
            return []
        call = self.call_type(name=self.name, groups=tuple(groups), trees=tuple(trees))
        passed = {**call.make_arguments(self._progress), **self.kwargs}
        if self._accepts is not None:
            passed = {key: value for key, value in passed.items() if key in self._accepts}
        try:
            rewards = call.read_rewards(call.run_guarded(lambda: self._call(passed)))
        except RewardError as error:
            self._note_failure(error)
            return call.fail()
        self.errors_in_a_row = 0
        self._warn_of_nan(call, rewards)
        return rewards

    def _call(self, passed: Mapping[str, Any]) -> Any:
        if self.thread:
            value = call_with_limit(lambda: self.function(**passed), timeout=self.timeout, look=abandon_if_stopping)
        else:
            value = self.function(**passed)
        return self._loop.wait_for_result(value, timeout=self.timeout) if inspect.isawaitable(value) else value

    def _note_failure(self, error: RewardError) -> None:
        """Count a failed call; raise it where the run is to stop, else warn of the first."""
        self.errors_in_a_row += 1
        if self.on_error == "stop":
            raise error
        if self.errors_in_a_row >= self.max_errors_in_a_row:
            raise RewardError(
                f"Reward function {self.name!r} failed {self.errors_in_a_row} times in a row (max_errors_in_a_row). "
                f"The last time: {error}"
            ) from error
        if not self._warned_of_failure:
            self._warned_of_failure = True
            warnings.warn(
                f"{error}\nIts completions count as 'does not apply' (on_error: none), which adds nothing to their "
                f"reward. rewards/{self.name}/errors shows how often that happens; it is not warned of again.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _warn_of_nan(self, call: FunctionCall, rewards: Sequence[Rewards]) -> None:
        """Say once that NaN was returned, which is rarely meant."""
        count = int(rewards[0].metrics.get(f"rewards/{self.name}/nan", 0))
        if count and not self._warned_of_nan:
            self._warned_of_nan = True
            rank_zero_warn(
                f"Reward function {self.name!r} returned NaN for {count} of {sum(call.sizes)} {call.each}s. It counts "
                "as 'does not apply', as None does: it adds nothing to the reward. Return None where that is meant; "
                f"rewards/{self.name}/nan counts the others."
            )

    def teardown(self) -> None:
        self._loop.close()


def _name_callable(function: Any) -> str:
    """A function's name, that of what a ``functools.partial`` wraps, or an instance's class name; a path's end."""
    if isinstance(function, str):
        return function.replace(":", ".").rpartition(".")[2]
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def check_arguments(
    function: Any, name: str, kwargs: Mapping[str, Any], passed: Sequence[str] = PASSED
) -> tuple[frozenset[str] | None, tuple[str, ...], frozenset[str]]:
    """(argument names that the function takes, None for all; data columns it requires; names it has no column for)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C, without a signature
        return None, (), frozenset()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if positional:
        raise UserError(f"Reward function {name!r} takes {positional} by position only; arguments go by keyword.")
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    taken = frozenset(p.name for p in named)
    wrong = [key for key in kwargs if key in passed or not (takes_all or key in taken)]
    if wrong:
        raise UserError(
            f"Reward function {name!r} cannot be given kwargs {wrong}: it takes {sorted(taken - set(passed))}"
            f"{' and any other' if takes_all else ''}, and {', '.join(passed)} are passed already."
        )
    columns = tuple(p.name for p in named if p.default is p.empty and p.name not in {*passed, *kwargs})
    if never := sorted({*NEVER_PASSED} & {*columns}):
        raise UserError(
            f"Reward function {name!r} takes {', '.join(never)}, which is never passed, whatever the data has: "
            f"{', '.join(passed)} and the other data columns are. Rename the argument, or give it a default."
        )
    reserved = (taken & {*passed, *NEVER_PASSED}) - {"prompt", *kwargs}  # every row has a prompt
    return (None if takes_all else taken), columns, reserved
