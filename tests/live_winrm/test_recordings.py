"""The recorder, shown on the stand-in: each scene is recorded, and passes again as a replay."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.windows_hosts import PASSWORD, USER, windows_host
from kit.wsman_recording import Exchange, Recording, RecordingConnector, find_secret, load
from kit.wsman_replay import replayed
from live_winrm.scenes import SCENES, HostUnderTest, Scene, pipelines
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.pool import WinrmPool

SECRETS = {"password": PASSWORD, "user": USER, "host": "127.0.0.1"}
RECORDINGS = sorted(Path(__file__).parent.glob("recordings/*.wsman"))


async def record(scene: Scene) -> Recording:
    """Play the scene on a stand-in, and record it."""
    recording = Recording(f"{scene.__name__}, recorded on the stand-in of the lab")
    async with windows_host() as host:
        pool = WinrmPool(RecordingConnector(recording))
        try:
            await scene(HostUnderTest(pool, host.endpoint()))
        finally:
            await pool.close()
    return recording


async def replay(scene: Scene, recording: Recording) -> None:
    """Play the scene on a host that answers as recorded."""
    async with replayed(recording.exchanges) as (host, endpoint):
        pool = WinrmPool(WinrmConnector())
        try:
            await scene(HostUnderTest(pool, endpoint))
        finally:
            await pool.close()
        assert host.unexpected == []


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_a_scene_that_was_recorded_passes_as_a_replay(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "scene.wsman"
    (await record(scene)).save(file, SECRETS)
    text = file.read_text()
    assert not any(find_secret(text, secret) for secret in SECRETS.values())
    await replay(scene, load(file))


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.stem)
async def test_recordings_of_the_repository_are_understood(file: Path) -> None:
    scene = next(scene for scene in SCENES if scene.__name__ == file.stem)
    await replay(scene, load(file))


async def test_the_steps_of_a_login_are_recorded_without_tokens(tmp_path: Path) -> None:
    file = tmp_path / "scene.wsman"
    (await record(pipelines)).save(file, SECRETS)
    steps = load(file).handshakes
    assert [(step.scheme, step.status) for step in steps][:2] == [
        ("Negotiate", 401),
        ("Negotiate", 200),
    ]
    assert "TlRM" not in file.read_text()  # with which a token of NTLM begins


def test_a_recording_with_a_secret_is_not_written(tmp_path: Path) -> None:
    recording = Recording("x", exchanges=[Exchange("Get", "<a>x</a>", 200, "<b/>")])
    recording.about = f"the password is {PASSWORD}"
    with pytest.raises(AssertionError, match="holds the password"):
        recording.save(tmp_path / "x", SECRETS)
    assert not (tmp_path / "x").exists()


async def test_a_client_that_asks_for_something_else_is_told() -> None:
    recording = await record(pipelines)
    recording.exchanges = [one for one in recording.exchanges if one.action != "Receive"]
    with pytest.raises(Exception, match="no answer to this"):
        await replay(pipelines, recording)
