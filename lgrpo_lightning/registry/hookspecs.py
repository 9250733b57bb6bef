"""The one hook through which a package offers its components.

A plug-in is a module with a function of this name, marked with ``hookimpl`` and named in the package's
entry-point group ``lgrpo_lightning``::

    from lgrpo_lightning import hookimpl

    @hookimpl
    def lgrpo_components():
        return [MyReward]
"""

from collections.abc import Iterable

import pluggy

PROJECT = "lgrpo_lightning"
CONTRACT = 1
"""Version of the contracts. It rises when a component that keeps them today would not do so any more."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def lgrpo_components() -> Iterable[type]:  # type: ignore[empty-body]
    """Return the component classes of this package.

    Samplers, segmenters, reward models, advantage estimators, policy losses, prompt sources.
    """
