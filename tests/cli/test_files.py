"""Files and artifacts from the command line: always below a local folder, whatever their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.fake_api import ApiRequest, ApiResponse, serve_api
from opsjobs.cli.app import run
from opsjobs.cli.execution_output import local_parts, write_below


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


def test_a_file_that_does_not_become_whole_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_off(request: ApiRequest) -> ApiResponse:
        if request.path.endswith("/content"):
            return ApiResponse(portions=[b"half"], cut=True)
        return ApiResponse(body={"id": 1, "name": "app.conf", "size": 8})

    def half() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        write_below(tmp_path, ["web-1", "a"], half())
    monkeypatch.chdir(tmp_path)
    with serve_api(break_off) as api:
        monkeypatch.setenv("OPSJOBS_URL", api.url)
        monkeypatch.setenv("OPSJOBS_TOKEN", "opsc_ada")
        assert run(["files", "download", "1"]) == 1
    assert "closed the connection" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
