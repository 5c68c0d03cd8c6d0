"""How the machine is used: processes, threads, memory, installed packages."""

from k2core.machine.compute import Compute
from k2core.machine.processes import Processes

__all__ = ["Compute", "Processes"]
