"""Files and artifacts from the command line: against a whole stack, and below a local folder whatever the names are."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cli.test_against_the_service import folder, names, opsjobs
from opsjobs.cli.client import Client
from opsjobs.cli.endpoint import find_endpoint
from opsjobs.cli.execution_output import local_parts, write_below
from opsjobs.settings import ClientSettings

__all__ = ["folder"]


def test_a_folder_is_uploaded_transferred_and_its_artifacts_saved(
    folder: Path, tmp_path: Path
) -> None:
    site, data = tmp_path / "site", random.Random(3).randbytes(700_000)
    (site / "conf.d").mkdir(parents=True)
    (site / "conf.d" / "ü 1.conf").write_bytes(data)
    (site / "run.sh").write_bytes(b"#!/bin/sh\n")
    (site / "run.sh").chmod(0o755)
    code, out, err = opsjobs(folder, "files", "upload", str(site))
    assert code == 0, err
    source, machine = out.decode().strip(), names(folder)[0]
    assert "site.tar" in opsjobs(folder, "files", "show", source)[1].decode()
    put = {
        "key": "put",
        "direction": "upload",
        "source": source,
        "destination": "site",
        "unpack": True,
    }
    get = {"key": "get", "direction": "download", "source": "site"}
    actions = [{"type": "file_transfer", **action} for action in (put, get)]
    with Client(find_endpoint(ClientSettings(), folder)) as client:
        execution = client.post("/run", {"actions": actions, "targets": {"ids": [machine]}})["id"]
    code, out, err = opsjobs(folder, "executions", "follow", str(execution))
    assert code == 0, err + out.decode()
    assert "site/run.sh" in opsjobs(folder, "executions", "artifacts", str(execution))[1].decode()
    code, _, err = opsjobs(
        folder, "executions", "artifacts", str(execution), "--to", str(tmp_path / "got")
    )
    assert code == 0, err
    got = tmp_path / "got" / machine / "site"
    assert (got / "conf.d" / "ü 1.conf").read_bytes() == data
    assert (got / "run.sh").read_bytes() == b"#!/bin/sh\n"
    assert opsjobs(folder, "files", "rm", source)[0] == 0
    assert opsjobs(folder, "files", "show", source)[0] == 4


def test_a_downloaded_file_is_unchanged_and_overwrites_nothing(
    folder: Path, tmp_path: Path
) -> None:
    data, path = random.Random(4).randbytes(300_000), tmp_path / "a.bin"
    path.write_bytes(data)
    source = opsjobs(folder, "files", "upload", str(path), "--name", "b.bin")[1].decode().strip()
    assert opsjobs(folder, "files", "download", source, "--to", "-")[1] == data
    code, _, err = opsjobs(folder, "files", "download", source, "--to", str(path))
    assert (code, "exists already" in err) == (6, True)
    assert opsjobs(folder, "files", "download", source, "--to", str(tmp_path / "c.bin"))[0] == 0
    assert (tmp_path / "c.bin").read_bytes() == data
    assert "b.bin" in opsjobs(folder, "files", "list")[1].decode()
    assert opsjobs(folder, "files", "upload", str(tmp_path / "none"))[0] == 2


@pytest.mark.parametrize(
    ("target", "path", "parts"),
    [
        ("web-1", "/var/log/a.log", ["web-1", "var", "log", "a.log"]),
        ("web-1", "../../etc/passwd", ["web-1", "__", "__", "etc", "passwd"]),
        ("..", "/a/..", ["__", "a", "__"]),
        ("a/b", "/x//./y\0z\n", ["a_b", "x", "y_z_"]),
        ("web-1", "/" + "n" * 300, ["web-1", "n" * 200]),
    ],
)
def test_artifact_names_cannot_leave_the_folder(target: str, path: str, parts: list[str]) -> None:
    assert local_parts(target, path) == parts


def test_symbolic_links_in_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (inside / "web-1").symlink_to(outside)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        write_below(inside, ["web-1", "a"], [b"x"])
    (inside / "web-2").mkdir()
    (inside / "web-2" / "a").symlink_to(outside / "b")
    with pytest.raises(OSError, match="symbolic"):
        write_below(inside, ["web-2", "a"], [b"x"])
    assert list(outside.iterdir()) == []
    write_below(inside, ["web-2", "deep", "a"], [b"x", b"y"])
    assert (inside / "web-2" / "deep" / "a").read_bytes() == b"xy"
