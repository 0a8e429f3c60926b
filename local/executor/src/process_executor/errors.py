"""The executor's errors.

ExecutorError
 +-- SettingError            a variable is missing or wrong; the message names it
 +-- UnsupportedFunctionError  a kind of function that cannot run as a process
 +-- StoppingError           LocalStack is being stopped
"""


class ExecutorError(Exception):
    """Anything that keeps the executor from running a function."""


class SettingError(ExecutorError):
    """An environment variable of the executor is missing or does not fit."""


class UnsupportedFunctionError(ExecutorError):
    """The function cannot run as a process of this interpreter."""


class StoppingError(ExecutorError):
    """LocalStack is being stopped; nothing new is started."""
