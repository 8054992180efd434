"""The data folder: one holder, secrets for its owner alone, and no one else's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from opsjobs.model.errors import Refusal
from opsjobs.standalone.data_dir import DataFolder


def test_a_locked_data_folder_is_refused_with_its_holder(tmp_path: Path) -> None:
    first = DataFolder(tmp_path / "data")
    first.acquire()
    with pytest.raises(
        Refusal, match=rf"already \(process {os.getpid()}\).*kill {os.getpid()}.*--data-dir"
    ):
        DataFolder(tmp_path / "data").acquire()
    first.release()
    second = DataFolder(tmp_path / "data")
    second.acquire()
    second.release()


def test_a_folder_with_other_files_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = DataFolder(tmp_path / "empty")
    folder.acquire()
    folder.release()
    full = tmp_path / "full"
    full.mkdir(mode=0o755)
    (full / "letters.txt").touch()
    with pytest.raises(Refusal, match=r"holds other things \(letters.txt\)"):
        DataFolder(full).acquire()
    assert full.stat().st_mode & 0o777 == 0o755


def test_secrets_are_created_once_with_mode_0600(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.acquire()
    folder.make_secrets(keys=True)
    made = folder.keys.read_text(), folder.admin_token.read_text()
    folder.make_secrets(keys=True)
    assert (folder.keys.read_text(), folder.admin_token.read_text()) == made
    assert made[1].startswith("opsc_")
    assert {p.stat().st_mode & 0o777 for p in (folder.keys, folder.admin_token)} == {0o600}
    folder.release()


def test_no_key_is_created_if_one_is_configured(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.acquire()
    folder.make_secrets(keys=False)
    assert not folder.keys.exists()
    folder.release()


def test_an_unusable_data_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(
        Refusal, match=rf"{tmp_path}/data cannot be used as a data folder \(.*--data-dir"
    ):
        DataFolder(tmp_path / "data").acquire()


def test_the_endpoint_file_exists_while_the_folder_is_locked(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.acquire()
    folder.publish_endpoint("http://127.0.0.1:8003")
    assert folder.endpoint.read_text() == "http://127.0.0.1:8003\n"
    folder.release()
    assert not folder.endpoint.exists()
