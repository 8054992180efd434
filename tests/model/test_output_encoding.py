"""Output in other encodings, as cmd, PowerShell 5.1 and 7 and old programs write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from opsjobs.model.output_encoding import LINE_BYTES_MAX, TextDecoder, check_encoding
from opsjobs.model.winrm import WinrmOptions

HELLO = "Жук\r\n"


def decoded(data: bytes, encoding: str, size: int = 1 << 20) -> bytes:
    """Return the text of these bytes, added in pieces of this size."""
    decoder = TextDecoder(encoding)
    pieces = [decoder.add(data[at : at + size]) for at in range(0, len(data), size)]
    return b"".join(pieces) + decoder.finish()


def everywhere(data: bytes, encoding: str) -> str:
    """Return the text; check that it is the same wherever the bytes are cut.

    A cut may be between two Receives.
    """
    found = {decoded(data, encoding, size) for size in (1, 2, 3, 5, 7, 4096, 1 << 20)}
    assert len(found) == 1
    return found.pop().decode()


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("cp437", "Größe: ½ ░ é\r\n"),
        ("cp850", "Größe: ½ © é\r\nStraße"),
        ("cp1252", "Größe: €5 “é”\r\n"),
        ("cp932", "表示ソ 日本語 ｱｲ\r\nok\r\n"),
        ("cp936", "上海\r\n"),
        ("cp866", "Привет\r\n"),
    ],
)
def test_lines_of_a_code_page_and_of_utf8_may_follow_each_other(page: str, text: str) -> None:
    assert everywhere(text.encode(page), page) == text
    assert everywhere(text.encode(), page) == text
    mixed = text.encode(page) + b"\r\n" + text.encode() + b"\n" + text.encode(page)
    assert everywhere(mixed, page) == f"{text}\r\n{text}\n{text}"


@pytest.mark.parametrize("encoding", ["auto", "cp850"])
@pytest.mark.parametrize(
    ("data", "text"),
    [
        # `>` of PowerShell 5.1, and reg.exe: UTF-16 with a byte order mark
        ("\ufeffGröße 日本上\r\n😀\r\n".encode("utf-16-le"), "Größe 日本上\r\n😀\r\n"),
        # wsl.exe and sfc.exe: without it
        ("\r\nNAME 日本上\r\n上上\r\n".encode("utf-16-le"), "\r\nNAME 日本上\r\n上上\r\n"),
        ("\n日本 x\r\n次\r\n".encode("utf-16-le"), "\n日本 x\r\n次\r\n"),
        ("\n\n一\r\n".encode("utf-16-le"), "\n\n一\r\n"),
        ("文件\r\n上\r\n".encode("utf-16-le"), "文件\r\n上\r\n"),
        ("一: x\nß\n".encode("utf-16-le"), "一: x\nß\n"),
        ("A中\r\n".encode("utf-16-le") + "ä\n".encode(), "A中\r\nä\n"),
        ("日本 end".encode("utf-16-le"), "日本 end"),
        # one of them between lines of others
        (b"before\r\n" + "A 上\r\nB\r\n".encode("utf-16-le") + b"after\r\n", "before\r\nA 上\r\nB\r\nafter\r\n"),
        ("上A上\r\nx\r\n".encode("utf-16") + b"Ende \xc3\xa4\n" + b"x\n", "上A上\r\nx\r\nEnde ä\nx\n"),
        # UTF-8 with a byte order mark: `chcp 65001`, and Out-File -Encoding utf8 of PowerShell 5.1
        (b"\xef\xbb\xbfgr\xc3\xbc\xc3\x9fe\r\n", "grüße\r\n"),
        # wmic, whose line ends are doubled
        (b"Caption \r\r\nWindows \r\r\n\r\r\n", "Caption \r\r\nWindows \r\r\n\r\r\n"),
        (b"", ""),
        (b"no end", "no end"),
        (b"a\0b\n", "a\0b\n"),
        (b"\n\0ab\n", "\n\0ab\n"),
        ("x".encode("utf-16-le"), "x"),
    ],
)  # fmt: skip
def test_utf8_and_utf16_are_recognized(data: bytes, text: str, encoding: str) -> None:
    assert everywhere(data, encoding) == text


def test_lines_of_a_code_page_follow_lines_in_utf16() -> None:
    wide = "Имя\r\nDebian 上海上\r\n".encode("utf-16-le")
    data = b"\xff\xfe" + wide + HELLO.encode("cp866") + wide[8:] + b"end"
    again = wide[8:].decode("utf-16-le")
    assert everywhere(data, "cp866") == wide.decode("utf-16-le") + HELLO + again + "end"


@pytest.mark.parametrize("text", ["中文\r\n", "日上\r\n", "日本\n"])
def test_some_first_lines_in_utf16_are_known_by_their_mark_only(text: str) -> None:
    """As docs/how-to/run-on-windows-hosts.md describes."""
    data = text.encode("utf-16-le")
    assert everywhere(b"\xff\xfe" + data, "cp850") == text
    assert everywhere(data, "cp850") != text


def test_without_a_code_page_other_bytes_stay_as_they_are() -> None:
    data = b"Gr\x94\xe1e\r\n\xff\xc3\n"
    assert decoded(data, "auto") == data


def test_ascii_is_passed_on_at_once_and_a_line_is_held_for_long_only() -> None:
    decoder = TextDecoder("cp850")
    assert decoder.add(b"Password for ada: ") == b"Password for ada: "
    assert decoder.add(b"50 % gr\x81n") == b"50 % gr"
    assert decoder.add(b"\r\n") == "ün\r\n".encode()
    endless = "é".encode("cp850") * (3 * LINE_BYTES_MAX)
    assert len(decoder.add(endless)) >= 2 * LINE_BYTES_MAX
    assert everywhere(endless, "cp850") == "é" * (3 * LINE_BYTES_MAX)
    assert everywhere("日".encode("cp932") * 5001, "cp932") == "日" * 5001
    assert everywhere("日".encode() * 5001, "cp932") == "日" * 5001


@given(
    some.lists(
        some.sampled_from(
            [b"\n", b"\r\n", b"\0", b"a", b"\xff", b"\xfe", b"\xef\xbb\xbf", b"\x82", b"\xc3\xa9",
             b"x\0\r\0\n\0", b"\x93\xfa", b"\x3d\xd8\x00\xde", b"\r", b"hello"]
        )
    ),
    some.sampled_from(["auto", "cp850", "cp932"]),
)  # fmt: skip
def test_the_text_depends_on_the_bytes_alone(pieces: list[bytes], encoding: str) -> None:
    data = b"".join(pieces)
    assert len({decoded(data, encoding, size) for size in (1, 2, 3, 7, 1 << 20)}) == 1


@pytest.mark.parametrize(
    ("written", "name"),
    [("850", "cp850"), ("CP437", "cp437"), ("windows-1252", "cp1252"), ("IBM 866", "cp866"),
     ("auto", "auto"), ("UTF-8", "auto"), ("65001", "auto")],
)  # fmt: skip
def test_code_pages_have_one_name(written: str, name: str) -> None:
    assert WinrmOptions(encoding=written).encoding == name


@pytest.mark.parametrize("written", ["", "cp1", "latin", "utf-16", "12345678"])
def test_other_encodings_are_refused(written: str) -> None:
    with pytest.raises(ValueError, match="auto, or a code page such as"):
        check_encoding(written)
