"""`opsjobs targets`: change, label, trust and test machines, against a fake API."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from cli.fake_api import ApiRequest, ApiResponse, FakeApi, problem, serve_api
from opsjobs.api.resource import merge_patch
from opsjobs.cli.app import run

OLD, NEW = "ssh-ed25519 AAAAold", "ssh-ed25519 AAAAnew"


def target(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": str(number),
        "name": f"web-{number}",
        "host": f"10.0.0.{number}",
        "port": 22,
        "transport": "ssh",
        "labels": {"env": "prod"},
        "groups": ["web"],
        "credential": "web-key",
        "jump": None,
        "host_keys": [],
        "host_key_policy": "pinned",
        "zone": "default",
        "version": 1,
        **more,
    }


class Fleet:
    """Targets of a fake API, which can be changed.

    `scanned`: the keys that a machine shows, or a refusal.
    """

    def __init__(self, *targets: dict[str, Any]) -> None:
        self.targets = {one["id"]: one for one in (targets or (target(1), target(2), target(10)))}
        self.scanned: dict[str, list[str] | ApiResponse] = {}
        self.trials: dict[str, ApiResponse] = {}
        self.refuses: Callable[[ApiRequest], ApiResponse | None] = lambda asked: None
        self.maintenance: dict[str, Any] | None = None

    def __call__(self, asked: ApiRequest) -> ApiResponse:
        if (refused := self.refuses(asked)) is not None:
            return refused
        match asked.path.strip("/").split("/"):
            case ["targets"]:
                return ApiResponse(
                    200,
                    {
                        "items": [
                            one for one in self.targets.values() if self._is_asked(asked, one)
                        ],
                        "next": None,
                    },
                )
            case ["workers"]:
                return ApiResponse(200, {"items": [{"zone": "default", "alive": True}]})
            case ["target-groups"]:
                return ApiResponse(200, {"items": [{"id": 7, "name": "web"}], "next": None})
            case ["target-groups", "7", "targets"]:
                return ApiResponse(200, {"items": [self.targets["2"]], "next": None})
            case ["targets", ref, "scan-host-keys"]:
                keys = self.scanned.get(ref, [NEW])
                if isinstance(keys, ApiResponse):
                    return keys
                return ApiResponse(
                    200, {"host_keys": [{"key": key, "fingerprint": "SHA256:x"} for key in keys]}
                )
            case ["targets", ref, "test"]:
                return self.trials.get(
                    ref,
                    ApiResponse(
                        200, {"ok": True, "steps": [{"name": "connect", "ok": True, "ms": 5.0}]}
                    ),
                )
            case ["targets", _, "maintenance"]:
                return ApiResponse(200, {"maintenance": self.maintenance})
            case ["targets", ref] if ref not in self.targets:
                return problem(404, "target_not_found", "There is no such target.")
            case ["targets", ref] if asked.method == "PATCH":
                body = {name: value for name, value in asked.body.items() if name != "version"}
                self.targets[ref] = merge_patch(self.targets[ref], body)
                return ApiResponse(200, self.targets[ref])
            case ["targets", ref]:
                return ApiResponse(200, self.targets[ref])
        return problem(404, "not_found", f"There is nothing at {asked.path}.")

    @staticmethod
    def _is_asked(asked: ApiRequest, one: dict[str, Any]) -> bool:
        query = {
            name: values[0]
            for name, values in asked.query.items()
            if name in ("name", "host", "port")
        }
        selected = "selector" not in asked.query or one["labels"].get("env") == "prod"
        return selected and all(str(one[name]) == value for name, value in query.items())


def called(monkeypatch: pytest.MonkeyPatch, fleet: Fleet, *words: str, code: int = 0) -> FakeApi:
    with serve_api(fleet) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        assert run(["targets", *words]) == code
        return api


def patches(api: FakeApi) -> list[tuple[str, Any]]:
    return [(asked.path, asked.body) for asked in api.requests if asked.method == "PATCH"]


# --- set


def test_targets_set_sends_its_options_and_shows_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api = called(
        monkeypatch, Fleet(), "set", "web-1", "--host", "10.0.0.9", "--port", "2222", "--slots", "3", "--no-credential",
        "--jump", "web-2", "-g", "canaries", "--no-group", "web",
    )  # fmt: skip
    told = {
        "host": "10.0.0.9",
        "port": 2222,
        "slots": 3,
        "credential": None,
        "jump": "web-2",
        "groups": ["canaries"],
    }
    assert patches(api) == [("/targets/1", told)]
    err = capsys.readouterr().err
    for words in (
        "host 10.0.0.1 -> 10.0.0.9",
        "port 22 -> 2222",
        "credential web-key -> none",
        "groups +canaries -web",
    ):
        assert words in err


def test_targets_set_warns_of_equal_addresses_and_zones_without_workers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called(monkeypatch, Fleet(), "set", "web-1", "--host", "10.0.0.2", "--zone", "paris")
    err = capsys.readouterr().err
    assert "web-1 has the same host and port as web-2" in err
    assert "zone paris has no worker now" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["web-1"], "nothing to change"),
        (["--port", "22"], "no targets are given"),
        (["web-1", "web-2", "--host", "10.0.0.9"], "--host: only valid for one target"),
        (["web-1", "-c", "key", "--no-credential"], "exclude each other"),
    ],
)
def test_targets_set_without_changes_or_for_several_names_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert patches(called(monkeypatch, Fleet(), "set", *words, code=2)) == []
    assert told in capsys.readouterr().err


def test_a_patch_is_repeated_after_a_concurrent_change(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, left = Fleet(), [2]

    def refuses(asked: ApiRequest) -> ApiResponse | None:
        if asked.method == "PATCH" and left[0]:
            left[0] -= 1
            return problem(412, "stale_version", "It was changed.")
        return None

    fleet.refuses = refuses
    assert len(patches(called(monkeypatch, fleet, "set", "web-1", "--slots", "3"))) == 3


# --- label


def test_labels_are_set_and_removed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api = called(monkeypatch, Fleet(), "label", "web-1,web-2", "team=a", "env-")
    assert patches(api) == [
        (f"/targets/{n}", {"labels": {"team": "a", "env": None}}) for n in (1, 2)
    ]
    assert "web-1: -label env, +label team=a" in capsys.readouterr().err


def test_labels_are_set_by_selector(monkeypatch: pytest.MonkeyPatch) -> None:
    api = called(monkeypatch, Fleet(), "label", "-l", "env=prod", "team=a")
    assert len(patches(api)) == 3


@pytest.mark.parametrize(
    "words", [["web-1"], ["web-1", "team"], ["web-1", "=a"], ["web-1", "-l", "env=prod", "team=a"]]
)
def test_an_invalid_label_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    assert patches(called(monkeypatch, Fleet(), "label", *words, code=2)) == []


def test_a_refused_target_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet()
    fleet.refuses = lambda asked: (
        problem(403, "out_of_reach", "Not yours.")
        if (asked.method, asked.path) == ("PATCH", "/targets/1")
        else None
    )
    called(monkeypatch, fleet, "label", "--all", "team=a", code=5)
    err = capsys.readouterr().err
    assert "web-1: Not yours." in err
    assert "2 of 3 targets are changed" in err


# --- maintenance


def test_maintenance_begins_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet()
    fleet.maintenance = {"until": "2026-11-30T06:00:00Z", "reason": "new disk"}
    api = called(
        monkeypatch,
        fleet,
        "maintenance",
        "web-1",
        "--until",
        "2026-11-30T06:00:00Z",
        "--reason",
        "new disk",
    )
    assert api.requests[-1].body == {"until": "2026-11-30T06:00:00Z", "reason": "new disk"}
    assert (
        "web-1: under maintenance until 2026-11-30T06:00:00Z: new disk" in capsys.readouterr().err
    )
    fleet.maintenance = None
    assert called(monkeypatch, fleet, "maintenance", "web-1", "--end").requests[-1].body == {
        "off": True
    }
    assert "web-1: not under maintenance" in capsys.readouterr().err
    assert called(monkeypatch, fleet, "maintenance", "web-1", "--for", "2h").requests[-1].body == {
        "duration": "2h"
    }
    called(monkeypatch, fleet, "maintenance", "web-1", "--for", "2h", "--end", code=2)


# --- trust and test


def test_targets_trust_continues_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet()
    fleet.scanned["1"] = problem(424, "unreachable", "10.0.0.1:22 refuses connections.")
    api = called(monkeypatch, fleet, "trust", "--all", "--yes", code=1)
    assert [path for path, _ in patches(api)] == ["/targets/2", "/targets/10"]
    err = capsys.readouterr().err
    assert "web-1: 10.0.0.1:22 refuses connections." in err
    assert "2 of 3 targets are trusted" in err


def test_targets_trust_replaces_host_keys_only_with_replace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(target(1, host_keys=[OLD]))
    assert patches(called(monkeypatch, fleet, "trust", "web-1", "--yes", code=2)) == []
    assert "its keys differ from the trusted ones" in capsys.readouterr().err
    ((_, body),) = patches(
        called(monkeypatch, deepcopy(fleet), "trust", "web-1", "--yes", "--replace")
    )
    assert body == {"host_keys": [NEW], "host_key_policy": "pinned", "version": 1}


def test_targets_are_queried_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, together = Fleet(), threading.Barrier(3)

    def refuses(asked: ApiRequest) -> None:
        if asked.path.endswith("/test"):
            together.wait(30)  # raises unless all three run at the same time

    fleet.refuses = refuses
    called(monkeypatch, fleet, "test", "--all")


def test_targets_test_shows_one_line_per_target(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet()
    error = {"code": "auth", "message": "Permission denied"}
    steps = [
        {"name": "connect", "ok": True, "ms": 5.0},
        {"name": "auth", "ok": False, "ms": 9.0, "error": error},
    ]
    fleet.trials["2"] = ApiResponse(200, {"ok": False, "steps": steps})
    fleet.trials["10"] = problem(403, "out_of_reach", "Not yours.")
    called(monkeypatch, fleet, "test", "-l", "env=prod", code=1)
    told = capsys.readouterr()
    assert [line.split() for line in told.out.splitlines()[1:]] == [
        ["web-1", "yes", "5", "ms", "-", "-"],
        ["web-2", "no", "14", "ms", "auth", "auth:", "Permission", "denied"],
        ["web-10", "no", "0", "ms", "request", "Not", "yours."],
    ]
    assert "1 of 3 targets work" in told.err
    called(monkeypatch, fleet, "test", "-g", "web", "-o", "json", code=1)
    assert json.loads(capsys.readouterr().out) == [{"name": "web-2", "ok": False, "steps": steps}]


def test_a_target_that_works_without_sudo_is_not_said_to_work_in_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet()
    steps = [
        {"name": "connect", "ok": True, "ms": 5.0, "error": None},
        {"name": "sudo", "ok": False, "ms": 9.0, "error": "a password is required"},
    ]
    fleet.trials["2"] = ApiResponse(200, {"ok": True, "steps": steps})
    called(monkeypatch, fleet, "test", "web-2")
    assert "web-2: works, but not as root: sudo" in capsys.readouterr().err
    called(monkeypatch, fleet, "test", "web-1")
    assert capsys.readouterr().err == "web-1: works\n"


# --- list and show


def test_targets_list_keeps_the_order_and_shows_host_key_trust(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(
        target(1, host_key_policy="ca", host_keys=[OLD]),
        target(2, host_keys=[OLD, f"@revoked {NEW}"]),
        target(3, host_key_policy="accept_new"),
        target(10),
    )
    called(monkeypatch, fleet, "list")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[1], " ".join(line[9:])) for line in lines[1:]] == [
        ("web-1", "ca (1)"),
        ("web-2", "1"),
        ("web-3", "accept_new"),
        ("web-10", "none"),
    ]


def test_one_target_is_shown_with_fingerprints_and_maintenance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blob = "AAAAC3NzaC1lZDI1NTE5AAAAIJ1Zh1VXxUyUzWtZUf0Cw8sWW7VJ0yLZQjz0OqYbq5cM"
    fleet = Fleet(target(1, host_keys=[f"ssh-ed25519 {blob}"]))
    called(monkeypatch, fleet, "show", "web-1")
    out = capsys.readouterr().out
    assert "ssh-ed25519 SHA256:" in out
    assert blob not in out
    assert "not under maintenance" in out
    called(monkeypatch, fleet, "show", "web-1", "-o", "json")
    assert json.loads(capsys.readouterr().out)["host_keys"] == [f"ssh-ed25519 {blob}"]
