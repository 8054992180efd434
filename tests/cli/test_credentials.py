"""`opsjobs credentials` and `opsjobs keys` against a fake API.

They cover the sources of secrets, and a rotation up to its end.
"""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, serve_api
from cli.pseudo_terminal import run_on_terminal
from opsjobs.cli.app import run
from opsjobs.cli.inputs import is_encrypted_key
from opsjobs.model.secret import decode_key, key_id

LOGIN = {"id": 3, "name": "gate", "type": "password", "username": "deploy", "version": 4}
OLD = {
    "id": "0ld0ld00",
    "current": False,
    "known": True,
    "sealed": {"credentials": 0, "parameters": 0, "triggers": 0, "audit_chain": 0},
    "removable": True,
}
NEW = {
    "id": "ne3ne300",
    "current": True,
    "known": True,
    "sealed": {"credentials": 2, "parameters": 0, "triggers": 0, "audit_chain": 0},
    "removable": False,
}


def credentials(asked: ApiRequest) -> ApiResponse:
    """Serve a fake API with the credential gate."""
    if asked.method == "GET" and asked.path.endswith("/usage"):
        jobs = [{"id": 7, "name": "nightly", "actions": ["a", "b"], "parameters": ["token"]}]
        return ApiResponse(
            200,
            {
                "targets": [{"id": "1", "name": "web-1"}],
                "jobs": jobs,
                "total": {"targets": 9, "jobs": 1},
            },
        )
    if asked.method == "GET":
        return ApiResponse(200, {"items": [LOGIN], "next": None})
    return ApiResponse(200, {**LOGIN, "version": 5})


def created(_: ApiRequest) -> ApiResponse:
    """Serve a fake API that stores a credential."""
    return ApiResponse(201, {"id": 5})


def with_stored_secret(asked: ApiRequest) -> ApiResponse:
    """Serve a fake API with the secret api."""
    kept = {**LOGIN, "id": 5, "name": "api", "type": "secret", "username": None, "version": 2}
    return ApiResponse(
        200, {"items": [kept], "next": None} if asked.method == "GET" else {**kept, "version": 3}
    )


@pytest.fixture
def requests_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[ApiRequest]]:
    """Run a command against a fake API with these responses; return its requests."""

    def command(
        reply: Callable[[ApiRequest], ApiResponse], *words: str, stdin: bytes = b"", code: int = 0
    ) -> list[ApiRequest]:
        with serve_api(reply) as api:
            monkeypatch.setenv("OPSJOBS_URL", api.url)
            monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
            monkeypatch.setenv("OPSJOBS_DATA_DIR", str(tmp_path))
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            assert run(words) == code
            return api.requests

    return command


@pytest.mark.parametrize(
    ("options", "stdin", "body"),
    [
        (["--password-file", "-"], b"hunter2\n", {"password": "hunter2"}),
        (
            ["--keytab", "-"],
            b"\x05\x02rest",
            {"keytab": base64.b64encode(b"\x05\x02rest").decode()},
        ),
        (
            ["--key", "-"],
            b"-----BEGIN PRIVATE KEY-----\n",
            {"private_key": "-----BEGIN PRIVATE KEY-----\n"},
        ),
    ],
)
def test_credentials_rotate_reads_stdin_and_sends_the_version(
    requests_of: Callable[..., list[ApiRequest]],
    options: list[str],
    stdin: bytes,
    body: dict[str, Any],
) -> None:
    asked = requests_of(credentials, "credentials", "rotate", "gate", *options, stdin=stdin)[-1]
    assert (asked.method, asked.path, asked.body) == (
        "POST",
        "/credentials/3/rotate",
        {**body, "version": 4},
    )


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"hunter2\n", "hunter2"),
        (b"hunter2", "hunter2"),
        (b"-----BEGIN\nAAAA\n", "-----BEGIN\nAAAA\n"),
        (b"a\r\n", "a"),
    ],
)
def test_a_job_secret_is_read_from_a_file_or_stdin(
    requests_of: Callable[..., list[ApiRequest]], tmp_path: Path, content: bytes, value: str
) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    for options, stdin in (([str(file)], b""), (["-"], content)):
        asked = requests_of(
            created,
            "credentials",
            "add",
            "api",
            "--type",
            "secret",
            "--secret-file",
            *options,
            stdin=stdin,
        )[-1]
        assert (asked.path, asked.body) == (
            "/credentials",
            {"name": "api", "type": "secret", "value": value},
        )
    asked = requests_of(
        with_stored_secret, "credentials", "rotate", "api", "--secret-file", str(file)
    )[-1]
    assert (asked.path, asked.body) == ("/credentials/5/rotate", {"value": value, "version": 2})


def test_a_job_secret_can_be_stored_in_vault(requests_of: Callable[..., list[ApiRequest]]) -> None:
    words = [
        "credentials",
        "add",
        "api",
        "--type",
        "secret",
        "--vault-path",
        "api",
        "--vault-field",
        "value=token",
    ]
    source = {"backend": "vault", "path": "api", "fields": {"value": "token"}}
    assert requests_of(created, *words)[-1].body == {
        "name": "api",
        "type": "secret",
        "source": source,
    }


@pytest.mark.parametrize(
    "options",
    [
        [],  # and there is no terminal to ask
        ["--password"],
        ["--key", "-", "--secret-file", "-"],
        ["--vault-path", "api", "--secret-file", "-"],
        ["-u", "deploy", "--secret-file", "-"],
    ],
)
def test_a_job_secret_has_one_source_and_no_username(
    requests_of: Callable[..., list[ApiRequest]],
    options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not requests_of(
        created, "credentials", "add", "api", "--type", "secret", *options, stdin=b"x", code=2
    )
    assert "--secret-file" in capsys.readouterr().err


def test_a_login_credential_needs_a_username(
    requests_of: Callable[..., list[ApiRequest]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not requests_of(
        created, "credentials", "add", "gate", "--password-file", "-", stdin=b"x", code=2
    )
    assert not requests_of(
        created, "credentials", "add", "gate", "--secret-file", "-", stdin=b"x", code=2
    )
    told = capsys.readouterr().err
    assert "--username is missing: a login needs it" in told
    assert "only valid with --type secret" in told


def test_a_job_secret_is_prompted_for_without_echo() -> None:
    with serve_api(created) as api:
        code, shown = run_on_terminal(
            "credentials",
            "add",
            "api",
            "--type",
            "secret",
            url=api.url,
            answers=[(b"Secret api: ", b"hunter2\r")],
        )
        assert (code, api.requests[-1].body) == (
            0,
            {"name": "api", "type": "secret", "value": "hunter2"},
        )
    assert "hunter2" not in shown


def test_credentials_rotate_renews_a_certificate_alone(
    requests_of: Callable[..., list[ApiRequest]], tmp_path: Path
) -> None:
    file = tmp_path / "id-cert.pub"
    file.write_text("ssh-ed25519-cert-v01@openssh.com AAAA\n")
    asked = requests_of(credentials, "credentials", "rotate", "gate", "--certificate", str(file))[
        -1
    ]
    assert asked.body == {"certificate": file.read_text(), "version": 4}


@pytest.mark.parametrize(
    "options",
    [[], ["--password"], ["--key", "-", "--password-file", "-"], ["--passphrase-file", "-"]],
)
def test_without_a_terminal_there_is_no_prompt_and_two_secrets_are_refused(
    requests_of: Callable[..., list[ApiRequest]], options: list[str]
) -> None:
    assert not [
        a
        for a in requests_of(credentials, "credentials", "rotate", "gate", *options, code=2)
        if a.method == "POST"
    ]


def test_a_credential_is_bound_and_its_users_are_listed(
    requests_of: Callable[..., list[ApiRequest]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = requests_of(
        credentials,
        "credentials",
        "bind",
        "gate",
        "-t",
        "web-1",
        "-g",
        "web",
        "-g",
        "db",
        "-j",
        "nightly",
    )[-1]
    assert (asked.path, asked.body) == (
        "/credentials/3/bound-to",
        {"targets": ["web-1"], "groups": ["web", "db"], "jobs": ["nightly"]},
    )
    assert requests_of(credentials, "credentials", "bind", "gate", "--anywhere")[-1].body == {
        "targets": [],
        "groups": [],
        "jobs": [],
    }
    requests_of(credentials, "credentials", "bind", "gate", code=2)
    requests_of(credentials, "credentials", "bind", "gate", "--anywhere", "-g", "web", code=2)
    requests_of(credentials, "credentials", "usage", "gate")
    shown = capsys.readouterr()
    assert "web-1" in shown.out
    assert "a, b" in shown.out
    assert "token" in shown.out
    assert "and 8 more" in shown.err


def test_keys_rotate_repeats_until_done_and_names_removable_keys(
    requests_of: Callable[..., list[ApiRequest]], capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [
        {"rewrapped": 700, "left": 302, "done": False, "broken": [], "keys": [NEW, OLD]},
        {"rewrapped": 302, "left": 0, "done": True, "broken": [], "keys": [NEW, OLD]},
    ]
    asked = requests_of(lambda _: ApiResponse(200, answers.pop(0)), "keys", "rotate")
    assert [(a.method, a.path) for a in asked] == [("POST", "/keys/rotate")] * 2
    told = capsys.readouterr().err
    assert "700 rows re-encrypted, 302 left" in told
    assert "opsjobs keys rm 0ld0ld00" in told


def test_keys_rotate_reports_undecryptable_rows(
    requests_of: Callable[..., list[ApiRequest]], capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"kind": "credentials", "id": 7, "reason": "it was changed outside opsjobs"}
    answer = {
        "rewrapped": 0,
        "left": 1,
        "done": True,
        "broken": [row],
        "keys": [NEW, {**OLD, "removable": False}],
    }
    requests_of(lambda _: ApiResponse(200, answer), "keys", "rotate", code=1)
    assert "credentials 7 cannot be decrypted" in capsys.readouterr().err


def test_keys_new_adds_the_current_key_and_drop_removes_an_unused_one(
    requests_of: Callable[..., list[ApiRequest]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def keys(*items: dict[str, Any]) -> Callable[[ApiRequest], ApiResponse]:
        return lambda _: ApiResponse(200, {"items": list(items), "next": None})

    requests_of(keys(), "keys", "add", "--print")
    first = capsys.readouterr().out.strip()
    requests_of(keys(), "keys", "add", code=1)  # no `up` has created keys here
    file = tmp_path / "keys"
    file.write_text(f"{first}\n")
    requests_of(keys(), "keys", "add")
    made = capsys.readouterr().out.strip()
    held = [key_id(decode_key(line)) for line in file.read_text().split()]
    assert held == [made, key_id(decode_key(first))]
    done = {"rewrapped": 0, "left": 0, "done": True, "broken": [], "keys": [OLD]}
    with serve_api(lambda _: ApiResponse(200, done)) as api:
        (tmp_path / "endpoint").write_text(api.url)
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        assert run(["keys", "rotate"]) == 1  # `up` was not restarted since
    assert f"key {made} was added, and is not in use yet" in capsys.readouterr().err
    state = {**OLD, "id": held[1]}
    requests_of(keys(NEW, state), "keys", "rm", "nothing0", code=4)
    requests_of(keys(NEW, {**state, "removable": False}), "keys", "rm", held[1], code=6)
    requests_of(keys(NEW, state), "keys", "rm", held[1])
    assert [key_id(decode_key(line)) for line in file.read_text().split()] == [made]


@pytest.fixture
def locked_key(tmp_path: Path) -> Path:
    """Return a key with a passphrase, in the present form of ssh-keygen."""
    path = tmp_path / "id_ed25519"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", str(path)], check=True
    )
    return path


def test_the_passphrase_of_an_openssh_key_is_prompted_for(locked_key: Path) -> None:
    with serve_api(created) as api:
        words = ["credentials", "add", "web-key", "-u", "deploy", "--key", str(locked_key)]
        code, _ = run_on_terminal(
            *words, url=api.url, answers=[(b"id_ed25519: ", b"open sesame\r")]
        )
    assert (code, api.requests[-1].body["passphrase"]) == (0, "open sesame")


def test_without_a_terminal_the_passphrase_option_is_named(
    requests_of: Callable[..., list[ApiRequest]],
    capsys: pytest.CaptureFixture[str],
    locked_key: Path,
) -> None:
    assert not requests_of(
        created, "credentials", "add", "web-key", "-u", "deploy", "--key", str(locked_key), code=2
    )
    assert "the key has a passphrase. Add --passphrase-file FILE." in capsys.readouterr().err


def test_an_openssh_key_without_a_passphrase_is_not_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    assert not is_encrypted_key(path.read_text())


def test_targets_import_with_keys_prompts_for_passphrases(
    requests_of: Callable[..., list[ApiRequest]],
    capsys: pytest.CaptureFixture[str],
    locked_key: Path,
    tmp_path: Path,
) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"name,host,user,key\nweb-1,10.0.0.1,deploy,{locked_key}\n")

    def service(asked: ApiRequest) -> ApiResponse:
        return ApiResponse(
            200,
            {"items": [{"name": "web-1", "outcome": "created"}]}
            if asked.path == "/targets/import"
            else {"id": 5},
        )

    with serve_api(service) as api:
        words = ["targets", "import", str(file), "--with-keys"]
        run_on_terminal(*words, url=api.url, answers=[(b"id_ed25519: ", b"open sesame\r")])
    assert [a.body["passphrase"] for a in api.requests if a.path == "/credentials"] == [
        "open sesame"
    ]
    asked = requests_of(service, "targets", "import", str(file), "--with-keys")
    assert all(a.path != "/credentials" for a in asked)
    assert (
        "it has a passphrase. Use `opsjobs credentials add deploy@id_ed25519 -u deploy"
        in capsys.readouterr().err
    )
