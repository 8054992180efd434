"""Whether a private key can be used: judged when it is stored, so that a typo is not found by a nightly job."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import ssh

from opsjobs.model.failures import FieldError, Invalid

_Loader = Callable[[bytes, bytes | None], object]


def tidy(text: str) -> str:
    """The same key with Unix line ends and one final newline: pasted keys lack it, and OpenSSH insists."""
    return text.replace("\r\n", "\n").strip() + "\n"


def check_private_key(text: str, passphrase: str | None) -> None:
    """Raises Invalid with a pointer to the field at fault where the key does not open with this passphrase (or without)."""
    _load(tidy(text), passphrase)


def check_certificate(certificate: str, private_key: str, passphrase: str | None) -> None:
    """Raises Invalid where the OpenSSH certificate cannot be read or is not for this private key."""
    key = _load(tidy(private_key), passphrase)
    try:
        identity = ssh.load_ssh_public_identity(certificate.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        raise _wrong(
            "certificate", "The certificate is not an OpenSSH certificate: give the line of the -cert.pub file."
        ) from None
    if not isinstance(identity, ssh.SSHCertificate):
        raise _wrong("certificate", "This is a public key, not a certificate: give the line of the -cert.pub file.")
    if _public(identity.public_key()) != _public(key.public_key()):
        raise _wrong("certificate", "The certificate is for another key than the private_key.")


def _load(text: str, passphrase: str | None) -> PrivateKeyTypes:
    if "PRIVATE KEY-----" not in text:
        raise _wrong(
            "private_key",
            "The private_key is not a private key in OpenSSH or PEM form: it begins with -----BEGIN …PRIVATE KEY-----.",
        )
    try:
        return _loaded(text, passphrase)
    except UnsupportedAlgorithm as unsupported:
        raise _wrong("private_key", f"The private_key has a form that this installation cannot read: {unsupported}.") from None
    except (ValueError, TypeError):
        pass
    if passphrase is not None and _opens(text, None):
        raise _wrong("passphrase", "The private_key is not protected by a passphrase: leave the passphrase out.")
    if passphrase is None and _is_protected(text):
        raise _wrong("passphrase", "The private_key is protected by a passphrase: give it, too.")
    if passphrase is not None and _is_protected(text):
        raise _wrong("passphrase", "The passphrase does not open the private_key.")
    raise _wrong("private_key", "The private_key cannot be read: it is cut short, or not a key of a kind that SSH uses.")


def _loaded(text: str, passphrase: str | None) -> PrivateKeyTypes:
    secret = passphrase.encode() if passphrase is not None else None
    if "BEGIN OPENSSH PRIVATE KEY" in text:
        return ssh.load_ssh_private_key(text.encode(), secret)
    return serialization.load_pem_private_key(text.encode(), secret)


def _opens(text: str, passphrase: str | None) -> bool:
    try:
        _loaded(text, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _is_protected(text: str) -> bool:
    try:
        _loaded(text, None)
    except TypeError:  # what cryptography raises for "a passphrase is needed", and for nothing else here
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return False


def _public(key: object) -> bytes:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)  # type: ignore[attr-defined,no-any-return]  # of any kind


def _wrong(name: str, detail: str) -> Invalid:
    return Invalid("invalid_credential", detail, errors=[FieldError(f"/{name}", detail, "invalid_credential")])
