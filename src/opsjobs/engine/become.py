"""The user that an action becomes, and the credential for it.

The credential is pinned at launch, and opened by the worker just before the command starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from opsjobs.model.action import Action, RunningAction
from opsjobs.model.errors import FieldError, Invalid, RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.secret import Credential, CredentialType
from opsjobs.model.spool_identity import Become
from opsjobs.remote.secret_fetcher import Fetch
from opsjobs.store.ledger import Spec
from opsjobs.store.paging import PageRequest
from opsjobs.store.vault import Vault


async def pin_credentials(vault: Vault, actions: Sequence[Action]) -> list[dict[str, Any]]:
    """Return the actions as an execution stores them, with credential ids beside the names.

    Raises Invalid if a credential does not exist, or is not a password.
    """
    known: dict[str, str] = {}
    kept: list[dict[str, Any]] = []
    for position, action in enumerate(actions):
        body: dict[str, Any] = action.model_dump(mode="json")
        kept.append(body)
        if (
            not isinstance(action, RunningAction)
            or action.become is None
            or (name := action.become.credential) is None
        ):
            continue
        if name not in known:
            known[name] = await _id_of(vault, name, f"/actions/{position}/become/credential")
        body["become"]["credential_id"] = known[name]
    return kept


async def _id_of(vault: Vault, name: str, pointer: str) -> str:
    found = (await vault.list(PageRequest(limit=1, filters={"name": [name]}))).items
    if not found:
        detail = f"There is no credential {name!r}: create it first, or name another one."
        raise Invalid(
            "unknown_credential", detail, errors=[FieldError(pointer, detail, "unknown_credential")]
        )
    if found[0].type is not CredentialType.PASSWORD:
        detail = f"The credential {name!r} is of type {found[0].type.value}, but sudo and su ask for a password: name one of those."
        raise Invalid(
            "not_a_password", detail, errors=[FieldError(pointer, detail, "not_a_password")]
        )
    return str(found[0].id)


def become_requests(specs: Iterable[Spec]) -> list[Mapping[str, Any]]:
    """Return the `become` of each action that is to run as another user than the login."""
    return [action["become"] for spec in specs for action in spec.actions if action.get("become")]


def credential_ids(requests: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the ids of all credentials that these requests need."""
    return {
        str(wish["credential_id"]) for wish in requests if wish.get("credential_id") is not None
    }


def resolve_become(action: Mapping[str, Any], opened: Mapping[str, Credential]) -> Become | None:
    """Return the user that this action becomes; None if it runs as the login user.

    Raises RemoteFailure(CREDENTIAL_MISSING) if its password is gone.
    """
    if (wish := action.get("become")) is None:
        return None
    if (known := wish.get("credential_id")) is None:
        return Become(wish["user"], wish["method"])
    credential = opened.get(str(known))
    if credential is None or credential.password is None:
        fault = (
            "is gone"
            if credential is None
            else f"cannot be used: {credential.fault or 'it holds no password'}"
        )
        words = f"the credential {wish['credential']!r}, named at launch to become {wish['user']}, {fault}"
        raise RemoteFailure(ErrorCode.CREDENTIAL_MISSING, words)
    return Become(wish["user"], wish["method"], credential.password)


async def fetch_become_password(
    wish: Mapping[str, Any] | None, opened: Mapping[str, Credential], fetch: Fetch, purpose: str
) -> Mapping[str, Credential]:
    """Return `opened` with the password of this request.

    It is fetched now if it is stored externally. If it cannot be fetched, its credential has a
    fault instead.
    """
    return await fetch_secret(str((wish or {}).get("credential_id")), opened, fetch, purpose)


async def fetch_secret(
    known: str, opened: Mapping[str, Credential], fetch: Fetch, purpose: str
) -> Mapping[str, Credential]:
    """Return `opened` with the secrets of the credential of this id.

    They are fetched now if they are stored externally. If they cannot be fetched, the credential
    has a fault instead.
    """
    credential = opened.get(known)
    if credential is None or credential.source is None or credential.fault is not None:
        return opened
    try:
        return {**opened, known: await fetch(credential, purpose)}
    except RemoteFailure as missing:
        return {**opened, known: replace(credential, fault=missing.message.rstrip("."))}


def check_direct(action: Mapping[str, Any], reason: str) -> None:
    """Raise RemoteFailure(BECOME_FAILED) if a direct command was to run as another user.

    A direct command runs as the login user.
    """
    if (wish := action.get("become")) is not None:
        words = f"to become {wish['user']} needs a durable run, and {reason}; nothing was started"
        raise RemoteFailure(ErrorCode.BECOME_FAILED, words)
