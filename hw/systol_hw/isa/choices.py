"""What the fields that choose among a few things can say: a name and a text for each value.

The table of operations states which field takes which; docs/isa.md shows the texts.
"""

import enum

__all__ = ["Choice", "ConfigRegister", "Function", "OperandWidth", "Reduce", "ResultWidth",
           "TableWidth"]  # fmt: skip


class Choice(enum.IntEnum):
    """A value of a field."""

    @property
    def text(self) -> str:
        """What the instruction set's page says of it."""
        return self.name.lower()


class Reduce(Choice):
    """Over the taps of a window; `MEAN` sums and has parameters by the number of taps inside, for
    all channels alike."""

    MAX = 0
    SUM = 1
    MEAN = 2


class Function(Choice):
    """Of two operands."""

    ADD = 0
    MUL = 1
    MIN = 2
    MAX = 3


class OperandWidth(Choice):
    """Of an operand in the unified buffer."""

    BYTE = 0
    WIDE = 1

    @property
    def text(self) -> str:
        """What the instruction set's page says of it."""
        return ("signed bytes", "sixteen bits")[self]

    @property
    def planes(self) -> int:
        """Byte planes."""
        return 1 + self


class ResultWidth(Choice):
    """Of a vector instruction's results; `RAW` are accumulators as they are."""

    BYTE = 0
    WIDE = 1
    RAW = 2

    @property
    def text(self) -> str:
        """What the instruction set's page says of it."""
        return ("signed bytes", "sixteen bits", "raw 32 bits")[self]

    @property
    def planes(self) -> int:
        """Byte planes."""
        return 1 << self


class TableWidth(Choice):
    """Of a function's table: every value of a byte, or knots with straight lines between them."""

    BYTES = 0
    KNOTS = 1

    @property
    def text(self) -> str:
        """What the instruction set's page says of it."""
        return f"{self.entries} " + ("signed bytes", "sixteen-bit knots")[self]

    @property
    def entries(self) -> int:
        """Values, or knots: one more than there are lines."""
        return 256 + self

    @property
    def table_bytes(self) -> int:
        """Size of the whole table."""
        return self.entries * (1 + self)


class ConfigRegister(Choice):
    """What `set_config` writes."""

    WATCHDOG = 0
    STATUS = 1

    @property
    def text(self) -> str:
        """What the instruction set's page says of it."""
        return ("the watchdog's limit", "the status word")[self]
