"""Resolve the names in a launch: credentials of actions and parameters, uploaded files.

They are looked up once, so that an execution keeps exactly these, whatever is renamed or uploaded
later. Credentials may be bound to machines and jobs: a launch outside of the binding is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from opsjobs.engine.launching.launch_authz import CurrentRights, PrincipalLookup
from opsjobs.integrations.targets import Targets, load_jump_hosts
from opsjobs.model.action import Action
from opsjobs.model.action_base import RunningAction
from opsjobs.model.credential import CredentialType, not_for_that, not_there
from opsjobs.model.errors import Conflict, FieldError, Invalid, NotFound
from opsjobs.model.identity import Identity, IdentityKind
from opsjobs.model.job import LaunchOrder
from opsjobs.model.parameter import ParameterDraft
from opsjobs.model.secret import JobSecret
from opsjobs.model.target import Target
from opsjobs.store.files import Files
from opsjobs.store.job_versions import secrets_author
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database
from opsjobs.store.vault.binding import check_is_secret, refusal
from opsjobs.store.vault.credentials import Vault
from opsjobs.store.vault.rows import StoredCredential


async def pin_become_credentials(vault: Vault, actions: Sequence[Action]) -> list[dict[str, Any]]:
    """Return the actions as an execution stores them, with credential ids next to the names.

    Raises Invalid if a credential does not exist, or is not a password.
    """
    ids: dict[str, str] = {}
    pinned: list[dict[str, Any]] = []
    for position, action in enumerate(actions):
        body: dict[str, Any] = action.model_dump(mode="json")
        pinned.append(body)
        become = action.become if isinstance(action, RunningAction) else None
        if become is None or become.credential is None:
            continue
        name = become.credential
        if name not in ids:
            ids[name] = await _password_id(vault, name, f"/actions/{position}/become/credential")
        body["become"]["credential_id"] = ids[name]
    return pinned


async def _password_id(vault: Vault, name: str, pointer: str) -> str:
    credential = await _find_credential(vault, name, CredentialType.PASSWORD, pointer)
    if credential.type is not CredentialType.PASSWORD:
        detail = (
            f"The credential {name!r} is of type {credential.type.value}, but sudo and su need a "
            "password: name a credential of type password."
        )
        raise _invalid("not_a_password", detail, pointer)
    return str(credential.id)


async def _find_credential(
    vault: Vault, name: str, type_: CredentialType, pointer: str
) -> StoredCredential:
    found = (await vault.list(PageRequest(limit=1, filters={"name": [name]}))).items
    if not found:
        detail = (
            f"There is no credential {name!r}: create it (type {type_.value}), or name another one."
        )
        raise _invalid("unknown_credential", detail, pointer)
    return found[0]


async def pin_files(files: Files, actions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the actions with the uuid of each uploaded file as its source. Raises Invalid.

    A source with a template names a file only once it is rendered: the transfer looks that up.
    """
    return [
        await _pin_file(files, position, action)
        if names_uploaded_file(action["type"], action.get("direction"), action.get("source", ""))
        else dict(action)
        for position, action in enumerate(actions)
    ]


def names_uploaded_file(type_: str, direction: str | None, source: str) -> bool:
    """Return True if the action transfers an uploaded file that is already named at launch."""
    return type_ == "file_transfer" and direction == "upload" and "${" not in source


async def _pin_file(files: Files, position: int, action: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {**action, "source": (await files.get(action["source"])).uuid}
    except NotFound:
        name = action["source"][:60]
        detail = f"There is no file {name!r}: upload it first (POST /files), and use its id."
        raise _invalid("unknown_file", detail, f"/actions/{position}/source") from None


class JobSecrets:
    """Look up and check the credentials that give a launch its secret parameters.

    `current_principal` looks up the current rights of a job's author; None: they are not checked.
    """

    def __init__(
        self, database: Database, vault: Vault, current_principal: PrincipalLookup | None = None
    ) -> None:
        self._database = database
        self._vault = vault
        self._current_principal = current_principal

    async def pin(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values with the ids of the credentials that they name.

        Raises Invalid: unknown_credential, not_a_secret.
        """
        return {
            name: await self._pin_value(value, f"/parameters/{name}")
            for name, value in values.items()
        }

    async def check_declared(self, declared: Sequence[ParameterDraft]) -> None:
        """Raise Invalid if a declared parameter names an unknown credential, or a login."""
        for position, parameter in enumerate(declared):
            if parameter.from_credential is not None:
                secret = JobSecret(parameter.from_credential)
                await self._pin_value(secret, f"/parameters/{position}/from_credential")

    async def check(self, order: LaunchOrder, targets: Sequence[Target]) -> None:
        """Check that these secrets may be used for this job on these targets.

        Raises Invalid if one is bound to other targets or jobs, and Conflict if the job's author
        may no longer use credentials.
        """
        secrets = {
            name: value for name, value in order.parameters.items() if isinstance(value, JobSecret)
        }
        if not secrets:
            return
        await self._check_author(order)
        bindings = await self._vault.bindings(
            {secret.credential_id for secret in secrets.values() if secret.credential_id}
        )
        names = {target.id: target.name for target in targets}
        for parameter, secret in secrets.items():
            if secret.credential_id not in bindings:
                continue
            credential, binding = bindings[secret.credential_id]
            pointer = f"/parameters/{parameter}"
            outside = await self._vault.outside(binding, names)
            if outside:
                first = min(names[target_id] for target_id in outside)
                raise refusal(not_there(credential, first), pointer)
            if not binding.holds_job(order.job_id):
                raise refusal(not_for_that(credential, order.job_name), pointer)

    async def _check_author(self, order: LaunchOrder) -> None:
        """Check that the author of the job's version may still use credentials.

        So a job whose author has left does not continue to use credentials in that name.
        """
        if self._current_principal is None or order.job_id is None or order.job_version is None:
            return
        author = await secrets_author(self._database, order.job_id, order.job_version)
        if author is None or author.kind is None:
            return
        identity = Identity(cast("IdentityKind", author.kind), author.name)
        if await CurrentRights(self._current_principal).uses_credentials(identity):
            return
        raise Conflict(
            "author_not_allowed",
            f"Version {order.job_version} of the job {order.job_name!r} takes secrets from "
            f"credentials, and its author {author.name} ({identity.noun}) no longer holds "
            "credentials:use: save the job again as a caller who does.",
        )

    async def _pin_value(self, value: Any, pointer: str) -> Any:
        if not isinstance(value, JobSecret) or value.credential_id is not None:
            return value
        credential = await _find_credential(
            self._vault, value.credential, CredentialType.SECRET, pointer
        )
        check_is_secret(credential.name, credential.type.value, pointer)
        return replace(value, credential_id=str(credential.id))


async def check_bindings(
    vault: Vault,
    inventory: Targets,
    targets: Sequence[Target],
    actions: Sequence[Mapping[str, Any]],
    *,
    job_id: int | None,
    job: str,
) -> None:
    """Raise Invalid("credential_bound") if a credential is bound to other targets or jobs.

    Checked are the logins of the targets and of their jump hosts, and the passwords with which
    these frozen actions become another user.
    """
    logins: Sequence[Target] = targets
    if any(target.jump for target in targets):
        jump_hosts = await load_jump_hosts(inventory, targets)
        logins = list({target.id: target for target in (*targets, *jump_hosts)}.values())
    uses = [("/targets", t.credential, t) for t in logins if t.credential is not None and t.bound]
    uses += _become_uses(actions, targets)
    if not uses:
        return
    bindings = await vault.bindings({credential for _, credential, _ in uses})
    for credential, (name, binding) in bindings.items():
        uses_of_it = {t.id: (pointer, t) for pointer, used, t in uses if used == credential}
        for outside in await vault.outside(binding, uses_of_it):
            pointer, target = uses_of_it[outside]
            raise refusal(not_there(name, target.name), pointer)
        if not binding.holds_job(job_id):
            pointer, _ = next(iter(uses_of_it.values()))
            raise refusal(not_for_that(name, job if job_id is not None else None), pointer)


def _become_uses(
    actions: Sequence[Mapping[str, Any]], targets: Sequence[Target]
) -> Iterable[tuple[str, str, Target]]:
    for position, action in enumerate(actions):
        credential = (action.get("become") or {}).get("credential_id")
        if credential is None:
            continue
        only = None if action.get("target_ids") is None else frozenset(action["target_ids"])
        for target in targets:
            if only is None or target.id in only:
                yield f"/actions/{position}/become/credential", str(credential), target


def _invalid(code: str, detail: str, pointer: str) -> Invalid:
    return Invalid(code, detail, errors=[FieldError(pointer, detail, code)])
