"""Small changes of the machine, each in all the sources that it needs: docs/architecture.md shows
them where it says what to change for what, and a test applies them to a copy and runs it.

`python toy_changes.py NAME`, with the changed copy on the path, runs random programs on the
simulator, the reference and the RTL, and fails unless they agree on programs that use what is new.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SEEDS: Final = range(12)
_HW, _RTL, _SIM = "hw/systol_hw/", "hw/systol_hw/rtl/", "sim/systol_sim/"


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A change by name.

    Parameters
    ----------
    title
        What is added, as the page says it.
    most_files
        How many sources such a change may need.
    edits
        By source, texts that stand there once and what takes their places.
    """

    title: str
    most_files: int
    edits: Mapping[str, tuple[tuple[str, str], ...]]

    def apply(self, root: Path) -> None:
        """Make the change in the checkout `root`."""
        for place, pairs in self.edits.items():
            text = (root / place).read_text("utf-8")
            for old, new in pairs:
                assert text.count(old) == 1, f"{place} has {old!r} {text.count(old)} times"
                text = text.replace(old, new)
            (root / place).write_text(text, "utf-8")


TOYS: Mapping[str, Toy] = {
    "instruction": Toy(
        title="`pulse`, an instruction of control: the host's interrupt with `value` inverted",
        most_files=8,
        edits={
            _HW + "isa/operations.py": ((
                '    _unit("read_host", 0x10,',
                ('    _control("pulse", 0x07, "none", "As interrupt, with `value` inverted.",\n'
                '             _u("value", 16, "inverted, the number reported to the host")),\n'
                '    _unit("read_host", 0x10,'),
            ),),
            _RTL + "control/dispatch.py": ((
                '                        case "tag":\n',
                ('                        case "pulse":\n'
                "                            leaves = 1\n"
                "                            m.d.comb += [\n"
                "                                self.interrupt.eq(1),\n"
                "                                self.interrupt_value.eq(~fields.value),\n"
                "                            ]\n"
                '                        case "tag":\n'),
            ),),
            _SIM + "timing/state/table_columns.py": ((
                "REQUANTIZE, COPY, FILL, BINARY, TABLE = (",
                ('PULSE = OPERATION_BY_NAME["pulse"].opcode\n'
                "REQUANTIZE, COPY, FILL, BINARY, TABLE = ("),
            ),),
            _SIM + "timing/cycle/control.py": (
                ("    PORT,\n    REFUSED,", "    PORT,\n    PULSE,\n    REFUSED,"),
                (
                    "    elif kind == HALT:\n",
                    ("    elif kind == PULSE:\n"
                    "        _interrupt(m, log, row[VALUE] ^ 0xFFFF)\n"
                    "    elif kind == HALT:\n"),
                ),
            ),
            _SIM + "reference/executor.py": (
                (
                    "def _set_config(",
                    ("def _pulse(machine: Machine, i: Instruction) -> None:\n"
                    '    machine.interrupts.append(i["value"] ^ 0xFFFF)\n\n\n'
                    "def _set_config("),
                ),
                (
                    '    "sync_host": _report,\n',
                    '    "sync_host": _report,\n    "pulse": _pulse,\n',
                ),
            ),
            _SIM + "random_programs/generate.py": ((
                'instruction("interrupt", value',
                'instruction(rng.choice(("interrupt", "pulse")), value',
            ),),
        },
    ),
    "counter": Toy(
        title="`control.interrupts`, an amount: reports to the host",
        most_files=5,
        edits={
            _HW + "tables/counters.py": ((
                ")\n\"\"\"The per-tag sums, by counter group.\"\"\"",
                ('    Amount(group=19, unit=Unit.CONTROL, name="interrupts", measure="reports",\n'
                '           doc="reports to the host", formula="1"),\n'
                ")\n\"\"\"The per-tag sums, by counter group.\"\"\""),
            ),),
            _RTL + "contract/interfaces.py": ((
                '        "fetch_bytes": beat,\n',
                '        "fetch_bytes": beat,\n        "interrupts": 1,\n',
            ),),
            _RTL + "machine.py": ((
                "                tag = dispatch.tag\n            else:\n",
                ('                if amount.name == "interrupts":\n'
                "                    value = dispatch.interrupt\n"
                "                tag = dispatch.tag\n            else:\n"),
            ),),
            _SIM + "timing/cycle/control.py": (
                (
                    "from systol_sim.timing.state.codes import (\n",
                    ("from systol_hw.tables.faults import Unit\n"
                    "from systol_sim.timing.state.codes import amount_row\n"
                    "from systol_sim.timing.state.codes import (\n"),
                ),
                (
                    "\n\n@compiled\ndef decide_starts(",
                    ('\n_INTERRUPTS = amount_row(Unit.CONTROL, "interrupts")\n\n\n'
                    "@compiled\ndef decide_starts("),
                ),
                (
                    "    m.interrupt_count += 1\n",
                    "    m.interrupt_count += 1\n    m.amounts[_INTERRUPTS, m.tag] += 1\n",
                ),
            ),
            _SIM + "reference/executor.py": ((
                '    machine.interrupts.append(i["value"])\n',
                ('    machine.interrupts.append(i["value"])\n'
                '    machine.count(Unit.CONTROL, "interrupts", 1)\n'),
            ),),
        },
    ),
    "bank rule": Toy(
        title="the matrix outranks the weights' reads of the unified buffer",
        most_files=5,
        edits={
            _RTL + "memory/unified_buffer.py": ((
                '("store", "weights", "matrix", ', '("store", "matrix", "weights", ',
            ),),
            _SIM + "timing/stepper.py": ((
                "            weights_read(m, t)\n            taken = matrix_issues(m, t)\n",
                "            taken = matrix_issues(m, t)\n            weights_read(m, t)\n",
            ),),
            _SIM + "timing/cycle/buffers.py": (
                (
                    "    if mask & m.store_banks:\n",
                    "    if mask & (m.store_banks | m.matrix_banks):\n",
                ),
                (
                    "        if mask & (m.store_banks | m.weights_banks):\n",
                    "        if mask & m.store_banks:\n",
                ),
            ),
        },
    ),
    "vector operation": Toy(
        title="`Reduce.LAST`, of a window: the last tap inside, 0 if there is none",
        most_files=8,
        edits={
            _HW + "isa/choices.py": (("    MEAN = 2\n", "    MEAN = 2\n    LAST = 3\n"),),
            _HW + "isa/operations.py": ((
                "values=Reduce, maximum=Reduce.MEAN)", "values=Reduce, maximum=Reduce.LAST)",
            ),),
            _RTL + "vector/mode.py": (
                ("    sum: 1\n", "    sum: 1\n    last: 1\n"),
                (
                    "            new.binary.eq(is_binary),\n",
                    ("            new.binary.eq(is_binary),\n"
                    "            new.last.eq(window.reduce == Reduce.LAST),\n"),
                ),
            ),
            _RTL + "vector/lanes.py": ((
                "                reduction.total.eq(mode.sum),\n",
                ("                reduction.total.eq(mode.sum),\n"
                "                reduction.last.eq(mode.last),\n"),
            ),),
            _RTL + "vector/reduction.py": (
                ("    total: In(1)\n", "    total: In(1)\n    last: In(1)\n"),
                (
                    "greater.eq(number.as_signed() > number_before.as_signed())",
                    "greater.eq(self.last | (number.as_signed() > number_before.as_signed()))",
                ),
                ("empty & ~self.total)", "empty & ~self.total & ~self.last)"),
            ),
            _SIM + "reference/vector.py": ((
                "            else:\n                result[inside] += operand\n",
                ('            elif i["reduce"] == Reduce.LAST:\n'
                "                result[inside] = operand\n"
                "            else:\n                result[inside] += operand\n"),
            ),),
            _SIM + "values/vector_kernels.py": ((
                "                    values[c] += source[c]\n",
                ("                    last = f[REDUCE] == 3\n"
                "                    values[c] = source[c] + (0 if last else values[c])\n"),
            ),),
            _SIM + "random_programs/vector_proposals.py": ((
                "rng.choice((0, 0, 1, 2))", "rng.choice((0, 1, 2, 3, 3))",
            ),),
        },
    ),
}


def run(name: str) -> int:
    """Run programs on three executors; the number of those in which what is new happened."""
    from systol_hw.isa import decode
    from systol_hw.tables.counters import AMOUNTS
    from systol_sim import reference, simulator
    from systol_sim.comparison import differences
    from systol_sim.fuzz.machines import FUZZ_MACHINES
    from systol_sim.hardware import verilated
    from systol_sim.random_programs.generate import generate

    arch = FUZZ_MACHINES[0]
    met = 0
    for seed in SEEDS:
        case = generate(arch, seed, instructions=60)
        results = [
            run(case.program, case.contents)
            for run in (simulator.run, verilated.run, reference.run)
        ]
        for other in results[1:]:
            lines = differences(case.program, results[0], other)
            assert not lines, (seed, lines)
        items = [decode(row.tobytes()) for row in case.program.code]
        if name == "instruction":
            met += any(item.operation.name == "pulse" for item in items)
        elif name == "vector operation":
            met += any(item.get("reduce") == 3 for item in items)
        elif name == "counter":
            counters = results[0].counters
            assert counters is not None and AMOUNTS[-1].name == "interrupts"
            met += int(counters.amounts[-1].sum()) > 0
        else:
            coverage = results[0].coverage
            met += any("weights" in key and value > 0 for key, value in coverage.items())
    return met


if __name__ == "__main__":
    met = run(sys.argv[1])
    print(f"{met} of {len(SEEDS)} programs")
    sys.exit(not met)
