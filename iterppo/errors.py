"""Every error a user can meet: one base class, and per kind of trouble an exit status.

The message is one line: what is wrong, where, what to do. Each class takes the message alone, so
that errors survive pickling (torchrun sends them between processes), and also inherits the builtin
that it stands for.
"""


class IterPPOError(Exception):
    """Base of all errors that a command turns into one line on standard error."""

    exit_status = 2


class GateError(IterPPOError):
    """A gate said no: what was asked can be done, and should not be."""

    exit_status = 1


class UsageError(IterPPOError, ValueError):
    """Wrong usage or configuration."""

    exit_status = 2


class DivergenceError(IterPPOError, ArithmeticError):
    """A training whose numbers are no longer finite, as where a learning rate is too high."""

    exit_status = 2


class DataError(IterPPOError, ValueError):
    """Input data that cannot be used."""

    exit_status = 3


class ArtifactError(IterPPOError, OSError):
    """An artifact is missing, damaged, of another kind or of another version."""

    exit_status = 4


class ProcessError(IterPPOError, RuntimeError):
    """One of several processes that work together ended, without a reason that it could tell."""

    exit_status = 5
