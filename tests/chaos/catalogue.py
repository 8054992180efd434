"""All faults, and those that are possible on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from chaos import (
    barrier_faults,
    network_faults,
    process_faults,
    server_faults,
    storm_faults,
    target_faults,
    windows_faults,
)
from chaos.machines import IS_ROOT
from chaos.runner import Fault

FAULTS: Sequence[Fault] = (
    *process_faults.FAULTS,
    *server_faults.FAULTS,
    *network_faults.FAULTS,
    *target_faults.FAULTS,
    *windows_faults.FAULTS,
    *barrier_faults.FAULTS,
    *storm_faults.FAULTS,
)


def chosen(names: Sequence[str] = ()) -> list[Fault]:
    """Return those whose name contains one of these (without any:

    all) and that are possible here.
    """
    found = [fault for fault in FAULTS if not names or any(name in fault.name for name in names)]
    return [fault for fault in found if IS_ROOT or not fault.needs_root]
