"""What the datasheets say of the GPUs that kernels are compiled for. Nothing here was measured by us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LATENCY = 700e-9  # seconds from a load to its data under load: the order of what is published for all of them


@dataclass(frozen=True)
class Machine:
    """``units``: streaming multiprocessors or compute units. ``pipes``: lanes a clock and unit that each kind of instruction gets; "issue" is
    what the schedulers can start. ``registers`` (of 32 bits) belong to each of ``schedulers`` and go to warps in steps of ``granule`` a lane."""

    name: str
    units: int
    clock: float
    bandwidth: float
    tensor: float  # bfloat16 operations a second, dense
    pipes: Mapping[str, int]
    warp_size: int
    schedulers: int
    warps: int  # a unit
    registers: int
    granule: int
    shared: int  # bytes a unit
    shared_reserve: int = 0  # bytes that a block takes beside its own
    blocks: int = 32

    def lanes(self, pipe: str) -> float:
        """Lane-instructions a second over the whole GPU."""
        return self.units * self.pipes[pipe] * self.clock

    def resident_warps(self, registers: int, shared: int, warps_per_block: int) -> int:
        """Warps of a kernel that a unit holds at once."""
        rounded = max(self.granule, -(-registers // self.granule) * self.granule)
        by_registers = min(self.warps // self.schedulers, self.registers // (rounded * self.warp_size)) * self.schedulers
        by_shared = self.shared // (shared + self.shared_reserve) if shared else self.blocks
        return min(by_registers // warps_per_block, by_shared, self.blocks) * warps_per_block

    @property
    def bytes_in_flight(self) -> float:
        """What each unit must have asked for to keep the memory busy (Little's law)."""
        return LATENCY * self.bandwidth / self.units


def _nvidia(name: str, units: int, clock: float, bandwidth: float, tensor: float, floats: int, shared: int) -> Machine:
    pipes = {"issue": 128, "float": floats, "alu": 64, "special": 16, "shuffle": 32}
    return Machine(name, units, clock, bandwidth, tensor, pipes, 32, 4, 64, 16384, 8, shared << 10, 1024)


MACHINES = {
    "sm_80": _nvidia("A100 80 GB SXM", 108, 1.41e9, 2.0e12, 312e12, 64, 164),
    "sm_90": _nvidia("H100 SXM", 132, 1.755e9, 3.35e12, 989e12, 128, 228),
    "sm_100": _nvidia("B200", 148, 1.85e9, 8.0e12, 2250e12, 128, 228),
    # CDNA 3: four SIMDs of 16 lanes; transcendentals take four turns of the vector pipe
    "gfx942": Machine("MI300X", 304, 2.1e9, 5.3e12, 1307e12, {"issue": 64, "special": 16, "shuffle": 64}, 64, 4, 32, 512 * 64, 8, 64 << 10),
    # RDNA 3: two SIMDs of 32 lanes a compute unit, transcendentals beside them
    "gfx1100": Machine("RX 7900 XTX", 96, 2.5e9, 0.96e12, 122.8e12, {"issue": 64, "special": 16, "shuffle": 64}, 32, 2, 32, 1536 * 32, 24, 64 << 10),
}
