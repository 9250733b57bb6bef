"""Errors that are meant for the user: ``lgrpo`` prints their message alone, and a traceback for every other error."""


class UserError(ValueError):
    """What the user gave cannot be used; the message says what was wrong, where, what is possible and what to do.

    Plug-ins raise it too, where their users can mend what is wrong.
    """


class NotFoundError(UserError, FileNotFoundError):
    """A file or folder that the user named is not there."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """What the user asked for needs a package that is not installed."""
