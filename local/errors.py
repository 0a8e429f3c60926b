"""Errors of the local tool, each with a message for the person at the terminal.

LocalError                something the user can act on; the message says how
├── SettingError          a setting has a value that cannot be used
├── PortTakenError        a port is in use by someone else
├── PartDiedError         a part of the stack ended while it was needed
├── NotReadyError         a part did not become ready in the time it is given
├── CommandError          a command that the tool ran failed
├── RunFailedError        the pipeline's run failed or did not end
└── PartlyLoadedError     the run ended, and a part of it was not loaded
"""


class LocalError(Exception):
    """Something went wrong that the user can act on."""

    exit_status = 1


class SettingError(LocalError):
    """A setting has a value that cannot be used."""


class PortTakenError(LocalError):
    """A port that a part needs is in use by something else."""


class PartDiedError(LocalError):
    """A part of the stack ended while it was needed."""


class NotReadyError(LocalError):
    """A part did not become ready in the time it is given."""


class CommandError(LocalError):
    """A command that the tool ran failed."""


class RunFailedError(LocalError):
    """The pipeline's run failed or did not end in time."""


class PartlyLoadedError(LocalError):
    """The pipeline's run ended, and a part of it was not loaded."""

    exit_status = 3
