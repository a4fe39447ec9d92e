"""What each stage is told: how finely it is cut, and where its buffers look for a place."""

from dataclasses import dataclass, field
from enum import StrEnum

from systol_compiler.plan.tiling import Cut


class Placement(StrEnum):
    """Where in the unified buffer a stage's requests look for a place."""

    CALM = "where units disturb each other least"
    ENDS = "at two ends"
    """What the matrix unit reads is stacked from the bottom, the rest from the top."""
    MIDDLE = "at two ends, large buffers between"
    """As `ENDS`, but what is larger than a bank chooses first, with room beneath it for what the
    matrix unit reads meanwhile: one buffer may nearly fill the memory."""


@dataclass(frozen=True, kw_only=True)
class StageChoice:
    """The choices of one stage."""

    cut: Cut = field(default_factory=Cut)
    placement: Placement = Placement.CALM


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The choices of all stages: of those that `stages` does not name, `default`."""

    default: StageChoice = field(default_factory=StageChoice)
    stages: tuple[StageChoice, ...] = ()

    def at(self, time: int) -> StageChoice:
        """The choices of stage `time` of a group."""
        return self.stages[time] if time < len(self.stages) else self.default
