"""`opsjobs targets import` and `opsjobs groups` against a fake API: requests and output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, FakeApi, problem, serve_api
from docs.pages import Sample, samples
from opsjobs.cli.app import run
from opsjobs.cli.importing import guess, read

SAMPLES = samples("docs/how-to/import-targets.md", "text")


def service(asked: ApiRequest) -> ApiResponse:
    """Serve a fake API without targets that refuses entries without a host."""
    if asked.path == "/targets/import":
        items = [
            {
                "position": p,
                "name": t["name"],
                "id": str(p + 1),
                "outcome": "created",
                "error": None,
            }
            if t["host"] != "bad"
            else {
                "position": p,
                "name": t["name"],
                "id": None,
                "outcome": "refused",
                "error": {"code": "x", "message": "no"},
            }
            for p, t in enumerate(asked.body["targets"])
        ]
        return ApiResponse(200, {"items": items})
    if asked.path == "/credentials":
        taken = problem(409, "name_taken", "There is already one.")
        return taken if asked.body["name"].endswith("taken") else ApiResponse(201, {"id": 1})
    return problem(404, "not_found", "There is nothing.")


def imported(monkeypatch: pytest.MonkeyPatch, *words: str, code: int = 0) -> FakeApi:
    with serve_api(service) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        assert run(["targets", "import", *words]) == code
        return api


def sent(api: FakeApi) -> list[dict[str, Any]]:
    return [
        entry
        for asked in api.requests
        if asked.path == "/targets/import"
        for entry in asked.body["targets"]
    ]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.note)
def test_documented_inventories_can_be_imported(
    sample: Sample,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / sample.note
    file.write_text(sample.text)
    names = [entry["name"] for entry in sent(imported(monkeypatch, str(file), "-o", "name"))]
    assert sorted(names) == sorted(
        one.name for one in read(guess(sample.note, sample.text), sample.note, sample.text).found
    )
    assert len(names) >= 2
    assert f"{len(names)} created" in capsys.readouterr().err


def test_jump_hosts_are_imported_first_and_options_are_added(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "hosts.ini"
    file.write_text(next(sample.text for sample in SAMPLES if sample.note == "hosts.ini"))
    api = imported(
        monkeypatch, str(file), "-c", "fleet", "--credential-of", "postgres=db-key", "-g", "new", "--label", "by=ada",
        "--label-from", "env", "--zone", "berlin", "--host-key-policy", "accept_new", "--dry-run", "--existing", "skip",
    )  # fmt: skip
    entries = {entry["name"]: entry for entry in sent(api)}
    assert next(iter(entries)) == "gate"
    assert entries["web02.example.org"] == {
        "name": "web02.example.org",
        "host": "web02.example.org",
        "port": 2222,
        "credential": "fleet",
        "groups": ["prod", "web", "new"],
        "labels": {"env": "prod", "by": "ada"},
        "jump": "gate",
        "zone": "berlin",
        "host_key_policy": "accept_new",
    }
    assert entries["db-1"]["credential"] == "db-key"
    (asked,) = [asked for asked in api.requests if asked.method == "POST"]
    assert (asked.body["dry_run"], asked.body["existing"]) == (True, "skip")
    assert (asked.body["labels"], asked.body["groups"]) == ("merge", "merge")


def test_labels_and_groups_are_replaced_only_on_demand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "t.csv"
    file.write_text("name,labels\nweb-1,env=prod\n")
    (asked,) = imported(
        monkeypatch, str(file), "-c", "fleet", "--replace-labels", "--replace-groups"
    ).requests
    assert (asked.body["labels"], asked.body["groups"]) == ("replace", "replace")


def test_imports_show_changes_and_shared_addresses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {
        "port": {"from": 22, "to": 2222},
        "jump": {"from": None, "to": "gate"},
        "groups": {"from": ["a"], "to": ["a", "web"]},
        "labels.env": {"from": "prod", "to": "dev"},
        "labels.team": {"from": None, "to": "a"},
        "labels.rack": {"from": "r1", "to": None},
    }

    def reply(asked: ApiRequest) -> ApiResponse:
        if asked.path == "/workers":
            return ApiResponse(
                200,
                {"items": [{"zone": "paris", "alive": False}, {"zone": "berlin", "alive": True}]},
            )
        item = {"position": 0, "name": "web-1", "id": "1", "outcome": "updated", "error": None}
        return ApiResponse(
            200, {"items": [{**item, "changes": changes, "same_address": ["web01"]}]}
        )

    file = tmp_path / "t.csv"
    file.write_text("name,zone\nweb-1,paris\n")
    with serve_api(reply) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        assert run(["targets", "import", str(file), "-c", "fleet"]) == 0
        told = capsys.readouterr()
        assert run(["targets", "import", str(file), "-c", "fleet", "-o", "json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["changes"] == changes
    wished = "port 22 -> 2222, jump none -> gate, groups +web, label env prod -> dev, +label team=a, -label rack"
    assert wished in told.out
    assert "web-1 has the same host and port as web01" in told.err
    assert "zone paris has no worker now" in told.err


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "hosts.ini",
            "$ANSIBLE_VAULT;1.1;AES256\n6134623464\n",
            "--list --ask-vault-pass | opsjobs targets import -",
        ),
        (
            "hosts",
            "\n$ANSIBLE_VAULT;1.2;AES256;prod\n6134623464\n",
            "it is encrypted with ansible-vault",
        ),
        ("hosts.toml", "[web.hosts]\nweb-1 = {}\n", "TOML is not supported"),
        (
            "hosts.py",
            "#!/usr/bin/env python3\nprint('{}')\n",
            "it is a program, which is not executed",
        ),
    ],
)
def test_files_that_only_ansible_reads_are_refused_with_the_command_to_convert_them(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    told: str,
) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert imported(monkeypatch, str(file), code=2).requests == []
    err = capsys.readouterr().err
    assert told in err
    assert str(file) in err


def test_a_file_without_hosts_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hosts.ini"
    file.write_text("# nothing\n")
    imported(monkeypatch, str(file))
    assert (
        "no hosts found. If the file has some, set its format with --from."
        in capsys.readouterr().err
    )


def test_imported_keys_are_stored_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    (tmp_path / "taken").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    file = tmp_path / "t.csv"
    file.write_text(
        "name,user,key\nweb-1,deploy,key\nweb-2,deploy,key\nweb-3,ada,taken\nweb-4,ada,gone\nweb-5,ada,\n"
    )
    api = imported(monkeypatch, str(file), "--with-keys")
    assert [asked.body["name"] for asked in api.requests if asked.path == "/credentials"] == [
        "deploy@key",
        "ada@taken",
    ]
    logins = [entry.get("credential") for entry in sent(api)]
    assert logins == ["deploy@key", "deploy@key", "ada@taken", None, None]
    told = capsys.readouterr().err
    assert "gone of ada cannot be read" in told
    assert "no credential for the login users ada" in told


def test_skipped_and_refused_targets_are_reported_and_a_refusal_exits_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "t.csv"
    file.write_text("name,host,port\nweb-1,10.0.0.1,\nweb-2,bad,\nweb-3,10.0.0.3,http\n")
    imported(monkeypatch, str(file), "-c", "fleet", code=1)
    told = capsys.readouterr()
    assert "refused" in told.out
    assert "skipped: line 4: web-3: 'http' is not a port" in told.err
    assert "1 created, 1 refused; 1 host skipped" in told.err


def test_hosts_are_imported_in_batches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "hosts.ini"
    file.write_text("web[0001:1200].example.org")
    api = imported(monkeypatch, str(file), "-c", "fleet", "-o", "name")
    assert [len(asked.body["targets"]) for asked in api.requests] == [500, 500, 200]


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        ("[web]\nweb-1 oops", [], "line 2: 'oops'"),
        ("name\nx", ["--from", "csv", "--label", "oops"], "--label oops"),
        ("a: [", ["--from", "ansible"], "line 1"),
    ],
)
def test_an_invalid_inventory_or_option_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: list[str],
    told: str,
) -> None:
    file = tmp_path / "hosts.ini"
    file.write_text(text)
    api = imported(monkeypatch, str(file), *words, code=2)
    assert api.requests == []
    assert told in capsys.readouterr().err


def test_a_missing_inventory_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert imported(monkeypatch, str(tmp_path / "nowhere"), code=2).requests == []


# --- groups

WEB = {
    "id": 3, "name": "web", "description": "old", "selector": "env=prod", "groups": ["eu"], "direct_targets": 2, "updated_at": None
}  # fmt: skip


def groups(monkeypatch: pytest.MonkeyPatch, *words: str, code: int = 0) -> list[ApiRequest]:
    def reply(asked: ApiRequest) -> ApiResponse:
        if asked.method == "GET":
            named = asked.query.get("name", ["web"]) == ["web"]
            return (
                ApiResponse(200, {"items": [WEB] if named else [], "next": None})
                if "/3" not in asked.path
                else ApiResponse(200, WEB)
            )
        return ApiResponse(201, {"id": 3})

    with serve_api(reply) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        assert run(["groups", *words]) == code
        return api.requests


def test_groups_add_sends_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    (asked,) = groups(
        monkeypatch, "add", "prod", "-t", "web-1,web-2", "-g", "web", "-l", "env=prod"
    )
    assert asked.body == {
        "name": "prod",
        "targets": ["web-1", "web-2"],
        "groups": ["web"],
        "selector": "env=prod",
    }


def test_groups_set_keeps_other_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, asked = groups(monkeypatch, "set", "web", "--description", "new", "-l", "")
    assert (asked.method, asked.path) == ("PUT", "/target-groups/3")
    assert asked.body == {"name": "web", "description": "new", "selector": None, "groups": ["eu"]}


def test_groups_are_listed_shown_and_removed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    groups(monkeypatch, "list")
    assert "env=prod" in capsys.readouterr().out
    groups(monkeypatch, "show", "web", "-o", "json")
    assert '"direct_targets": 2' in capsys.readouterr().out
    *_, asked = groups(monkeypatch, "rm", "web")
    assert (asked.method, asked.path) == ("DELETE", "/target-groups/3")
