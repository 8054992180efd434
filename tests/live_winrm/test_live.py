"""The scenes on a real Windows host, which the environment names; recorded if it says where.

    LIVE_WINRM_HOST=10.0.0.9 LIVE_WINRM_USER=deploy LIVE_WINRM_PASSWORD_FILE=~/password \\
      make test ARGS=tests/live_winrm

LIVE_WINRM_OPTIONS is the field `winrm` of a target in JSON, such as {"scheme": "http"}.
LIVE_WINRM_RECORD is a folder for recordings.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kit.wsman_recording import Recording, RecordingConnector
from live_winrm.scenes import SCENES, HostUnderTest, Scene
from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.secret import Secret
from opsjobs.model.target import Endpoint, Target, Transport
from opsjobs.model.winrm import WinrmOptions
from opsjobs.remote.winrm.connect import WinrmConnector
from opsjobs.remote.winrm.pool import WinrmPool

HOST = os.environ.get("LIVE_WINRM_HOST", "")

pytestmark = pytest.mark.skipif(
    not HOST, reason="this machine cannot reach a Windows host: LIVE_WINRM_HOST names none"
)


def live_endpoint() -> Endpoint:
    """Return the host of the environment."""
    options = WinrmOptions(**json.loads(os.environ.get("LIVE_WINRM_OPTIONS", "{}")))
    user = os.environ["LIVE_WINRM_USER"]
    password = Path(os.environ["LIVE_WINRM_PASSWORD_FILE"]).expanduser().read_text().strip()
    target = Target(
        id="live",
        name="live",
        host=HOST,
        port=int(os.environ.get("LIVE_WINRM_PORT", options.port)),
        transport=Transport.WINRM,
        platform="windows",
        winrm=options,
    )
    login = Credential("live", 1, "live", CredentialType.PASSWORD, user, password=Secret(password))
    return Endpoint(target, login)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_a_real_host_does_what_is_expected(scene: Scene) -> None:
    endpoint = live_endpoint()
    recording = Recording(f"{scene.__name__}, recorded on a real host")
    pool = WinrmPool(RecordingConnector(recording))
    try:
        await scene(HostUnderTest(pool, endpoint))
    finally:
        await pool.close()
    if folder := os.environ.get("LIVE_WINRM_RECORD"):
        recording.save(Path(folder, f"{scene.__name__}.wsman"), await secrets_of(endpoint))


async def secrets_of(endpoint: Endpoint) -> dict[str, str]:
    """Return the secrets that a recording of this host must not contain, by their replacements."""
    assert endpoint.credential is not None
    assert endpoint.credential.password is not None
    pool = WinrmPool(WinrmConnector())
    try:
        machine, _, _ = await HostUnderTest(pool, endpoint).run("hostname")
    finally:
        await pool.close()
    user, _, realm = endpoint.credential.username.partition("@")
    domain, _, name = user.rpartition("\\")
    found = {
        "password": endpoint.credential.password.reveal(),
        "user": name,
        "domain": domain or realm,
        "host": HOST,
        "machine": machine.strip(),
    }
    return {word: secret for word, secret in found.items() if secret}
