"""Register the lab's machines as targets.

They get credential `lab`, group `lab`, label `lab=true` and pinned host keys.
"""

from __future__ import annotations

import asyncio

from pydantic import SecretStr

from opsjobs.model.credential import CredentialDraft
from opsjobs.model.errors import Unavailable
from opsjobs.model.secret import CredentialType
from opsjobs.model.target import SelectionDraft, Target, TargetDraft
from opsjobs.standalone.lab.folder import LabFolder, LabRecord, Machine
from opsjobs.store.inventory import TargetInventory
from opsjobs.store.paging import PageRequest
from opsjobs.store.vault import Vault

LAB = "lab"
_WRITES_AT_ONCE = 8


async def register(inventory: TargetInventory, vault: Vault, folder: LabFolder) -> None:
    """Update credential and targets to the record of the folder; remove obsolete machines.

    Idempotent. Raises Unavailable if the lab does not run.
    """
    record = folder.read()
    if record is None:
        raise Unavailable(f"The lab in {folder.path} does not run.")
    credential_id = await _ensure_credential(vault, record.user, folder.client_key.read_text())
    known = {
        target.name: target
        for target in await inventory.resolve(SelectionDraft(selector="lab=true"))
    }
    room = asyncio.Semaphore(_WRITES_AT_ONCE)

    async def ensure(machine: Machine) -> None:
        async with room:
            await _ensure_target(
                inventory, _draft(machine, record), known.get(machine.name), credential_id
            )

    async with asyncio.TaskGroup() as tasks:
        for machine in record.machines:
            tasks.create_task(ensure(machine))
    for name in known.keys() - {machine.name for machine in record.machines}:
        await inventory.delete(known[name].id)


async def _ensure_credential(vault: Vault, user: str, private_key: str) -> str:
    draft = CredentialDraft(
        name=LAB, type=CredentialType.SSH_KEY, username=user, private_key=SecretStr(private_key)
    )
    found = (await vault.list(PageRequest(limit=1, filters={"name": [LAB]}))).items
    if not found:
        await vault.create(draft)
        found = (await vault.list(PageRequest(limit=1, filters={"name": [LAB]}))).items
        return str(found[0].id)
    opened = (await vault.open_many([str(found[0].id)])).get(str(found[0].id))
    held = opened.private_key.reveal().strip() if opened and opened.private_key else None
    if held != private_key.strip() or found[0].username != user:
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


def _same(known: Target, draft: TargetDraft, credential_id: str) -> bool:
    held = (
        known.host,
        known.port,
        known.credential,
        [" ".join(k.split()[:2]) for k in known.host_keys],
        list(known.groups),
    )
    return held == (draft.host, draft.port, credential_id, draft.host_keys, draft.groups)
