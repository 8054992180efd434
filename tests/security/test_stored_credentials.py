"""Point 9: secrets of every type are checked, sealed, opened and rotated.

Stored data shows none of them.
"""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import SSHCertificateType

from api.kit import api_client, problem
from opsjobs.store.transaction import Database
from opsjobs.store.vault.credentials import Vault
from security.credential_samples import (
    PRINCIPAL,
    keytab,
    login,
    pem_of,
    ssh_certificate,
    x509_certificate,
)
from store.drafts import target

TYPES = ("password", "ssh_key", "ssh_certificate", "client_certificate", "kerberos", "agent")
KEY = Ed25519PrivateKey.generate()


async def opened(vault: Vault, number: int) -> dict[str, str]:
    """Return the parts of a credential with their secrets in the open."""
    credential = (await vault.open_many([str(number)]))[str(number)]
    assert credential.fault is None
    names = ("password", "private_key", "passphrase", "keytab", "certificate")
    parts = {name: getattr(credential, name) for name in names}
    return {
        n: part if isinstance(part, str) else part.reveal()
        for n, part in parts.items()
        if part is not None
    }


async def test_every_type_is_stored_sealed_and_opens_to_what_was_given(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        for number, type_ in enumerate(TYPES, start=1):
            body = login(type_)
            made = await ada.http.post("/credentials", json=body)
            assert made.status_code == 201, made.text
            secrets = {
                k: v for k, v in body.items() if k not in ("name", "type", "username", "principal")
            }
            assert {
                k: v.strip() for k, v in (await opened(ada.services.vault, number)).items()
            } == {k: v.strip() for k, v in secrets.items()}
            assert not any(secret.strip()[:40] in made.text for secret in secrets.values())
            row = await database.fetch_one(
                "select credentials::text as t, sealed from credentials where id = %s", [number]
            )
            assert row is not None
            assert not any(
                s.strip()[-30:] in row["t"] or s.strip()[-30:].encode() in row["sealed"]
                for s in secrets.values()
            )


def wrong(type_: str, words: str, pointer: str = "", **fields: Any) -> Any:
    return pytest.param(login(type_, **fields), words, pointer, id=f"{type_}: {words}")


@pytest.mark.parametrize(
    ("body", "words", "pointer"),
    [
        wrong("password", "needs password", password=None),
        wrong("password", "needs username", username=None),
        wrong("password", "has no principal", principal=PRINCIPAL),
        wrong("ssh_certificate", "needs certificate", certificate=None),
        wrong("ssh_certificate", "another key", "/certificate", certificate=ssh_certificate(KEY)),
        wrong(
            "ssh_certificate",
            "sign it with -n deploy",
            "/certificate",
            private_key=pem_of(KEY),
            certificate=ssh_certificate(KEY, users=("ben",)),
        ),
        wrong(
            "ssh_certificate",
            "signed again",
            "/certificate",
            private_key=pem_of(KEY),
            certificate=ssh_certificate(KEY, days=-1),
        ),
        wrong(
            "ssh_certificate",
            "of a host",
            "/certificate",
            private_key=pem_of(KEY),
            certificate=ssh_certificate(KEY, kind=SSHCertificateType.HOST),
        ),
        wrong(
            "client_certificate", "another key", "/certificate", certificate=x509_certificate(KEY)
        ),
        wrong(
            "client_certificate",
            "issued again",
            "/certificate",
            private_key=pem_of(KEY),
            certificate=x509_certificate(KEY, days=-1),
        ),
        wrong(
            "client_certificate",
            "BEGIN CERTIFICATE",
            "/certificate",
            certificate="ssh-ed25519 AAAA",
        ),
        wrong("kerberos", "keytab (the file in base64) or password", keytab=None),
        wrong("kerberos", "not both", password="canary-7f3a"),
        wrong("kerberos", "needs principal", principal=None),
        wrong("kerberos", "needs principal", principal=None, username="deploy"),
        wrong(
            "kerberos",
            f"no key of {PRINCIPAL}, but those of ben@CORP",
            "/keytab",
            keytab=keytab("ben@CORP"),
        ),
        wrong("kerberos", "not in base64", "/keytab", keytab="canary-7f3a!"),
        wrong("kerberos", "cut short", "/keytab", keytab=keytab(PRINCIPAL, cut=7)),
        wrong("kerberos", "5 and 2", "/keytab", keytab="AAAA"),
        wrong("agent", "has no password", password="canary-7f3a"),
    ],
)
async def test_what_cannot_work_is_refused_with_the_way_out(
    database: Database, body: dict[str, Any], words: str, pointer: str
) -> None:
    async with api_client(database) as ada:
        refused = await ada.http.post("/credentials", json=body)
        assert refused.status_code == 422
        assert words in refused.text
        assert "canary" not in refused.text
        assert pointer in ("", refused.json()["errors"][0]["pointer"])


async def test_a_rotated_credential_is_the_same_login_with_a_new_secret(
    database: Database,
) -> None:
    async with api_client(database) as ada:
        made = (await ada.http.post("/credentials", json=login("password"))).json()
        await ada.services.inventory.create(target("web-1", credential="password"))
        await database.fetch(
            """insert into circuits (target_id, credential_id, login, state, code, message, since, until)
               values ('1', '1', 'x', 'open', 'auth_failed', 'no', now(), now()) returning id"""
        )
        rotated = await ada.http.post(
            "/credentials/1/rotate", json={"password": "canary-2", "version": 1}
        )
        assert (rotated.status_code, rotated.headers["etag"]) == (200, '"2"')
        assert {k: v for k, v in made.items() if k not in ("version", "updated_at")} == {
            k: v for k, v in rotated.json().items() if k not in ("version", "updated_at")
        }
        endpoint = (await ada.services.inventory.endpoints(["1"]))["1"]
        assert (endpoint.credential.version, endpoint.credential.password.reveal()) == (
            2,
            "canary-2",
        )
        assert await database.fetch("select id from circuits") == []
        told = await database.fetch_one(
            "select actor, after->>'version' as v, audit_log::text as t from audit_log order by id desc"
        )
        assert told is not None
        assert (told["actor"], told["v"], "canary" in told["t"]) == ("ada", "2", False)


@pytest.mark.parametrize("type_", TYPES[:-1])
async def test_each_type_rotates_to_parts_of_its_own_kind_alone(
    database: Database, type_: str
) -> None:
    async with api_client(database) as ada:
        await ada.http.post("/credentials", json=login(type_))
        new = {
            k: v
            for k, v in login(type_).items()
            if k not in ("name", "type", "username", "principal")
        }
        assert (await ada.http.post("/credentials/1/rotate", json=new)).json()["version"] == 2
        assert {k: v.strip() for k, v in (await opened(ada.services.vault, 1)).items()} == {
            k: v.strip() for k, v in new.items()
        }
        other = {"password": "x"} if type_ != "password" else {"keytab": "x"}
        surplus = new | other if type_ == "kerberos" else other
        problem(
            await ada.http.post("/credentials/1/rotate", json=surplus), 422, "invalid_credential"
        )
        problem(await ada.http.post("/credentials/1/rotate", json={}), 422, "invalid_credential")


async def test_a_certificate_is_renewed_without_its_key(database: Database) -> None:
    async with api_client(database) as ada:
        await ada.http.post(
            "/credentials",
            json=login(
                "ssh_certificate", private_key=pem_of(KEY), certificate=ssh_certificate(KEY)
            ),
        )
        renewed = ssh_certificate(KEY, days=30)
        assert (
            await ada.http.post("/credentials/1/rotate", json={"certificate": renewed})
        ).status_code == 200
        held = await opened(ada.services.vault, 1)
        assert (held["certificate"].strip(), held["private_key"]) == (renewed.strip(), pem_of(KEY))
        other = ssh_certificate(Ed25519PrivateKey.generate())
        problem(
            await ada.http.post("/credentials/1/rotate", json={"certificate": other}),
            422,
            "invalid_credential",
        )


async def test_an_older_version_is_not_rotated(database: Database) -> None:
    async with api_client(database) as ada:
        for type_ in ("password", "agent"):
            await ada.http.post("/credentials", json=login(type_))
        body, path = {"password": "canary-2"}, "/credentials/1/rotate"
        problem(await ada.http.post(path, json={**body, "version": 2}), 412, "stale_version")
        problem(
            await ada.http.post(path, json=body, headers={"If-Match": '"7"'}), 412, "stale_version"
        )
        assert (
            await ada.http.post(path, json=body, headers={"If-Match": '"1"'})
        ).status_code == 200
        answers = [
            await ada.http.post(path, json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)
        ]
        assert [answer.json()["version"] for answer in answers] == [3, 3]
        problem(await ada.http.post("/credentials/2/rotate", json=body), 422, "nothing_to_rotate")
        for role, status in (("manager", 403), ("admin", 200)):
            assert (
                await ada.http.post(path, json=body, headers=await ada.token_of(role))
            ).status_code == status
