"""The platform's identity services over HTTP on loopback, with valid and forged tokens."""

from __future__ import annotations

import base64
import json
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.warnings import InsecureKeyLengthWarning

ISSUER = "https://id.example.org"
AUDIENCE = "opsjobs"
SECRET = "n0t-4-w0rd-0f-4ny-m4n-k7Q2xVb9zL"  # 32 bytes


@dataclass
class Answers:
    """A server:

    its responses by path (status, JSON or bytes), and the requests. Other paths: 404.
    """

    url: str = ""
    at: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)

    def count(self, path: str) -> int:
        return self.asked.count(path)


@contextmanager
def answering() -> Iterator[Answers]:
    """Run a server on a free port of 127.0.0.1."""
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            answers.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self._answer()

        def _answer(self) -> None:
            answers.asked.append(self.path)
            status, told = answers.at.get(self.path, (404, {}))
            body = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            if status in (301, 302):
                self.send_header("location", answers.url + "/moved")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    answers.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield answers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@cache
def private(kind: str) -> Any:
    """Create a key pair of this kind once: rsa, other-rsa, weak-rsa, p256, p384, ed25519."""
    match kind:
        case "rsa" | "other-rsa":
            return rsa.generate_private_key(65_537, 2_048)
        case "weak-rsa":
            return rsa.generate_private_key(65_537, 1_024)
        case "p256" | "other-p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def pem(kind: str) -> str:
    """Return its public half."""
    return (
        private(kind)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def private_pem(kind: str) -> str:
    """Return its private half."""
    return private(kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk(kind: str, kid: str | None, **more: Any) -> dict[str, Any]:
    """Return its public half as an issuer publishes it."""
    algorithm = {
        "rsa": "RS256",
        "other-rsa": "RS256",
        "weak-rsa": "RS256",
        "p256": "ES256",
        "other-p256": "ES256",
        "p384": "ES384",
    }
    told: Any = jwt.get_algorithm_by_name(algorithm.get(kind, "EdDSA")).to_jwk(
        private(kind).public_key(), as_dict=True
    )
    told.pop("key_ops", None)
    return {**told, **({"kid": kid} if kid else {}), **more}


def good(now: float | None = None, **claims: Any) -> dict[str, Any]:
    """Return the claims of a token that is valid now; None removes a claim."""
    at = int(now or time.time())
    whole = {
        "sub": "ada",
        "roles": ["operator"],
        "iss": ISSUER,
        "aud": AUDIENCE,
        "iat": at,
        "exp": at + 300,
        **claims,
    }
    return {name: value for name, value in whole.items() if value is not None}


def signed(
    claims: Mapping[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any
) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureKeyLengthWarning)  # a forger would not mind
        return jwt.encode(dict(claims), key, algorithm, headers=headers)


def by_hand(header: Any, claims: Any, signature: bytes = b"", *, raw: bool = False) -> str:
    """Return a token of these three parts; `raw`: texts instead of JSON."""
    parts = [part.encode() if raw else json.dumps(part).encode() for part in (header, claims)]
    return ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (*parts, signature)
    )


def resigned(header: Mapping[str, Any], claims: Any, secret: str = SECRET) -> str:
    """Return a token signed by HMAC, with a header (or text) that a library would not write."""
    text = (
        by_hand(header, claims)
        if not isinstance(claims, str)
        else by_hand(json.dumps(header), claims, raw=True)
    )
    body = text.rsplit(".", 1)[0]
    signature = jwt.get_algorithm_by_name("HS256").sign(body.encode(), secret.encode())
    return f"{body}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
