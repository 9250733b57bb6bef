"""Generated tasks of reasoning-gym."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from lgrpo_lightning import PromptSource
from lgrpo_lightning.errors import UserError, require

TAGGED = "Give the final answer between <answer> and </answer>."
"""An instruction that ``ReasoningGymReward``'s default reads."""


class ReasoningGymTasks(PromptSource):
    """Tasks of a reasoning-gym data set, or of several mixed.

    A row has the columns ``prompt``, ``answer`` (the data set's own, None where it has several) and ``entry`` (all that
    its scorer needs). The same arguments give the same rows on every machine.

    Args:
        dataset: A name such as ``chain_sum``; or several, each ``{name, weight, config}``.
        config: The data set's own options, such as ``{min_terms: 2, max_terms: 3}``: its difficulty.
        size: Number of tasks.
        seed: Which tasks. Give training and validation different seeds.
        template: The prompt; ``{question}``, ``{answer}`` and what the task's metadata hold stand for themselves.

    Raises:
        ValueError: There is no such data set, or it refuses its options; the message says which and what is possible.
    """

    def __init__(
        self,
        dataset: str | list[dict[str, Any]],
        config: dict[str, Any] | None = None,
        size: int = 1000,
        seed: int = 0,
        template: str = "{question}\n" + TAGGED + "\n",
    ) -> None:
        require("ReasoningGymTasks: ", locals(), (size >= 1, "size", "at least 1"))
        self.dataset, self.config, self.size, self.seed = dataset, config or {}, size, seed
        self.template = template
        self._made = made(dataset, {**self.config, "size": size, "seed": seed})

    def rows(self) -> Sequence[dict[str, Any]]:
        entries = [self._made[i] for i in range(self.size)]
        return [{"prompt": self._prompt(e), "answer": e["answer"], "entry": e} for e in entries]

    def _prompt(self, entry: Mapping[str, Any]) -> str:
        try:
            return self.template.format(question=entry["question"], **_values(entry))
        except (KeyError, IndexError, ValueError) as error:
            known = ", ".join(sorted({"question", *_values(entry)}))
            raise UserError(
                f"ReasoningGymTasks: template is {self.template!r}, which does not fit ({error}); it may name {known}."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "_made"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["dataset"], state["config"], state["size"], state["seed"], state["template"])  # type: ignore[misc]


def made(dataset: str | Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Any:
    """The data set."""
    import reasoning_gym
    from reasoning_gym.composite import DatasetSpec

    names = [dataset] if isinstance(dataset, str) else [str(spec.get("name")) for spec in dataset]
    for name in names:
        check_name(name)
    try:
        if isinstance(dataset, str):
            return reasoning_gym.create_dataset(dataset, **config)
        specs = [
            DatasetSpec(name=s["name"], weight=float(s.get("weight", 1.0)), config=dict(s.get("config") or {}))
            for s in dataset
        ]
        return reasoning_gym.create_dataset("composite", datasets=specs, **config)
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"ReasoningGymTasks: {', '.join(names)} refuses its options: {error}") from error


def check_name(name: str) -> None:
    """Refuse a name that is no data set's."""
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS or name == "composite":
        near = difflib.get_close_matches(name, DATASETS, n=3)
        meant = f" Did you mean {', '.join(near)}?" if near else ""
        raise UserError(f"ReasoningGymTasks: reasoning-gym has no data set {name!r}.{meant} It has {len(DATASETS)}.")


def _values(entry: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {str(k): v for k, v in (entry.get("metadata") or {}).items()}
    return {**metadata, "answer": entry["answer"]} if "question" not in metadata else {"answer": entry["answer"]}
