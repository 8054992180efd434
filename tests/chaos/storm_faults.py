"""Several faults at once, by chance."""

from __future__ import annotations

from collections.abc import Callable

from chaos.judge import UNREACHABLE
from chaos.play import Fault
from chaos.scene import Scene
from e2e.cluster import WORKERS

BLOWS = 10


def storm(scene: Scene) -> None:
    """Ten blows, a few tenths of a second apart, at whatever it may be."""
    scene.launch(5.0)
    scene.begun(0.2)
    blows: tuple[Callable[[Scene], None], ...] = (
        _kill_worker, _freeze_worker, _reset, _stall, _kill_api, _drop_redis, _kill_session, _restart_sshd,
    )  # fmt: skip
    for _ in range(BLOWS):
        scene.chance.choice(blows)(scene)
        scene.moment(0.8)
    scene.cancel()


def _kill_worker(scene: Scene) -> None:
    name = scene.chance.choice(WORKERS)
    if scene.stage.running[name].alive:
        scene.stage.running[name].kill()
    scene.stage.spawn(name)


def _freeze_worker(scene: Scene) -> None:
    frozen = scene.worker()
    if frozen.alive:
        frozen.freeze()
        scene.moment(1.0)
        frozen.thaw()


def _reset(scene: Scene) -> None:
    scene.stage.network.reset(scene.some_addresses())


def _stall(scene: Scene) -> None:
    scene.stage.network.stall(scene.some_addresses())
    scene.moment(1.0)
    scene.stage.network.heal()


def _kill_api(scene: Scene) -> None:
    if scene.stage.running["api"].alive:
        scene.stage.running["api"].kill()
    scene.stage.spawn("api")


def _drop_redis(scene: Scene) -> None:
    if scene.stage.valkey.running:
        scene.stage.kill_server(scene.stage.valkey)
    else:
        scene.stage.valkey.start()


def _kill_session(scene: Scene) -> None:
    scene.soon(scene.stage.kill_a_backend, 0.0)


def _restart_sshd(scene: Scene) -> None:
    machine = scene.machine()
    machine.stop_sshd(sessions=True)
    machine.start_sshd()


FAULTS = (Fault("storm", "ten of these at once, by chance", storm, frozenset({UNREACHABLE})),)
