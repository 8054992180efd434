"""Job secrets: parameters whose values credentials hold. Judged at launch, opened by the worker for each run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from opsjobs.engine.compiled_spec import CompiledSpec
from opsjobs.engine.launching.launch_authz import CurrentRights, PrincipalLookup, in_words
from opsjobs.model.access import IdentityKind
from opsjobs.model.credential_binding import not_for_that, not_there
from opsjobs.model.errors import Conflict, FieldError, Invalid, RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.job import LaunchOrder
from opsjobs.model.parameter import ParameterDraft
from opsjobs.model.secret import Credential, JobSecret, Secret
from opsjobs.model.target import Target
from opsjobs.store.job_versions import secrets_author
from opsjobs.store.paging import PageRequest
from opsjobs.store.transaction import Database
from opsjobs.store.vault import Vault
from opsjobs.store.vault.binding import check_is_secret, refusal


class JobSecrets:
    """Look up and judge the credentials that give a launch its secrets.

    `standing`: asked what the author of a job may do now; None: the author is not asked about.
    """

    def __init__(
        self, database: Database, vault: Vault, standing: PrincipalLookup | None = None
    ) -> None:
        self._database = database
        self._vault = vault
        self._standing = standing

    async def fixed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values with the ids of the credentials that are named. Raises Invalid: unknown_credential, not_a_secret."""
        return {
            name: await self._fixed(value, f"/parameters/{name}") for name, value in values.items()
        }

    async def check_declared(self, declared: Sequence[ParameterDraft]) -> None:
        """Raise Invalid if a declared parameter names a credential that does not exist, or is a login."""
        for position, parameter in enumerate(declared):
            if parameter.from_credential is not None:
                await self._fixed(
                    JobSecret(parameter.from_credential), f"/parameters/{position}/from_credential"
                )

    async def check(self, order: LaunchOrder, targets: Sequence[Target]) -> None:
        """Raise Invalid if a secret is bound elsewhere, and Conflict if the job's author may not use credentials any more."""
        named = {
            name: value for name, value in order.parameters.items() if isinstance(value, JobSecret)
        }
        if not named:
            return
        await self._check_author(order)
        bound = await self._vault.bindings(
            {value.credential_id for value in named.values() if value.credential_id is not None}
        )
        names = {target.id: target.name for target in targets}
        for parameter, secret in named.items():
            if secret.credential_id not in bound:
                continue
            credential, binding = bound[secret.credential_id]
            pointer = f"/parameters/{parameter}"
            for outside in sorted(await self._vault.outside(binding, names), key=names.__getitem__):
                raise refusal(not_there(credential, names[outside]), pointer)
            if not binding.holds_job(order.job_id):
                raise refusal(not_for_that(credential, order.job_name), pointer)

    async def _check_author(self, order: LaunchOrder) -> None:
        """What a person who left the company has written does not go on to use credentials in that name."""
        if self._standing is None or order.job_id is None or order.job_version is None:
            return
        author = await secrets_author(self._database, order.job_id, order.job_version)
        if author is None or author.kind is None:
            return
        if await CurrentRights(self._standing).uses_credentials(
            author.name, cast("IdentityKind", author.kind)
        ):
            return
        detail = (
            f"Version {order.job_version} of the job {order.job_name!r} takes secrets from credentials, and its author {author.name} "
            f"({in_words(author.kind)}) does not hold credentials:use any more: save the job again as a caller who does."
        )
        raise Conflict("author_not_allowed", detail)

    async def _fixed(self, value: Any, pointer: str) -> Any:
        if not isinstance(value, JobSecret) or value.credential_id is not None:
            return value
        found = (
            await self._vault.list(PageRequest(limit=1, filters={"name": [value.credential]}))
        ).items
        if not found:
            detail = f"There is no credential {value.credential!r}: create it first (type secret), or name another one."
            raise Invalid(
                "unknown_credential",
                detail,
                errors=[FieldError(pointer, detail, "unknown_credential")],
            )
        check_is_secret(found[0].name, found[0].type.value, pointer)
        return replace(value, credential_id=str(found[0].id))


def credentials(courses: Iterable[CompiledSpec]) -> set[str]:
    """Return the ids of the credentials that hold secrets of these executions."""
    return {
        kept.credential_id
        for course in courses
        for kept in course.job_secrets.values()
        if kept.credential_id is not None
    }


def values(kept: Mapping[str, JobSecret], opened: Mapping[str, Credential]) -> dict[str, Secret]:
    """Return the secrets by parameter. Raises RemoteFailure(CREDENTIAL_MISSING) if one cannot be had."""
    return {
        name: _value(name, secret, opened.get(secret.credential_id or ""))
        for name, secret in kept.items()
    }


def _value(parameter: str, secret: JobSecret, credential: Credential | None) -> Secret:
    if credential is not None and credential.value is not None and credential.fault is None:
        return credential.value
    fault = (
        "is gone"
        if credential is None
        else f"cannot be used: {credential.fault or 'it holds no secret of jobs'}"
    )
    words = f"the credential {secret.credential!r}, which gives the parameter {parameter}, {fault}"
    raise RemoteFailure(ErrorCode.CREDENTIAL_MISSING, words)
