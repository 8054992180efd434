"""The Target Service: targets as opsjobs keeps them, and credentials for one session."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from opsjobs.clock import Clock
from opsjobs.integrations.json_client import ServiceUnavailable
from opsjobs.integrations.secrets.ttl_cache import TtlCache
from opsjobs.integrations.services.client import ServiceClient, ServiceRefused
from opsjobs.integrations.services.profile import TargetCalls, find_field, first_field
from opsjobs.model import text_patterns
from opsjobs.model.credential import CredentialType
from opsjobs.model.secret import Secret
from opsjobs.model.target import PlatformTarget, TargetDraft, Transport
from opsjobs.model.validation_errors import plain_words
from opsjobs.model.winrm import HTTP_PORT
from opsjobs.telemetry.logs import log

TARGETS_MAX = 100_000
PARALLEL = 16
"""Requests at a time, if the service has no batch."""
SINGLE_MAX = 200
"""With more ids than that, and without a batch, all targets are read in pages."""
CREDENTIALS_SECONDS = 60.0
"""The time that a credential of the service may stay in memory."""
CREDENTIALS_MAX = 1_000
SECRET_CHARACTERS_MAX = 65_536
INACTIVE = frozenset({"inactive", "disabled", "deleted", "suspended", "locked"})
_MISSING = (404, 410)
_NO_BATCH = (404, 405, 501)

_PLATFORMS = (
    (re.compile(r"windows|win(32|64|_|-)"), "windows"),
    (re.compile(r"mac|darwin|os ?x"), "macos"),
    (re.compile(r"bsd"), "bsd"),
    (re.compile(r"network|ios|nx-?os|junos|eos|routeros|switch|router|firewall"), "network"),
)
_TAG = re.compile(r"(?P<key>[^=:]+)[=:](?P<value>.*)", re.DOTALL)
_LABEL_KEY = re.compile(text_patterns.LABEL_KEY)
_LABELS_MAX = 64
_ID = re.compile(rf"[1-9][0-9]{{0,17}}|{text_patterns.UUID.pattern}")


@dataclass(frozen=True, slots=True)
class FetchedTargets:
    """The targets of an answer, and the ids without a usable target."""

    found: Sequence[PlatformTarget]
    missing: Mapping[str, str] = field(default_factory=dict)
    """The reason for each, by id."""


@dataclass(frozen=True, slots=True)
class PlatformCredential:
    """A login from the Target Service, for one session."""

    type: CredentialType
    username: str
    password: Secret | None = None
    private_key: Secret | None = None
    passphrase: Secret | None = None


class _NoCredential(Exception):
    """The service has no credential for a target."""


class TargetService:
    """The targets of the platform; nothing is kept but credentials, for at most a minute."""

    def __init__(self, client: ServiceClient, calls: TargetCalls, clock: Clock) -> None:
        self._client = client
        self._calls = calls
        self._has_batch = calls.batch is not None
        self._credentials: TtlCache[PlatformCredential] = TtlCache(
            clock, seconds=CREDENTIALS_SECONDS, most=CREDENTIALS_MAX
        )

    @property
    def host(self) -> str:
        """The host of the service, for messages."""
        return self._client.health.host

    @property
    def has_credentials(self) -> bool:
        """True if the service has credentials of its targets."""
        return self._calls.credentials is not None

    async def fetch(self, ids: Sequence[str]) -> FetchedTargets:
        """Return these targets as they are now. Raises ServiceUnavailable."""
        if self._has_batch and len(ids) > 1:
            answers = await self._fetch_batches(ids)
            if answers is not None:
                return self._read(answers, asked=ids)
        if len(ids) > SINGLE_MAX:
            everything, wanted = await self.fetch_all(), set(ids)
            found = [target for target in everything.found if target.external_id in wanted]
            missing = wanted - {target.external_id for target in found}
            return FetchedTargets(
                found, {one: everything.missing.get(one, "it is not there") for one in missing}
            )
        answers = []
        for start in range(0, len(ids), PARALLEL):
            part = ids[start : start + PARALLEL]
            answers += await asyncio.gather(*(self._fetch_one(one) for one in part))
        return self._read([answer for answer in answers if answer is not None], asked=ids)

    async def fetch_all(self) -> FetchedTargets:
        """Return all targets. Raises ServiceUnavailable, including if there are too many."""
        call, answers, seen = self._calls.list, list[Any](), set[str | None]([None])
        while True:
            page = await self._client.get(
                call.path, {call.skip: len(answers), call.limit: call.page}
            )
            items = _items(page.body, call.items)
            # A page may be shorter than requested, so only an empty one is the end; a service that
            # knows no `skip` answers with the same targets again.
            fresh = [item for item in items if self._id(item) not in seen]
            if not fresh:
                return self._read(answers)
            seen.update(self._id(item) for item in fresh)
            answers += items
            if len(answers) > TARGETS_MAX:
                raise ServiceUnavailable(
                    f"the Target Service has more than {TARGETS_MAX} targets: too many to select "
                    "from. Name the targets by their ids"
                )

    async def credential(self, external_id: str) -> PlatformCredential | None:
        """Return the login of a target, at most a minute old; None: the service has none for it.

        That there is none is not cached: it may be stored now. Raises ServiceUnavailable.
        """
        try:
            return await self._credentials.get(
                external_id, lambda: self._fetch_credential(external_id)
            )
        except _NoCredential:
            return None

    def forget_credentials(self) -> None:
        """Drop all credentials from memory."""
        self._credentials.clear()

    async def _fetch_batches(self, ids: Sequence[str]) -> list[Any] | None:
        """Return the answers for many ids; None if this service has no batch after all."""
        call = self._calls.batch
        assert call is not None, "asked only if there is one"
        answers: list[Any] = []
        for start in range(0, len(ids), call.size):
            body = {call.ids: [_number(one) for one in ids[start : start + call.size]]}
            try:
                answer = await self._client.post(call.path, body, idempotent=True)
            except ServiceRefused as refused:
                if refused.status not in _NO_BATCH:
                    raise
                self._has_batch = False
                return None
            answers += _items(answer.body, call.items)
        return answers

    async def _fetch_one(self, id: str) -> Any:
        call = self._calls.get
        try:
            answer = await self._client.get(call.url(id))
        except ServiceRefused as refused:
            if refused.status in _MISSING:
                return None
            raise
        found = first_field(answer.body, call.data)
        if not isinstance(found, dict):
            raise ServiceUnavailable(f"the Target Service answers with no object for target {id}")
        return found

    async def _fetch_credential(self, external_id: str) -> PlatformCredential:
        call = self._calls.credentials
        if call is None:
            raise _NoCredential
        try:
            answer = await self._client.get(call.url(external_id))
        except ServiceRefused as refused:
            if refused.status in _MISSING:
                raise _NoCredential from None
            raise
        return parse_credential(first_field(answer.body, call.data))

    def _read(self, answers: Sequence[Any], *, asked: Sequence[str] = ()) -> FetchedTargets:
        found: dict[str, PlatformTarget] = {}
        missing = dict.fromkeys(asked, "it is not there")
        for answer in answers:
            external_id = self._id(answer)
            if external_id is None:
                continue
            try:
                draft = parse_target(answer, self._calls, external_id)
            except ValueError as unfit:
                missing[external_id] = str(unfit)
                log.warning("platform_target_ignored", target=external_id, reason=str(unfit))
                continue
            found[external_id] = PlatformTarget(external_id, draft)
            missing.pop(external_id, None)
        # A target that was not asked for is an error of the service: it must not be stored.
        wanted = set(asked)
        return FetchedTargets(
            [one for one in found.values() if not asked or one.external_id in wanted], missing
        )

    def _id(self, answer: Any) -> str | None:
        found = first_field(answer, self._calls.fields.id)
        return str(found) if isinstance(found, int | str) and found is not True else None


def parse_target(answer: Any, calls: TargetCalls, id: str) -> TargetDraft:
    """Return what opsjobs keeps of a target.

    Raises ValueError with the reason if it is unusable.
    """
    fields = calls.fields
    if not _ID.fullmatch(id):
        raise ValueError("its id is neither a whole number from 1 nor a UUID")
    if not is_active(first_field(answer, fields.active)):
        raise ValueError("it is not active")
    name, host = first_field(answer, fields.name), first_field(answer, fields.host)
    port, transport = first_field(answer, fields.port), first_field(answer, fields.transport)
    if calls.methods is not None and (methods := first_field(answer, [calls.methods])):
        method = _best_method(methods)
        host = find_field(method, "config.host") or host
        port = find_field(method, "config.port") or port
        transport = method.get("method_type", "ssh")
    tags = first_field(answer, fields.tags)
    labels, groups = _labels_and_groups(tags, first_field(answer, fields.labels))
    kind = _transport(transport)
    values = {
        "name": name if name is not None else f"target-{id}",
        "host": host,
        "transport": kind,
        "labels": labels,
        "groups": groups,
        **({"port": int(port)} if str(port).isdigit() else {}),
    }
    if kind is Transport.WINRM:
        values["winrm"] = {"scheme": "http" if values.get("port") == HTTP_PORT else "https"}
    else:
        values["platform"] = _platform(first_field(answer, fields.platform))
    try:
        return TargetDraft.model_validate(values)
    except ValidationError as wrong:
        fault = wrong.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "it"
        raise ValueError(f"{place}: {plain_words(fault)}") from None


def is_active(value: Any) -> bool:
    """Return False for a value that means that a target or a user is disabled."""
    if isinstance(value, str):
        return value.lower() not in INACTIVE | {"false", "0", "no"}
    return value is None or bool(value)


def parse_credential(found: Any) -> PlatformCredential:
    """Return the login of an answer. Raises ServiceUnavailable if it is none."""
    held = found if isinstance(found, dict) else {}
    username = held.get("username") or held.get("user")
    key = _secret(held, "private_key", "ssh_key", "key")
    password = _secret(held, "password")
    if not isinstance(username, str) or not username or (key is None and password is None):
        raise ServiceUnavailable(
            "the Target Service answers with a credential that has no username, or neither "
            "password nor private_key"
        )
    if isinstance(domain := held.get("domain"), str) and domain and "\\" not in username:
        username = f"{domain}\\{username}"
    if key is not None:
        passphrase = _secret(held, "passphrase", "ssh_passphrase")
        return PlatformCredential(
            CredentialType.SSH_KEY, username, private_key=key, passphrase=passphrase
        )
    return PlatformCredential(CredentialType.PASSWORD, username, password=password)


def _secret(held: Mapping[str, Any], *names: str) -> Secret | None:
    text = next((held[name] for name in names if held.get(name)), None)
    if not isinstance(text, str) or len(text) > SECRET_CHARACTERS_MAX:
        return None
    return Secret(text)


def _best_method(methods: Any) -> Mapping[str, Any]:
    """Return the primary active method, else the active one with the lowest priority."""
    usable = [
        method
        for method in (methods if isinstance(methods, list) else [])
        if isinstance(method, dict)
        and is_active(method.get("is_active"))
        and str(method.get("method_type", "")).lower() in _TRANSPORTS
    ]
    if not usable:
        raise ValueError(f"it has no active method of {', '.join(sorted(_TRANSPORTS))}")
    return min(usable, key=lambda one: (not one.get("is_primary"), _priority(one)))


def _priority(method: Mapping[str, Any]) -> float:
    priority = method.get("priority")
    return float(priority) if isinstance(priority, int | float) else float("inf")


# Never `local`: another service cannot have commands run on our own machine.
_TRANSPORTS = {transport.value: transport for transport in Transport if transport.value != "local"}


def _transport(given: Any) -> Transport:
    if given is None:
        return Transport.SSH
    transport = _TRANSPORTS.get(str(given).lower())
    if transport is None:
        raise ValueError(f"it is reached by {str(given)[:50]!r}, which is not supported")
    return transport


def _platform(given: Any) -> str:
    text = str(given or "").lower()
    return next((name for pattern, name in _PLATFORMS if pattern.search(text)), "linux")


def _labels_and_groups(tags: Any, labels: Any) -> tuple[dict[str, str], list[str]]:
    """Return the labels and groups; those that cannot be written in opsjobs are left out."""
    pairs: list[tuple[str, str]] = []
    groups: list[str] = []
    for tag in tags if isinstance(tags, list) else []:
        if not isinstance(tag, str):
            continue
        if (pair := _TAG.fullmatch(tag.strip())) is not None:
            pairs.append((pair["key"].strip(), pair["value"].strip()))
        elif (group := tag.strip()) and "," not in group and "/" not in group:
            groups.append(group)
    if isinstance(labels, dict):
        pairs += [
            (str(key), str(value).lower() if isinstance(value, bool) else str(value))
            for key, value in labels.items()
            if isinstance(value, str | int | float)
        ]
    fit = {key: value for key, value in pairs if _LABEL_KEY.fullmatch(key) and len(value) <= 200}
    return dict([*fit.items()][:_LABELS_MAX]), list(dict.fromkeys(groups))


def _items(body: Any, places: Sequence[str]) -> list[Any]:
    for place in places:
        if isinstance(found := first_field(body, [place]), list):
            return found
    raise ServiceUnavailable(
        "the Target Service answers without a list of targets: check TARGET_SERVICE_PROFILE"
    )


def _number(id: str) -> int | str:
    """Return an id as the service writes it: whole numbers are numbers."""
    return int(id) if id.isdigit() else id
