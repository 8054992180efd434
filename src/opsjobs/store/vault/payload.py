"""The sealed content of a credential: its parts, validated, packed and unpacked.

Keys, certificates and keytabs are checked when they are stored, before a job needs them.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import ssh

from opsjobs.model.credential import Credential, CredentialType, binding_of, source_of
from opsjobs.model.errors import FieldError, Invalid
from opsjobs.model.secret import Secret

_HIDDEN = ("password", "private_key", "passphrase", "keytab", "value")
_TEXTS = ("private_key", "certificate")


def check(type_: CredentialType, login: str, parts: Mapping[str, str], now: datetime) -> None:
    """Raise Invalid, pointing to the field at fault, if the parts cannot be used together."""
    if "source" in parts:
        return
    key = parts.get("private_key", "")
    passphrase = parts.get("passphrase")
    certificate = parts.get("certificate", "")
    match type_:
        case CredentialType.SSH_KEY:
            check_private_key(key, passphrase)
        case CredentialType.SSH_CERTIFICATE:
            check_certificate(certificate, key, passphrase, username=login, now=now)
        case CredentialType.CLIENT_CERTIFICATE:
            check_client_certificate(certificate, key, passphrase, now=now)
        case CredentialType.KERBEROS if "keytab" in parts:
            check_keytab(parts["keytab"], login)


def packed(parts: Mapping[str, str]) -> bytes:
    """Return the bytes to seal."""
    return json.dumps(
        {name: tidy(text) if name in _TEXTS else text for name, text in parts.items()}
    ).encode()


def parts_of(content: bytes) -> dict[str, str]:
    """Return the sealed parts, by the names of the draft's fields."""
    parts: dict[str, str] = json.loads(content)
    return parts


def unpacked(row: Mapping[str, Any], content: bytes) -> Credential:
    """Return the credential of this row, with its sealed secrets."""
    parts = parts_of(content)
    hidden: dict[str, Any] = {name: Secret(parts[name]) for name in _HIDDEN if name in parts}
    if "source" not in parts:
        return Credential(**_plain(row), certificate=parts.get("certificate"), **hidden)
    try:
        # The sealed source counts, not the one in the plain columns: write access to the row is not
        # enough to redirect it to another secret.
        return Credential(**_plain(row), source=source_of(json.loads(parts["source"])))
    except ValueError:
        return closed(row, "where its secrets are cannot be read: another release has written it")


def closed(row: Mapping[str, Any], fault: str) -> Credential:
    """Return the credential of this row without its secrets; `fault` is the reason."""
    return Credential(**_plain(row), fault=fault)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "version": row["version"],
        "name": row["name"],
        "type": CredentialType(row["type"]),
        "username": row["username"],
        "bound": binding_of(row),
    }


_Loader = Callable[[bytes, bytes | None], object]


def tidy(text: str) -> str:
    """Return the key with Unix line ends and one final newline.

    Pasted keys often lack it, and OpenSSH requires it.
    """
    return text.replace("\r\n", "\n").strip() + "\n"


def check_private_key(text: str, passphrase: str | None) -> None:
    """Raise Invalid, pointing to the field, if this passphrase does not decrypt the key.

    `passphrase`: None for a key without one.
    """
    _load(tidy(text), passphrase)


def check_certificate(
    certificate: str, private_key: str, passphrase: str | None, *, username: str, now: datetime
) -> None:
    """Raise Invalid if the OpenSSH certificate is unreadable or unusable.

    It must be for this key and this user, and valid now.
    """
    key = _load(tidy(private_key), passphrase)
    try:
        identity = ssh.load_ssh_public_identity(certificate.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise _wrong(
            "certificate",
            "The certificate is not an OpenSSH certificate: give the line of the -cert.pub file.",
        ) from None
    if not isinstance(identity, ssh.SSHCertificate):
        raise _wrong(
            "certificate",
            "This is a public key, not a certificate: give the line of the -cert.pub file.",
        )
    if _public(identity.public_key()) != _public(key.public_key()):
        raise _wrong("certificate", "The certificate is for another key than the private_key.")
    if identity.type is not ssh.SSHCertificateType.USER:
        raise _wrong(
            "certificate",
            "This is the certificate of a host: sign the key for a user (ssh-keygen -s CA -I ID -n "
            "USER).",
        )
    names = [name.decode(errors="replace") for name in identity.valid_principals]
    if names and username not in names:
        raise _wrong(
            "certificate",
            f"The certificate is for {', '.join(names[:5])} and not for {username}: sign it with "
            f"-n {username}.",
        )
    if identity.valid_before <= now.timestamp():
        raise _wrong(
            "certificate",
            f"The certificate was valid until {_day(identity.valid_before)}: have the key signed "
            f"again.",
        )


def check_client_certificate(
    certificate: str, private_key: str, passphrase: str | None, *, now: datetime
) -> None:
    """Raise Invalid if the X.509 certificate is unreadable, for another key, or expired."""
    key = _load(tidy(private_key), passphrase)
    try:
        found = x509.load_pem_x509_certificate(tidy(certificate).encode())
    except ValueError:
        detail = (
            "The certificate is no X.509 certificate in PEM form: it begins with -----BEGIN "
            "CERTIFICATE-----."
        )
        raise _wrong("certificate", detail) from None
    if _der(found.public_key()) != _der(key.public_key()):
        raise _wrong("certificate", "The certificate is for another key than the private_key.")
    if found.not_valid_after_utc <= now:
        raise _wrong(
            "certificate",
            f"The certificate was valid until {found.not_valid_after_utc:%Y-%m-%d}: have it issued "
            f"again.",
        )


def check_keytab(text: str, principal: str) -> None:
    """Raise Invalid if the keytab (base64) is unreadable, or has no key of this principal."""
    try:
        held = _principals(_decode_keytab(text))
    except ValueError as fault:
        raise _wrong("keytab", str(fault)) from None
    if principal not in held:
        others = f"those of {', '.join(held[:5])}" if held else "none at all"
        raise _wrong("keytab", f"The keytab holds no key of {principal}, but {others}.")


def _load(text: str, passphrase: str | None) -> PrivateKeyTypes:
    if "PRIVATE KEY-----" not in text:
        raise _wrong(
            "private_key",
            "The private_key is not a private key in OpenSSH or PEM form: it begins with "
            "-----BEGIN …PRIVATE KEY-----.",
        )
    try:
        return _parse_key(text, passphrase)
    except UnsupportedAlgorithm as unsupported:
        raise _wrong(
            "private_key",
            f"The private_key has a form that this installation cannot read: {unsupported}.",
        ) from None
    except (ValueError, TypeError):
        pass
    if passphrase is not None and _can_open(text, None):
        raise _wrong(
            "passphrase",
            "The private_key is not protected by a passphrase: leave the passphrase out.",
        )
    if passphrase is None and _is_protected(text):
        raise _wrong(
            "passphrase",
            "The private_key has a passphrase. Send it as `passphrase` (--passphrase-file FILE).",
        )
    if passphrase is not None and _is_protected(text):
        raise _wrong("passphrase", "The passphrase does not open the private_key.")
    raise _wrong(
        "private_key",
        "The private_key cannot be read: it is cut short, or not a key of a kind that SSH uses.",
    )


def _parse_key(text: str, passphrase: str | None) -> PrivateKeyTypes:
    secret = passphrase.encode() if passphrase is not None else None
    if "BEGIN OPENSSH PRIVATE KEY" in text:
        return ssh.load_ssh_private_key(text.encode(), secret)
    return serialization.load_pem_private_key(text.encode(), secret)


def _can_open(text: str, passphrase: str | None) -> bool:
    try:
        _parse_key(text, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _is_protected(text: str) -> bool:
    try:
        _parse_key(text, None)
    except TypeError:  # here, cryptography raises this only if a passphrase is needed
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return False


def _public(key: object) -> bytes:
    return cast("PublicKeyTypes", key).public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )


def _der(key: object) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return cast("PublicKeyTypes", key).public_bytes(serialization.Encoding.DER, form)


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _wrong(name: str, detail: str) -> Invalid:
    return Invalid(
        "invalid_credential", detail, errors=[FieldError(f"/{name}", detail, "invalid_credential")]
    )


# The file starts with two bytes: 5, and the version of the format. Version 1 (in the byte order of
# its writer) was last used by the beta of Kerberos 5.
_MAGIC = b"\x05\x02"


def _decode_keytab(text: str) -> bytes:
    """Return the bytes of a keytab in base64. Raises ValueError with a message for the user."""
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("The keytab is not in base64: give the output of `base64 FILE`.") from None
    if not content.startswith(_MAGIC):
        raise ValueError(
            "The keytab is not in the format of ktutil or ktpass: it does not begin with the bytes "
            "5 and 2."
        )
    return content


def _principals(content: bytes) -> list[str]:
    """Return the principals, `name/instance@REALM`, each once. Raises ValueError if truncated."""
    try:
        return list(dict.fromkeys(_principal(entry) for entry in _entries(content)))
    except (struct.error, IndexError):
        raise ValueError("The keytab is cut short.") from None


def _entries(content: bytes) -> Iterator[bytes]:
    """Yield the bytes of each key. A negative length marks the hole of a deleted key."""
    at = len(_MAGIC)
    while at < len(content):
        (length,) = struct.unpack_from(">i", content, at)
        at += 4
        if length > 0:
            if at + length > len(content):
                raise IndexError
            yield content[at : at + length]
        at += abs(length)
        if length == 0:
            return


def _principal(entry: bytes) -> str:
    (components,) = struct.unpack_from(">H", entry)
    texts, at = [], 2
    for _ in range(components + 1):  # the realm comes first
        (length,) = struct.unpack_from(">H", entry, at)
        at += 2 + length
        if at > len(entry):
            raise IndexError
        texts.append(entry[at - length : at].decode(errors="replace"))
    return f"{'/'.join(texts[1:])}@{texts[0]}"
