"""Files that come with the package."""

from pathlib import Path

from lgrpo_lightning.errors import NotFoundError


def folder(name: str) -> Path:
    """The folder of a shipped model.

    Raises:
        FileNotFoundError: There is none of that name; the message lists those there are.

    >>> folder("arithmetic").name
    'arithmetic'
    """
    here = Path(__file__).parent
    if not (here / name / "config.json").is_file():
        there = ", ".join(sorted(p.parent.name for p in here.glob("*/config.json"))) or "none"
        raise NotFoundError(f"No shipped model is called {name!r}. There are: {there}.")
    return here / name
