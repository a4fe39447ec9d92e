"""Every error a user of Systol can meet, by who must act on it.

A message states the rule that was broken, the value that broke it, the place, and the remedy.
The command line turns each class into its own exit status (`exit_status`).
"""


class SystolError(Exception):
    """Base of all errors that Systol raises on purpose."""

    exit_status = 1


class InputError(SystolError):
    """The user's input (a shape, a file, an option) is wrong; the user can mend it."""

    exit_status = 3


class UnsupportedModelError(SystolError):
    """The model states something that the compiler cannot express; its author must change it."""

    exit_status = 4


class ConfigurationError(SystolError):
    """An `Arch` is inconsistent; the machine's designer must change it."""

    exit_status = 5


class InvalidProgramError(SystolError):
    """A program breaks a rule of valid programs (docs/timing.md, section 9)."""

    exit_status = 6


class BinaryFormatError(SystolError):
    """An accelerator binary is damaged, truncated, hostile or of another version."""

    exit_status = 7


class MissingToolError(SystolError):
    """A tool that this operation needs is not installed; the message names the remedy."""

    exit_status = 8


class MachineFaultError(SystolError):
    """The machine stopped with a fault; the message gives cause, unit, pc and cycle."""

    exit_status = 9


class DifferenceError(SystolError):
    """Two executors disagree: a bug in Systol itself, never in the user's program."""

    exit_status = 10
