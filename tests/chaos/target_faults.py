"""Faults of machines: killed sshd, commands and keepers, full disks, power cuts, lost homes."""

from __future__ import annotations

from collections.abc import Callable, Collection

from chaos.fault_context import FaultContext
from chaos.machines import Machine, kill
from chaos.runner import Fault
from chaos.verdicts import LOST, NO_SPOOL, RIGHT, UNREACHABLE, Seen, honest_beginning

_AWAY = frozenset({UNREACHABLE})
_GONE = frozenset({LOST, UNREACHABLE})


def sshd_killed(context: FaultContext) -> None:
    context.launch(3.0)
    context.begun()
    machine = context.machine()
    machine.stop_sshd(sessions=True)
    context.pause(context.longer(1.0, 4.0))
    machine.start_sshd()
    context.cancel()


def sshd_restarted(context: FaultContext) -> None:
    context.launch(3.0)
    context.begun()
    for machine in context.cluster.fleet:
        machine.stop_sshd(sessions=False)
        machine.start_sshd()
    context.cancel()


# Disks: the files of the machine are the truth, and no more than that can be known.


def disk_full(moment: str) -> Callable[[FaultContext], None]:
    """Fill the disk before the start, while commands run, or shortly before they end."""

    def inject(context: FaultContext) -> None:
        machine = context.machine()
        context.own = _as_kept_on(machine)
        context.warm_up(machine.addresses)
        if moment == "before":
            machine.fill_disk()
        context.launch(2.0, cancel=False)
        context.begun()
        if moment == "at exit":
            context.pause(1.2)
        machine.fill_disk()
        context.pause(2.5)

    return inject


def _as_kept_on(machine: Machine) -> Callable[[Seen], str | None]:
    """Check a run there: its output is that of its files, and its end that of its commands.

    Or it could not be started at all.
    """

    def check(seen: Seen) -> str | None:
        if seen.row["host"] not in machine.addresses:
            return None
        for number, (starts, ends) in enumerate(zip(seen.starts, seen.ends, strict=True), start=1):
            result = seen.results.get(f"step-{number}")
            if not starts and _hangs_on_a_failure(seen, number):
                return RIGHT
            if result is None or not starts:
                return _could_not_begin(seen)
            if (fault := _differs(seen, machine, number, [end.code for end in ends])) is not None:
                return fault
        return RIGHT

    return check


def _hangs_on_a_failure(seen: Seen, number: int) -> bool:
    return any(
        seen.results[key]["status"] == "failed"
        for key in seen.launched.work.steps[number - 1].more.get("depends_on", ())
    )


def _could_not_begin(seen: Seen) -> str | None:
    row = seen.row
    if (row["status"], row["error_code"]) == ("failed", "interpreter_missing"):
        return NO_SPOOL
    return RIGHT if row["status"] == seen.launched.work.status else None


def _differs(
    seen: Seen, machine: Machine, number: int, codes: Collection[int | None]
) -> str | None:
    result, step = seen.results[f"step-{number}"], seen.launched.work.steps[number - 1]
    kept = machine.written(f"{seen.row['uuid']}.step-{number}.{result['attempt']}")
    if seen.heard(number) != kept:
        return f"step {number}: {[*map(len, seen.heard(number))]} bytes are stored, {[*map(len, kept)]} lie on the machine (I3)"
    status = step.status if step.timeout else "succeeded" if codes == [0] else "failed"
    if result["error_code"] == "disk_full":  # a part of its output is lost, whatever its exit code
        status = "failed"
    told = [] if step.timeout else [result["exit_code"]]
    if result["status"] != status or told != list(codes):
        return f"step {number} is {result['status']} with {result['exit_code']}, and testified {codes} (I10)"
    return None


# Power, homes, processes.


def power_cut(context: FaultContext) -> None:
    context.launch(3.0)
    context.begun(0.5)
    machine = context.machine()
    context.own = only_on(machine.addresses)
    context.moment(1.0)
    machine.power_off()
    context.pause(context.longer(0.5, 3.0))
    machine.boot()
    context.cancel()


def home_lost(context: FaultContext) -> None:
    """Replace the home with another or an empty one while commands run; connections break."""
    context.launch(3.0)
    context.begun(0.5)
    machine = context.machine()
    context.own = only_on(machine.addresses)
    machine.lose_store()
    context.cluster.network.reset(machine.addresses)
    context.cancel()


def only_on(addresses: Collection[str]) -> Callable[[Seen], str | None]:
    """An outcome may only be unknown there."""

    def check(seen: Seen) -> str | None:
        unknown = (
            seen.row["status"] in ("lost", "unreachable") and seen.row["host"] not in addresses
        )
        return f"is {seen.row['status']}, and its machine was left alone" if unknown else None

    return check


def keeper_killed(context: FaultContext) -> None:
    """Kill the keepers of commands; the commands continue, and their end cannot be known."""
    context.launch(3.0)
    context.begun(0.5)
    keepers = {
        pid: key for machine in context.cluster.fleet for pid, key in machine.keepers().items()
    }
    chosen = set(context.chance.sample(sorted(keepers), len(keepers) // 2))
    victims = {keepers[pid] for pid in chosen}
    context.own = only_of(victims)
    for pid in chosen:
        kill(pid)
    context.pause(0.5)
    context.cancel()


def only_of(keys: Collection[str]) -> Callable[[Seen], str | None]:
    """Only these runs may be lost."""
    runs = {key.partition(".")[0] for key in keys}

    def check(seen: Seen) -> str | None:
        unknown = seen.row["status"] == "lost" and str(seen.row["uuid"]) not in runs
        return "is lost, and was left alone" if unknown else None

    return check


def command_killed(context: FaultContext) -> None:
    """Kill commands with a signal that is not from opsjobs."""
    context.launch(3.0, cancel=False)
    context.begun(0.5)
    running = [
        (pid, key)
        for machine in context.cluster.fleet
        for pid, key in sorted(machine.durable_processes().items())
    ]
    keys = sorted({key for _, key in running})
    victims = set(context.chance.sample(keys, len(keys) // 2))
    context.own = _killed_by_somebody(victims)
    for pid, key in running:
        if key in victims:
            kill(pid)


def _killed_by_somebody(victims: Collection[str]) -> Callable[[Seen], str | None]:
    def check(seen: Seen) -> str | None:
        for number, ends in enumerate(seen.ends, start=1):
            result = seen.results.get(f"step-{number}")
            if (
                result is None
                or ends
                or f"{seen.row['uuid']}.step-{number}.{result['attempt']}" not in victims
            ):
                continue
            told = (seen.row["status"], result["status"], result["exit_code"], result["error_code"])
            if told != ("failed", "failed", None, "nonzero_exit") or not honest_beginning(seen):
                return f"step {number} was killed, and is {told}"
            return RIGHT
        return None

    return check


FAULTS = (
    Fault("sshd killed", "SIGKILL of a machine's sshd and all its sessions", sshd_killed, _AWAY),
    Fault(
        "sshd restarted",
        "the listener of every machine is killed and started; sessions go on",
        sshd_restarted,
        _AWAY,
    ),
    *(
        Fault(
            f"disk full {moment}",
            f"a machine's home has no block left {moment}",
            disk_full(moment),
            frozenset({NO_SPOOL}),
            needs_root=True,
        )
        for moment in ("before", "during", "at exit")
    ),
    Fault(
        "power cut",
        "a machine loses all its processes and comes back with another boot id",
        power_cut,
        _GONE,
        needs_root=True,
    ),
    Fault(
        "home lost",
        "another home is in its place, and connections break",
        home_lost,
        _GONE,
        needs_root=True,
        estranges=True,
    ),
    Fault(
        "keeper killed",
        "SIGKILL of those who wait for the commands' ends",
        keeper_killed,
        frozenset({LOST}),
        needs_root=True,
    ),
    Fault("command killed", "SIGKILL of commands", command_killed, needs_root=True),
)
