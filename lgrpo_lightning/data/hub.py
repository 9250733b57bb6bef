"""Rows of data sets in the format of the ``datasets`` library: saved folders and the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lgrpo_lightning.data.arrow import table_rows
from lgrpo_lightning.errors import MissingPackageError, NotFoundError, UserError


def dataset_rows(path: str, split: str | None, subset: str | None) -> list[dict[str, Any]]:
    """The rows of a folder written by ``save_to_disk``, or else of a hub data set.

    Raises:
        ModuleNotFoundError: The ``datasets`` library is not installed.
        FileNotFoundError: There is no such folder or hub data set.
        ValueError: The split does not exist, or there are several and none was named.
    """
    folder = Path(path).expanduser()
    try:
        import datasets
    except ModuleNotFoundError as error:
        what = "a saved data set" if folder.is_dir() else "neither a file nor a folder, so a hub data set"
        raise MissingPackageError(
            f"{path} is {what}, and reading one needs: pip install 'lgrpo_lightning[datasets]'. Otherwise "
            "give a .jsonl, .json, .parquet, .arrow or .csv file, or a prompt source such as ArithmeticTasks."
        ) from error
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            raise NotFoundError(
                f"{path} is a folder, but not one written by datasets.save_to_disk. Name a file in it."
            )
        data = datasets.load_from_disk(str(folder))
    else:
        data = _hub_dataset(path, subset)
    return table_rows(_only_split(path, data, split).with_format("arrow")[:])


def _hub_dataset(path: str, subset: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(path, subset)
    except (FileNotFoundError, ConnectionError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise NotFoundError(
            f"{path} is neither a file, nor a folder, nor a prompt source such as ArithmeticTasks, and as a "
            f"hub data set it cannot be loaded: {error}"
        ) from error


def _only_split(path: str, data: Any, split: str | None) -> Any:
    """The split called ``split``, or the only one there is."""
    if not isinstance(data, dict):
        if split is not None:
            raise UserError(f"{path} holds a single data set, without splits; leave split={split!r} out.")
        return data
    if split is None and len(data) == 1:
        return next(iter(data.values()))
    if split not in data:
        problem = "several splits" if split is None else f"no split {split!r}"
        raise UserError(f"{path} has {problem}. Set split to one of: {', '.join(map(repr, data))}.")
    return data[split]
