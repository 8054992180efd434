"""A connection that is logged in: send a message, return the envelope of the response."""

from __future__ import annotations

import ssl
import time
import xml.etree.ElementTree as ET

import spnego.exceptions

from opsjobs.model.errors import RemoteFailure
from opsjobs.model.execution import ErrorCode
from opsjobs.model.target import Target
from opsjobs.remote.session import LoginTimes
from opsjobs.remote.winrm.http import PATH, Broken, HttpResponse, HttpStream
from opsjobs.remote.winrm.login import Authenticated
from opsjobs.remote.winrm.messages import (
    FaultDetail,
    ProtocolError,
    WsmanMessage,
    fault_in,
    parse,
)
from opsjobs.remote.winrm.sealing import SealingError, is_sealed, seal, unseal

MORE_SECONDS = 10.0
"""The time beyond a request's own after which a host without a response is given up."""

SOAP = "application/soap+xml;charset=UTF-8"


class WsmanFault(Exception):
    """The host refused a request."""

    def __init__(self, fault: FaultDetail) -> None:
        super().__init__(str(fault))
        self.fault = fault

    @property
    def code(self) -> int | None:
        """The code of the fault, as unsigned 32 bits."""
        return self.fault.code


class Disconnected(Exception):
    """The connection broke during a request.

    `stale`: it was used before, and nothing of a response arrived. The host probably closed it
    while it was idle, and did not get the request. `rejected`: the host did nothing, as the request
    was not encrypted, or could not be decrypted. `timed_out`: the host did not answer in time, and
    may still perform it.
    """

    def __init__(
        self,
        reason: str,
        *,
        stale: bool = False,
        rejected: bool = False,
        timed_out: bool = False,
    ) -> None:
        super().__init__(reason)
        self.stale = stale
        self.rejected = rejected
        self.timed_out = timed_out


_STATUS_HINTS = {
    404: "there is no WinRM service at this address and port",
    413: "the request is larger than the host, or a proxy before it, allows",
    502: "a proxy is in between, and does not reach the host",
    503: "the WinRM service is stopped or overloaded",
}


def _explain(response: HttpResponse, error: Exception) -> str:
    """Return why a response cannot be read."""
    words = f"HTTP status {response.status}"
    if response.status in _STATUS_HINTS:
        return f"{words}: {_STATUS_HINTS[response.status]}"
    return f"{words}: {error}" if response.body else f"{words} without a message"


class Connection:
    """One authenticated connection, used by one request at a time."""

    def __init__(
        self, http: HttpStream, target: Target, login: Authenticated, times: LoginTimes
    ) -> None:
        assert target.winrm is not None, "every WinRM target has its options"
        self._http = http
        self._login = login
        self._name = target.name
        self._url = f"{target.winrm.scheme}://{target.host}:{target.port}{PATH}"
        self.login_times = times
        self.idle_since = time.monotonic()
        self._used = False

    @property
    def usable(self) -> bool:
        """True if another request may be sent, as far as it is known."""
        return self._http.usable

    async def request(self, message: WsmanMessage) -> ET.Element:
        """Return the envelope of the response.

        Raises WsmanFault, Disconnected, RemoteFailure(AUTH_FAILED) and, for text that XML cannot
        carry, ValueError. The connection is closed if the request is cancelled.
        """
        body, headers = message.render(self._url), dict(self._login.headers)
        headers["Content-Type"] = SOAP
        if self._login.context is not None:
            headers["Content-Type"], body = self._seal(body)
        reused, self._used = self._used, True
        try:
            response = await self._http.post(headers, body, message.seconds + MORE_SECONDS)
        except TimeoutError:
            raise Disconnected(
                f"no answer within {message.seconds + MORE_SECONDS:.0f} s", timed_out=True
            ) from None
        except Broken as broken:
            raise Disconnected(str(broken), stale=reused and broken.silent) from None
        return self._read(response, reused=reused)

    def _seal(self, body: bytes) -> tuple[str, bytes]:
        """Return the content type and the encrypted form of a request.

        After a failure the two sides no longer agree on the state of the encryption.
        """
        try:
            return seal(self._login.context, self._login.protocol, body)
        except (spnego.exceptions.SpnegoError, ssl.SSLError) as error:
            self._http.close()
            raise Disconnected(f"a request was not encrypted ({error})", rejected=True) from None

    def _read(self, response: HttpResponse, *, reused: bool) -> ET.Element:
        if response.status == 401:
            self._http.close()
            raise RemoteFailure(
                ErrorCode.AUTH_FAILED, f"{self._name} no longer accepts the login (HTTP 401)."
            )
        sealed = self._login.context is not None
        if sealed and response.status == 400 and not response.body:
            self._http.close()
            raise Disconnected(
                "it cannot decrypt the request (HTTP 400)", stale=reused, rejected=True
            )
        try:
            envelope = parse(self._open(response))
        except (
            SealingError,
            ProtocolError,
            spnego.exceptions.SpnegoError,
            ssl.SSLError,
        ) as error:
            self._http.close()
            raise Disconnected(_explain(response, error)) from None
        fault = fault_in(envelope)
        if fault is not None:
            raise WsmanFault(fault)
        return envelope

    def _open(self, response: HttpResponse) -> bytes:
        """Return the envelope in plain text. Raises SealingError."""
        if is_sealed(response.content_type):
            if self._login.context is None:
                raise SealingError("an encrypted response to a plain request")
            return unseal(self._login.context, response.body)
        if self._login.context is not None and response.body:
            raise SealingError("a response that is not encrypted")
        return response.body

    def close(self) -> None:
        """Close the connection at once."""
        self._http.close()
