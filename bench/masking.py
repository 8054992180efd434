"""Cost of masking: CPU per MiB of output and per small run, with secrets of several kinds. Needs no service.

.venv/bin/python bench/masking.py
"""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable
from functools import partial

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from opsjobs.model.masking import Forms, Mask

PIECE_BYTES = 32 << 10
_OPENSSH = (Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def secrets() -> dict[str, str]:
    """Return one secret of each kind."""
    return {
        "password": "s3cr3t-pass/w+rd&",
        "passphrase": "correct horse 'battery' staple",
        "Ed25519 key": ed25519.Ed25519PrivateKey.generate().private_bytes(*_OPENSSH).decode(),
        "RSA key, 4096 bits": rsa.generate_private_key(65537, 4096)
        .private_bytes(*_OPENSSH)
        .decode(),
    }


def texts(secret: str) -> dict[str, bytes]:
    """Return about a MiB of each kind of output."""
    line = "2026-11-27 07:00:{:02d} INFO request {} served in {} ms\n"
    log = "".join(line.format(n % 60, n * 7919, n % 100) for n in range(20_000)).encode()
    return {
        "log lines": log,
        "base64": base64.encodebytes(random.Random(7).randbytes(700_000)),
        "indented JSON": json.dumps(
            [{"name": f"item {n}", "size": n * 7919, "tags": ["a", "b"]} for n in range(12_000)],
            indent=2,
        ).encode(),
        "coloured lines": log.replace(b"INFO", b"\x1b[32mINFO\x1b[0m"),
        "the secret": secret.encode() * (1_000_000 // len(secret)),
    }


def milliseconds(work: Callable[[], object], times: int = 1) -> float:
    """Return the CPU time of one call, the best of three rounds."""
    rounds = []
    for _ in range(3):
        began = time.process_time()
        for _ in range(times):
            work()
        rounds.append((time.process_time() - began) * 1000 / times)
    return min(rounds)


def through(mask: Mask, text: bytes) -> None:
    """Mask all of it, in pieces as sent by a machine."""
    stream = mask.stream()
    assert stream is not None
    for at in range(0, len(text), PIECE_BYTES):
        stream.add(text[at : at + PIECE_BYTES])
    stream.finish()


def main() -> None:
    """Print a table."""
    for name, secret in secrets().items():
        mask = Mask([Forms([secret])])
        print(
            f"{name}: {milliseconds(partial(Forms, [secret]), 3):.1f} ms to make its forms, once for all machines"
        )
        print(
            f"  {milliseconds(partial(through, mask, b'ok'), 1_000) * 1000:.0f} µs for a run that says two letters"
        )
        for kind, text in texts(secret).items():
            print(
                f"  {milliseconds(partial(through, mask, text)) * (1 << 20) / len(text):.0f} ms a MiB: {kind}"
            )


if __name__ == "__main__":
    main()
