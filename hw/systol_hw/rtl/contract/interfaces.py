"""The interfaces between the parts of the RTL, and what of them follows from an `Arch`.

All are written from the requester's side (`Out` is what the requester drives); the other side uses
them flipped. Numbers in parentheses refer to docs/timing.md.
"""

from amaranth.hdl import signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from systol_hw.arch import Arch
from systol_hw.rtl.contract.widths import (
    ACCUMULATOR_BITS,
    ADDRESS_BITS,
    INSTRUCTION_BITS,
    STATE_BITS,
    TAG_BITS,
)
from systol_hw.tables.counters import AMOUNTS
from systol_hw.tables.faults import Unit


class UbReadSignature(wiring.Signature):
    """A read of `length` contiguous bytes at any byte address (4.1, 4.2).

    `request`, `address` and `length` (1..W) are held or changed freely; `grant` answers in the same
    cycle, combinationally. In the cycle after a grant `data` holds the bytes, the first one lowest;
    bytes from `length` on are unspecified. The requester has checked the range.
    """

    def __init__(self, arch: Arch):
        width = arch.ub_width_bytes
        super().__init__(
            {
                "request": Out(1),
                "address": Out(bits_for(arch.ub_bytes - 1)),
                "length": Out(bits_for(width)),
                "grant": In(1),
                "data": In(8 * width),
            }
        )


class UbWriteSignature(wiring.Signature):
    """A write of `length` contiguous bytes, `data` with the first byte lowest (4.1, 4.2)."""

    def __init__(self, arch: Arch):
        width = arch.ub_width_bytes
        super().__init__(
            {
                "request": Out(1),
                "address": Out(bits_for(arch.ub_bytes - 1)),
                "length": Out(bits_for(width)),
                "data": Out(8 * width),
                "grant": In(1),
            }
        )


class AccumulatorReadSignature(wiring.Signature):
    """Vector's read of one accumulator row; `data` in the cycle after the grant (4.3)."""

    def __init__(self, arch: Arch):
        super().__init__(
            {
                "request": Out(1),
                "row": Out(bits_for(arch.accumulator_rows - 1)),
                "grant": In(1),
                "data": In(data.ArrayLayout(32, arch.columns)),
            }
        )


class AccumulatorWriteSignature(wiring.Signature):
    """A matrix row's accumulator access (4.3, 6.6).

    `valid`, `row` and `accumulate` in the claim cycle t + A together with `sums` (signed, one for
    each column, wrapped) and `beyond` (the columns whose shifted sum 32 bits did not hold).
    `overflows` (columns that are beyond, or whose 32-bit addition wrapped) answers in the next
    cycle, t + A + 1, together with `done`.
    """

    def __init__(self, arch: Arch):
        super().__init__(
            {
                "valid": Out(1),
                "row": Out(bits_for(arch.accumulator_rows - 1)),
                "accumulate": Out(1),
                "sums": Out(data.ArrayLayout(signed(ACCUMULATOR_BITS), arch.columns)),
                "beyond": Out(arch.columns),
                "done": In(1),
                "overflows": In(bits_for(arch.columns)),
            }
        )


class BeatSignature(wiring.Signature):
    """One unit's access to one memory port (section 3).

    The unit presents a beat with `request`; `grant` answers in the same cycle. `address` is the
    byte address of the beat (aligned to the port's width) in weight memory or in window `window`;
    `burst_last` marks the last beat of its burst. For a write, `data` and `strobe` go with the
    grant. `user` comes back with the delivery, `latency_cycles` after the grant: `delivered` in one
    cycle, with `read_data` for reads.
    """

    def __init__(self, *, width_bytes: int, user_bits: int, write: bool):
        members = {
            "request": Out(1),
            "address": Out(ADDRESS_BITS),
            "window": Out(4),
            "burst_last": Out(1),
            "user": Out(user_bits),
            "grant": In(1),
            "delivered": In(1),
            "delivered_user": In(user_bits),
        }
        if write:
            members |= {"data": Out(8 * width_bytes), "strobe": Out(width_bytes)}
        else:
            members |= {"read_data": In(8 * width_bytes)}
        super().__init__(members)


class MemorySignature(wiring.Signature):
    """The machine's side of an external memory: requests and responses, both streams in order.

    A request is a beat: `address` in bytes (aligned), `window` on the host port. Every request has
    one response, in order, as early as the cycle after it was accepted: the data of a read, or the
    acknowledgement of a write. A memory that is fast enough never makes the pacer late.
    """

    def __init__(self, *, width_bytes: int):
        super().__init__(
            {
                "request_valid": Out(1),
                "request_ready": In(1),
                "request_write": Out(1),
                "request_window": Out(4),
                "request_address": Out(ADDRESS_BITS),
                "request_data": Out(8 * width_bytes),
                "request_strobe": Out(width_bytes),
                "response_valid": In(1),
                "response_ready": Out(1),
                "response_data": In(8 * width_bytes),
            }
        )


def unit_amounts(unit: Unit) -> dict[str, int]:
    """Names of a unit's amounts and the counter group of each, in table order."""
    return {amount.name: amount.group for amount in AMOUNTS if amount.unit is unit}


class EngineSignature(wiring.Signature):
    """Between a unit's frame (queue, tokens, start, flight, states) and its engine (accesses).

    Written from the frame's side.

    Members
    -------
    start, word
        High in the start cycle (5.2), with the instruction's 512 bits: the engine loads its loops.
    active
        Registered: an instruction is active. It falls after `performed & last`.
    retire_tag
        Tag of the oldest instruction in flight.
    ready
        The engine's own start condition (5.2.4); constant 1 but for VECTOR.
    performed, last
        The current access is performed in this cycle; it is the instruction's last.
    state
        State code (systol_hw.tables.counters) while active.
    end
        The oldest instruction in flight ends in this cycle.
    address_fault
        The current access is out of range (5.5); meaningful while active.
    amount_<name>
        What to add in this cycle to each of the unit's amounts, charged to the active
        instruction's tag, but `overflows` of MATRIX to `retire_tag`, and `saturations` and
        `overflows` of VECTOR to the tag of the instruction started last.
    """

    def __init__(self, unit: Unit, amount_bits: dict[str, int]):
        assert set(amount_bits) == set(unit_amounts(unit))
        super().__init__(
            {
                "start": Out(1),
                "word": Out(INSTRUCTION_BITS),
                "active": Out(1),
                "retire_tag": Out(TAG_BITS),
                "ready": In(1),
                "performed": In(1),
                "last": In(1),
                "state": In(STATE_BITS),
                "end": In(1),
                "address_fault": In(1),
            }
            | {f"amount_{name}": In(bits) for name, bits in amount_bits.items()}
        )


def amount_bits(arch: Arch, unit: Unit) -> dict[str, int]:
    """Width of what each amount of `unit` can grow by in one cycle."""
    beat = bits_for(max(arch.weight_port.width_bytes, arch.host_port.width_bytes))
    widths = {
        "fetch_bytes": beat,
        "host_bytes": beat,
        "weight_bytes": beat,
        "ub_bytes": bits_for(arch.ub_width_bytes),
        "useful_macs": bits_for(arch.rows * arch.columns),
        "padding_macs": bits_for(arch.rows * arch.columns),
        "overflows": bits_for(arch.columns),
        "saturations": bits_for(arch.columns),
        "elements": bits_for(arch.columns),
    }
    return {name: widths[name] for name in unit_amounts(unit)}


class TileSignature(wiring.Signature):
    """From the weight FIFO's shift sequencer (6.4) to the matrix unit; written from the sequencer.

    Members
    -------
    full, shifting
        Registered state of the shadow plane as the matrix issue sees it (6.4): both low is empty.
    columns_live
        n_live of the tile that is in the shadow plane (valid while `full`).
    take
        The issuing row is the first of its tile and takes the plane in this cycle. A shift may
        start in the same cycle.
    shift, weights
        The weight rows, aligned so that they enter the array's top exactly as the array's contract
        wants for a row that issues in the cycle u + R: `shift` is high for R consecutive cycles,
        u + 2 .. u + R + 1, with rows R-1 .. 0, dead rows and columns zero; a row that issues in
        cycle t enters the array in cycle t + 2.
    """

    def __init__(self, arch: Arch):
        super().__init__(
            {
                "full": Out(1),
                "shifting": Out(1),
                "columns_live": Out(bits_for(arch.columns)),
                "take": In(1),
                "shift": Out(1),
                "weights": Out(data.ArrayLayout(signed(8), arch.columns)),
            }
        )
