"""The variables with which Ansible reaches Windows hosts, as options of WinRM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opsjobs.model.winrm import HTTP_PORT

CONNECTIONS = ("winrm", "psrp")
VARIABLES = frozenset(
    {
        "ansible_winrm_scheme",
        "ansible_winrm_transport",
        "ansible_winrm_server_cert_validation",
        "ansible_psrp_protocol",
        "ansible_psrp_auth",
        "ansible_psrp_cert_validation",
    }
)
"""The variables that are imported."""

_AUTH = {
    "negotiate": "negotiate",
    "ntlm": "ntlm",
    "kerberos": "kerberos",
    "credssp": "credssp",
    "certificate": "certificate",
    "basic": "basic",
    "plaintext": "basic",
    "ssl": "basic",
}


def read_winrm(variables: Mapping[str, str], port: int | None) -> dict[str, Any]:
    """Return the field `winrm` of a host.

    Without a scheme, port 5985 means http, as in Ansible. Raises ValueError for what opsjobs does
    not do.
    """
    scheme = _first(variables, "ansible_winrm_scheme", "ansible_psrp_protocol")
    scheme = (scheme or ("http" if port == HTTP_PORT else "https")).lower()
    options: dict[str, Any] = {"scheme": scheme}
    asked = _first(variables, "ansible_winrm_transport", "ansible_psrp_auth")
    if asked is not None:
        options["auth"] = auth = _auth(asked)
        if auth in ("basic", "certificate") and scheme == "http":
            raise ValueError(
                f"its authentication is {auth} over http: use https, or ntlm over http"
            )
    check = _first(
        variables, "ansible_winrm_server_cert_validation", "ansible_psrp_cert_validation"
    )
    if check == "ignore" and scheme == "https":
        options["verify"] = False
    return options


def _auth(asked: str) -> str:
    """Return the first supported one of the authentications that are listed."""
    names = [name.strip(" []'\"").lower() for name in asked.split(",")]
    for name in names:
        if name in _AUTH:
            return _AUTH[name]
    raise ValueError(
        f"its WinRM authentication is {', '.join(names)}: only negotiate, ntlm, kerberos, credssp, "
        "basic and certificate are supported"
    )


def _first(variables: Mapping[str, str], *names: str) -> str | None:
    return next((variables[name] for name in names if variables.get(name)), None)
