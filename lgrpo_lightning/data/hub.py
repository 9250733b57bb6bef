"""Rows of data sets in the format of the ``datasets`` library: saved folders and the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lgrpo_lightning.data.readers import ROWS, read_table
from lgrpo_lightning.errors import NotFoundError, UserError


def read_dataset(path: str, split: str | None, subset: str | None, *, streaming: bool) -> Iterator[dict[str, Any]]:
    """The rows of a folder written by ``save_to_disk``, or else of a hub data set."""
    import datasets  # takes a second

    folder, quiet = Path(path).expanduser(), datasets.are_progress_bars_disabled()
    # they would be drawn through the run's own progress bar
    datasets.disable_progress_bars()
    try:
        if not folder.is_dir():
            data = datasets.load_dataset(path, subset, streaming=streaming)
        elif any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            data = datasets.load_from_disk(str(folder))
        else:
            raise NotFoundError(f"{path} is a folder, but not one written by datasets.save_to_disk. Name a file in it.")
    except (ConnectionError, ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        if folder.is_dir():
            raise
        raise NotFoundError(
            f"{path} is neither a file, nor a folder, nor a prompt source such as ArithmeticTasks, and as a "
            f"hub data set it cannot be loaded: {error}"
        ) from error
    finally:
        if not quiet:
            datasets.enable_progress_bars()
    for table in _choose_split(path, data, split).with_format("arrow").iter(ROWS):
        yield from read_table(table)


def _choose_split(path: str, data: Any, split: str | None) -> Any:
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
