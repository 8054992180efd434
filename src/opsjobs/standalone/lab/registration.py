"""Register the lab's machines as targets.

SSH servers get credential `lab`, group `lab`, label `lab=true` and pinned host keys; stand-ins of
Windows hosts get credential and group `lab-windows`, and the label `os=windows-like`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pydantic import SecretStr

from opsjobs.model.credential import CredentialType
from opsjobs.model.credential_draft import CredentialDraft
from opsjobs.model.errors import Unavailable
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.target import Target, TargetDraft, Transport
from opsjobs.standalone.lab.folder import LabFolder, LabRecord, Machine
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.paging import PageRequest
from opsjobs.store.vault.credentials import Vault

LAB = "lab"
WINDOWS = "lab-windows"
WINDOWS_LABEL = "windows-like"
_WRITES_AT_ONCE = 8


async def register(inventory: TargetInventory, vault: Vault, folder: LabFolder) -> None:
    """Update credential and targets to the record of the folder; remove obsolete machines.

    Idempotent. Raises Unavailable if the lab does not run.
    """
    record = _read(folder)
    key = SecretStr(folder.client_key.read_text())
    login = CredentialDraft(
        name=LAB, type=CredentialType.SSH_KEY, username=record.user, private_key=key
    )
    await _register(inventory, vault, login, record, selector="lab=true", draft=_draft)


async def register_windows(inventory: TargetInventory, vault: Vault, folder: LabFolder) -> None:
    """Update credential and targets of the stand-in Windows hosts, as `register`."""
    record = _read(folder)
    password = SecretStr(folder.password.read_text())
    login = CredentialDraft(
        name=WINDOWS, type=CredentialType.PASSWORD, username=record.user, password=password
    )
    selector = f"os={WINDOWS_LABEL}"
    await _register(inventory, vault, login, record, selector=selector, draft=_windows_draft)


def _read(folder: LabFolder) -> LabRecord:
    record = folder.read()
    if record is None:
        raise Unavailable(f"The lab in {folder.path} does not run.")
    return record


async def _register(
    inventory: TargetInventory,
    vault: Vault,
    login: CredentialDraft,
    record: LabRecord,
    *,
    selector: str,
    draft: Callable[[Machine, LabRecord], TargetDraft],
) -> None:
    credential_id = await _ensure_credential(vault, login)
    known = {
        target.name: target for target in await inventory.resolve(SelectionDraft(selector=selector))
    }
    room = asyncio.Semaphore(_WRITES_AT_ONCE)

    async def ensure(machine: Machine) -> None:
        async with room:
            await _ensure_target(
                inventory, draft(machine, record), known.get(machine.name), credential_id
            )

    async with asyncio.TaskGroup() as tasks:
        for machine in record.machines:
            tasks.create_task(ensure(machine))
    for name in known.keys() - {machine.name for machine in record.machines}:
        await inventory.delete(known[name].id)


async def _ensure_credential(vault: Vault, draft: CredentialDraft) -> str:
    named = PageRequest(limit=1, filters={"name": [draft.name]})
    found = (await vault.list(named)).items
    if not found:
        await vault.create(draft)
        found = (await vault.list(named)).items
        return str(found[0].id)
    opened = (await vault.open_many([str(found[0].id)])).get(str(found[0].id))
    held = [secret.reveal().strip() for secret in opened.secrets] if opened is not None else []
    wanted = [secret.strip() for secret in draft.revealed().values()]
    if held != wanted or found[0].username != draft.username:
        await vault.replace(str(found[0].id), draft)
    return str(found[0].id)


async def _ensure_target(
    inventory: TargetInventory, draft: TargetDraft, known: Target | None, credential_id: str
) -> None:
    if known is None:
        await inventory.create(draft)
    elif not _same(known, draft, credential_id):
        await inventory.replace(known.id, draft)


def _draft(machine: Machine, record: LabRecord) -> TargetDraft:
    key = " ".join(record.host_key.split()[:2])
    return TargetDraft(
        name=machine.name,
        host="127.0.0.1",
        port=machine.port,
        labels={"lab": "true"},
        groups=[LAB],
        credential=LAB,
        host_keys=[key],
    )


def _windows_draft(machine: Machine, _record: LabRecord) -> TargetDraft:
    return TargetDraft.model_validate(
        {
            "name": machine.name,
            "host": "127.0.0.1",
            "port": machine.port,
            "transport": Transport.WINRM,
            "winrm": {"scheme": "http"},
            "labels": {"os": WINDOWS_LABEL},
            "groups": [WINDOWS],
            "credential": WINDOWS,
        }
    )


def _same(known: Target, draft: TargetDraft, credential_id: str) -> bool:
    held = (
        known.host,
        known.port,
        known.credential,
        [" ".join(k.split()[:2]) for k in known.host_keys],
        list(known.groups),
    )
    return held == (draft.host, draft.port, credential_id, draft.host_keys, draft.groups)
