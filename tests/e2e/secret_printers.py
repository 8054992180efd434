"""Commands that print secrets in the ways of common programs; others check the result."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.processes import Json
from e2e.single_host import SingleHost
from kit.secret_canaries import Canary

# The secret is in no argument. It is printed as it is, on both streams, in base64 (wrapped, at
# three places), in hex, and in two halves.
_TELL = """cd $OPSJOBS_SECRETS; cat token; cat token >&2
base64 <token; { printf x; cat token; } | base64; { printf xy; cat token; } | base64
od -An -v -tx1 token | tr -d ' \\n'
head -c 9 token; sleep 0.5; tail -c +10 token
printf '\\n{"it": "'; cat token; printf '"}\\n'"""
_HAND_ON = "echo ${actions.tell.outputs.it} ${actions.tell.stdout} >&2"


@contextmanager
def readable_secrets(secrets: list[Canary]) -> Iterator[Path]:
    """Write a file that all users of the machine may read: one secret a line.

    It is in a folder that no search for secrets covers.
    """
    path = Path(f"/tmp/opsjobs-lying-about-{os.getpid()}")
    path.write_text("".join(f"<{canary.text}>\n" for canary in secrets))
    path.chmod(0o644)
    try:
        yield path
    finally:
        path.unlink()


def run_secret_printers(host: SingleHost, token: Canary, found: Path) -> list[int]:
    """Launch executions that print secrets.

    These are a parameter, a login's password and key, and the password to become another user.
    """
    both = f"sed -n 2,4p {found}; sed -n 2,4p {found} | base64 >&2"
    return [
        _job(host, token, "auto"),
        _job(host, token, "off"),
        host.run(f"cat <{found} | head -n 1 >&2", "by-password"),
        host.run(both, **host.as_ben("su")),
    ]


def _job(host: SingleHost, token: Canary, durable: str) -> int:
    """Run a stored job twice under one key; a refusal of the API does not repeat the secret."""
    body: Json = {
        "name": f"telling-{durable}",
        "actions": [
            {"key": "tell", "type": "command", "command": _TELL, "outputs": "json_lines"},
            {"key": "hand-on", "type": "command", "command": _HAND_ON},
        ],
        "parameters": [{"name": "token", "type": "secret", "pattern": "^[a-z0-9]+$"}],
        "targets": {"ids": ["by-key"]},
        "policy": {"durable": durable},
    }
    path = f"/jobs/{host.cluster.post('/jobs', body, 201)['id']}/execute"
    refused = host.cluster.http.post(path, json={"parameters": {"token": f"{token.text} no"}})
    assert (refused.status_code, token.text in refused.text) == (422, False), refused.text
    headers = {"Idempotency-Key": body["name"]}
    answers = [
        host.cluster.http.post(path, json={"parameters": {"token": token.text}}, headers=headers)
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
    assert token.text not in "".join(answer.text for answer in answers)
    return int(answers[0].json()["id"])
