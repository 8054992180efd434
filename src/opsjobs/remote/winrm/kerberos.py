"""Get Kerberos tickets; each credential has a cache of its own in memory.

The extra `kerberos` brings the libraries, MIT Kerberos through krb5 and gssapi. They block, so they
are called in threads of their own. They read krb5.conf, but never the credential cache or the
keytab of the process.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

from opsjobs.model.credential import Credential, CredentialType
from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Target

_MISSING = ""
try:
    import gssapi  # pyspnego needs it, too
    import krb5
except ImportError as error:
    _MISSING = str(error)
else:
    if not hasattr(gssapi.raw, "acquire_cred_from"):
        _MISSING = "this Kerberos library has no credential caches of its own"

THREADS = 8
"""Logins of one process that wait for a KDC at a time."""
CACHES_MAX = 256
"""The oldest cache is destroyed beyond that; its credential gets new tickets when needed."""
REFUSED_SECONDS = 60.0
"""For this long the KDC's refusal or silence is valid for all targets of a credential."""
RENEW_SECONDS = 300.0
"""Tickets that end within this time are not used for a new login."""
NO_CACHE = "MEMORY:opsjobs-none"
"""The name of a cache that is never filled: pyspnego then does not ask a KDC by itself."""

Made = TypeVar("Made")


class KdcError(IntEnum):
    """Codes of MIT Kerberos that have a message of their own (krb5.h)."""

    CLIENT_UNKNOWN = -1765328378
    SERVICE_UNKNOWN = -1765328377
    CLIENT_REVOKED = -1765328366
    PASSWORD_EXPIRED = -1765328361
    PASSWORD_WRONG = -1765328360
    DECRYPTION_FAILED = -1765328353
    CLOCK = -1765328347
    CLOCK_OF_KDC = -1765328236
    REALM_UNKNOWN = -1765328230
    UNREACHABLE = -1765328228
    KEY_NOT_FOUND = -1765328203
    CANNOT_RESOLVE = -1765328164


WITHOUT_KDC = frozenset({KdcError.REALM_UNKNOWN, KdcError.UNREACHABLE, KdcError.CANNOT_RESOLVE})
"""No KDC was reached."""


class KerberosFailure(RemoteFailure):
    """A login that Kerberos did not carry; `reason` is the code, if it is a known one."""

    def __init__(self, code: ErrorCode, message: str, reason: KdcError | None = None) -> None:
        super().__init__(code, message)
        self.reason = reason

    @property
    def elsewhere(self) -> bool:
        """True if the KDC did not judge the password: NTLM may still log in."""
        return self.reason is KdcError.CLIENT_UNKNOWN or self.reason in WITHOUT_KDC


def principal(credential: Credential) -> str | None:
    """Return the principal of a login; None for a user without a realm.

    The realm of a password's user is written in upper case, as domains of Windows are.
    """
    if credential.type is CredentialType.KERBEROS:
        return credential.username
    user, at, realm = credential.username.rpartition("@")
    return f"{user}@{realm.upper()}" if at and user and realm else None


def may_have_tickets(target: Target, credential: Credential) -> bool:
    """Return True if Negotiate should try Kerberos first.

    A user with a realm can have tickets, and a host with a name: services have no addresses.
    """
    if _MISSING or principal(credential) is None:
        return False
    try:
        ipaddress.ip_address(target.host)
    except ValueError:
        return True
    return False


@dataclass(slots=True)
class _Cache:
    """The tickets of one credential."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    held: Any = None
    name: str = ""
    ends: float = 0.0
    before: Any = None
    """The tickets before these, which a login may still use."""
    failure: KerberosFailure | None = None
    failed_until: float = 0.0


class TicketCaches:
    """The tickets of all credentials of a process."""

    def __init__(self) -> None:
        self._caches: OrderedDict[tuple[object, ...], _Cache] = OrderedDict()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kerberos")

    async def name(self, credential: Credential, seconds: float) -> str:
        """Return the name of the credential's cache, with tickets that are valid.

        Concurrent logins ask the KDC once. Its refusal is valid for a minute, as each further
        attempt with a wrong password would bring the account closer to its lock. Raises
        KerberosFailure(AUTH_FAILED, CREDENTIAL_MISSING, CONNECT_TIMEOUT).
        """
        if _MISSING:
            raise KerberosFailure(
                ErrorCode.CREDENTIAL_MISSING,
                f"This worker cannot log in with Kerberos: {_MISSING}. Install the extra there: "
                "pip install 'opsconductor-jobs[kerberos]'.",
            )
        who = principal(credential)
        if who is None:
            raise KerberosFailure(
                ErrorCode.CREDENTIAL_MISSING,
                f"The user {credential.username} of the credential {credential.name} has no "
                "realm, which Kerberos needs: write it as user@EXAMPLE.ORG.",
            )
        cache = self._cache(credential)
        async with cache.lock:
            if cache.failure is not None and time.monotonic() < cache.failed_until:
                raise cache.failure
            if time.time() > cache.ends - RENEW_SECONDS:
                await self._renew(cache, credential, who, seconds)
            return cache.name

    def _cache(self, credential: Credential) -> _Cache:
        digest = hashlib.sha256()
        for secret in credential.secrets:
            digest.update(secret.reveal().encode())
        key = (credential.id, credential.version, credential.username, digest.digest())
        cache = self._caches.setdefault(key, _Cache())
        self._caches.move_to_end(key)
        if len(self._caches) > CACHES_MAX:
            _, oldest = self._caches.popitem(last=False)
            _destroy(oldest.before)
            _destroy(oldest.held)
        return cache

    async def _renew(self, cache: _Cache, credential: Credential, who: str, seconds: float) -> None:
        realm = who.rpartition("@")[2]
        try:
            made = await self.call(lambda: _ask_kdc(credential, who), seconds)
        except TimeoutError:
            cache.failure = explain(KdcError.UNREACHABLE, "", credential.username, realm)
        except krb5.Krb5Error as error:
            cache.failure = explain(error.err_code, str(error), credential.username, realm)
        else:
            _destroy(cache.before)
            cache.before, cache.failure = cache.held, None
            cache.held, cache.name, cache.ends = made
            return
        cache.failed_until = time.monotonic() + REFUSED_SECONDS
        raise cache.failure

    def forget(self, credential: Credential) -> None:
        """Get new tickets before the next login: a host refused one of these.

        It may have a new key since the ticket was made.
        """
        self._cache(credential).ends = 0.0

    async def call(self, work: Callable[[], Made], seconds: float) -> Made:
        """Return the result of something that may ask a KDC. Raises TimeoutError, and its own."""
        async with asyncio.timeout(seconds):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Destroy all tickets."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while self._caches:
            _, cache = self._caches.popitem()
            _destroy(cache.before)
            _destroy(cache.held)


def _ask_kdc(credential: Credential, who: str) -> tuple[Any, str, float]:
    """Return a new cache with a ticket, its name, and when (epoch) the ticket ends."""
    context = krb5.init_context()
    client = krb5.parse_name_flags(context, who.encode())
    options = krb5.get_init_creds_opt_alloc(context)
    krb5.get_init_creds_opt_set_canonicalize(options, True)
    krb5.get_init_creds_opt_set_forwardable(options, False)
    if credential.keytab is not None:
        with tempfile.NamedTemporaryFile(prefix="opsjobs-") as file:  # 0600, removed at once
            file.write(base64.b64decode(credential.keytab.reveal()))
            file.flush()
            keytab = krb5.kt_resolve(context, f"FILE:{file.name}".encode())
            ticket = krb5.get_init_creds_keytab(context, client, options, keytab=keytab)
    else:
        assert credential.password is not None, "a credential without a keytab has a password"
        ticket = krb5.get_init_creds_password(
            context, client, options, password=credential.password.reveal().encode()
        )
    cache = krb5.cc_new_unique(context, b"MEMORY")
    krb5.cc_initialize(context, cache, ticket.client)
    krb5.cc_store_cred(context, cache, ticket)
    return (context, cache), f"MEMORY:{cache.name.decode()}", float(ticket.times.endtime)


def _destroy(held: Any) -> None:
    if held is not None:
        krb5.cc_destroy(*held)


def explain(code: int, text: str, user: str, realm: str, service: str = "") -> KerberosFailure:
    """Return the failure of a login, in words that name the thing to correct."""
    signed = code - (1 << 32) if code > 1 << 31 else code  # gssapi counts without a sign
    try:
        reason = KdcError(signed)
    except ValueError:
        reason = None
    kind = ErrorCode.AUTH_FAILED
    if reason is KdcError.REALM_UNKNOWN:
        kind = ErrorCode.CREDENTIAL_MISSING
    elif reason in WITHOUT_KDC:
        kind = ErrorCode.CONNECT_TIMEOUT
    elif service and reason is not KdcError.SERVICE_UNKNOWN and reason not in _CLOCKS:
        reason = None  # the others are about the user, and this ticket is about the host
    words = _WORDS.get(reason) if reason is not None else None
    if words is None:
        return KerberosFailure(kind, f"The login of {user} with Kerberos failed: {text}.", reason)
    return KerberosFailure(kind, words.format(user=user, realm=realm, service=service), reason)


_CLOCKS = frozenset({KdcError.CLOCK, KdcError.CLOCK_OF_KDC})
_WRONG = (
    "The KDC of {realm} refused the login of {user}: the password or the key is wrong. Check the "
    "credential."
)
_CLOCK = (
    "Kerberos refused the login of {user}: the clocks of the worker, of the host and of the KDC of "
    "{realm} differ by more than it allows (5 minutes by default). Set them."
)
_SILENT = (
    "No KDC of the realm {realm} answered. Check /etc/krb5.conf of the worker, and that it reaches "
    "port 88 of the KDC."
)
_WORDS = {
    KdcError.CLIENT_UNKNOWN: "The KDC of {realm} does not know {user}. Check the credential.",
    KdcError.SERVICE_UNKNOWN: (
        "The KDC of {realm} does not know the service {service}. Use the name that the host has in "
        "its domain as `host` of the target, or register it: setspn -S."
    ),
    KdcError.CLIENT_REVOKED: (
        "The account of {user} is locked, disabled or expired in {realm}. Unlock it there."
    ),
    KdcError.PASSWORD_EXPIRED: (
        "The password of {user} has expired in {realm}. Change it there, and rotate the credential."
    ),
    KdcError.PASSWORD_WRONG: _WRONG,
    KdcError.DECRYPTION_FAILED: _WRONG,
    KdcError.CLOCK: _CLOCK,
    KdcError.CLOCK_OF_KDC: _CLOCK,
    KdcError.REALM_UNKNOWN: (
        "This worker knows no KDC of the realm {realm}: name one in its /etc/krb5.conf, or in DNS."
    ),
    KdcError.UNREACHABLE: _SILENT,
    KdcError.CANNOT_RESOLVE: _SILENT,
    KdcError.KEY_NOT_FOUND: (
        "The keytab of {user} has no key that the KDC of {realm} accepts. Make a new one, and "
        "rotate the credential."
    ),
}
