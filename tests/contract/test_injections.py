"""A text given to a program is never read as code: a fixed corpus through real shells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from contract.conftest import OpenBackend, collect
from contract.injections import payloads
from contract.test_programs import StartMethod, way
from opsjobs.model.program import Program
from opsjobs.model.quoting import posix
from opsjobs.model.secret import Secret
from opsjobs.remote.session import RemoteExit

ON_REAL_SHELLS = pytest.mark.parametrize("open_backend", ["local", "openssh"], indirect=True)
BOTH_WAYS = pytest.mark.parametrize("kind", ["durable", "direct"])
FOLDERS_DEEP = 25
pytestmark = [ON_REAL_SHELLS, BOTH_WAYS]


@asynccontextmanager
async def attacked(
    open_backend: OpenBackend, kind: str
) -> AsyncIterator[tuple[StartMethod, list[str]]]:
    """Yield a machine and the corpus; check at the end that none of it was executed."""
    async with way(open_backend, kind) as web:
        witness = web.backend.folder / "witness"
        texts = payloads(witness)
        assert len(set(texts)) == len(texts) >= 200
        yield web, texts
        assert not witness.exists()
        assert [
            path for path in web.backend.folder.iterdir() if path.name.startswith("witness")
        ] == []


def told(texts: list[str]) -> bytes:
    return "".join(f"{text}\0" for text in texts).encode()


async def test_the_corpus_would_be_seen_if_it_were_heeded(
    open_backend: OpenBackend, kind: str
) -> None:
    """Without it, the tests below would prove nothing."""
    async with way(open_backend, kind) as web:
        witness = web.backend.folder / "witness"
        for text in [
            text
            for text in payloads(witness)
            if text.startswith(("touch", ">", "echo", "cp", "sh -c"))
        ][:5]:
            await web.run(Program(command=text))
            assert witness.exists(), text
            witness.unlink()


async def test_arguments(open_backend: OpenBackend, kind: str) -> None:
    async with attacked(open_backend, kind) as (web, texts):
        program = Program(script=b"printf '%s\\0' \"$@\"", args=tuple(texts))
        assert await web.run(program) == (told(texts), b"", RemoteExit(0))


async def test_variables_of_scripts_and_of_commands(open_backend: OpenBackend, kind: str) -> None:
    async with attacked(open_backend, kind) as (web, texts):
        env = {f"V{n}": text for n, text in enumerate(texts)}
        for program in (
            Program(script=b"env -0", env=env),
            Program(command="env -0", env=env),
            Program(command="env -0", env=env, stdin=b"x"),
        ):
            out, err, end = await web.run(program)
            seen = dict(line.split("=", 1) for line in out.decode().split("\0") if line)
            assert {name: seen.get(name) for name in env} == env
            assert (err, end) == (b"", RemoteExit(0))


async def test_standard_input(open_backend: OpenBackend, kind: str) -> None:
    async with attacked(open_backend, kind) as (web, texts):
        for data in (told(texts), "\n".join(texts).encode()):
            assert await web.run(Program(command="cat", stdin=data)) == (data, b"", RemoteExit(0))
            assert await web.run(Program(script=b"cat", stdin=data)) == (data, b"", RemoteExit(0))


async def test_values_in_a_command(open_backend: OpenBackend, kind: str) -> None:
    async with attacked(open_backend, kind) as (web, texts):
        command = f"printf '%s\\0' {' '.join(map(posix, texts))}"
        for program in (
            Program(command=command),
            Program(command=command, cwd="/"),
            Program(command=command, stdin=b"x"),
        ):
            assert await web.run(program) == (told(texts), b"", RemoteExit(0))
        assert await collect(await web.session.start(command)) == (told(texts), b"", RemoteExit(0))


async def test_secrets(open_backend: OpenBackend, kind: str) -> None:
    async with attacked(open_backend, kind) as (web, texts):
        parts = [texts[at::10] for at in range(10)]
        secrets = {f"s{n}": Secret("\0".join(part) + "\0") for n, part in enumerate(parts)}
        out, err, end = await web.run(Program(command='cat "$OPSJOBS_SECRETS"/s*', secrets=secrets))
        assert (out, err, end) == (b"".join(told(part) for part in parts), b"", RemoteExit(0))


async def test_working_directories(open_backend: OpenBackend, kind: str) -> None:
    async with attacked(open_backend, kind) as (web, texts):
        for folder in folders(web.backend.folder / "there", texts):
            folder.mkdir(parents=True)
            out, err, end = await web.run(Program(command="pwd -P; printf '\\0'", cwd=str(folder)))
            assert (out, err, end) == (f"{folder}\n\0".encode(), b"", RemoteExit(0))


async def test_working_directories_and_interpreters_that_are_not_there(
    open_backend: OpenBackend, kind: str
) -> None:
    async with attacked(open_backend, kind) as (web, texts):
        for folder in folders(Path("/nowhere"), texts):
            _, _, end = await web.run(Program(command="true", cwd=str(folder)))
            assert end.cause == "folder"
            _, _, end = await web.run(Program(script=b"true", interpreter=str(folder)))
            assert end.cause == "interpreter"


def folders(root: Path, texts: list[str]) -> list[Path]:
    """Return nested folders, as deep as a path allows, so that one process checks many texts."""
    names = [text.replace("/", "_") for text in texts]
    return [
        root.joinpath(*names[at : at + FOLDERS_DEEP]) for at in range(0, len(names), FOLDERS_DEEP)
    ]
