"""Work with much text: a long log with outputs, and texts of all scripts in a launch.

The next steps use the outputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from chaos import long_texts
from chaos.work import Step, Work
from e2e.processes import Json

LINES_A_PAGE = 100
_LINE = long_texts.plain(100)
_WORD = long_texts.text(long_texts.REASON_CHARACTERS)
_LONG = long_texts.text(long_texts.PARAMETER_CHARACTERS)
_STDIN = long_texts.text(8_000)
_VALUE = long_texts.plain(1_500)
# A step records its start under a key of at most 50 bytes, with which the name of its file begins.
_FILE = long_texts.file_name(size_bytes=long_texts.FILE_NAME_BYTES - 50)
_KIND = long_texts.name("kind")
SITE = long_texts.name("site")
"""The value of the label `site` of each target."""


def labels() -> dict[str, str]:
    """Return labels with long values for a target."""
    return {"site": SITE, **{f"word-{n}": long_texts.name(f"{n}") for n in range(6)}}


def groups() -> list[str]:
    """Return the groups with long names that each target is in."""
    return [long_texts.name(f"group-{n}") for n in range(3)]


def _mark(key: str) -> str:
    return key.partition(".")[0].rpartition("-")[0]


def _host(key: str) -> str:
    return key.partition(".")[2]


# A long log.


def long_log(pages: int, pause_seconds: float) -> Work:
    """Write some 20 KB a page to both streams, with an output at the end of each.

    Later steps print these outputs.
    """
    last = f"at_{pages}"
    again = f"printf '%s\\n' ${{actions.step-1.outputs.page}} ${{actions.step-1.outputs.{last}}} ${{actions.step-1.outputs.key}}"
    use = Step(
        again,
        lambda key: f"{pages}\n{_LINE}\n{_first(key)}\n".encode(),
        more={"outputs": "last_line", "depends_on": ["step-1"]},
        outputs=lambda key: {"last": _first(key)},
    )
    end = Step(
        "printf '%s' ${actions.step-2.outputs.last} >&2; exit ${actions.step-1.outputs.page}",
        stderr=lambda key: _first(key).encode(),
        code=pages,
        more={"depends_on": ["step-2"]},
    )
    return Work("long log", [_pages(pages, pause_seconds), use, end])


def _first(key: str) -> str:
    return f"{_mark(key)}-1.{_host(key)}"


def _pages(pages: int, pause_seconds: float) -> Step:
    script = f"""l='{_LINE}'; p=0; n=0; while [ $p -lt {pages} ]; do p=$((p+1)); e=$((n+{LINES_A_PAGE}))
while [ $n -lt $e ]; do n=$((n+1)); echo "$k line $n $l"; [ $((n%10)) -gt 0 ] || echo "$k error $n $l" >&2; done
printf '{{"page": %s, "at_%s": "%s", "key": "%s"}}\\n' $p $p "$l" "$k"; sleep {pause_seconds}; done"""

    @cache
    def stdout(key: str) -> bytes:
        return "".join(
            "".join(
                f"{key} line {n} {_LINE}\n"
                for n in range((p - 1) * LINES_A_PAGE + 1, p * LINES_A_PAGE + 1)
            )
            + f'{{"page": {p}, "at_{p}": "{_LINE}", "key": "{key}"}}\n'
            for p in range(1, pages + 1)
        ).encode()

    @cache
    def stderr(key: str) -> bytes:
        return "".join(
            f"{key} error {n} {_LINE}\n" for n in range(10, pages * LINES_A_PAGE + 1, 10)
        ).encode()

    def outputs(key: str) -> Json:
        return {"page": pages, "key": key, **{f"at_{p}": _LINE for p in range(1, pages + 1)}}

    return Step(script, stdout, stderr, more={"outputs": "json_lines"}, outputs=outputs)


# Words.


class LongTextWork:
    """Builds work with long texts: a stored job, its parameters, the input and output of its commands, files."""

    def __init__(self, folder: Path, name_of: Callable[[str], str]) -> None:
        self._place = folder / long_texts.file_name(size_bytes=100)
        self._place.mkdir()
        self._place.chmod(0o1777)
        self._name_of = name_of

    def work(self, seconds: float, code: int) -> Work:
        """Return three steps:

        the second prints an output of the first; the third ends with this exit code.
        """
        parameters = {"word": _WORD, "long": _LONG, "file": _FILE, "kind": _KIND}
        declared: list[Json] = [
            {
                "name": name,
                "label": long_texts.name(name),
                "description": long_texts.text(long_texts.REASON_CHARACTERS),
            }
            for name in parameters
        ]
        declared[-1] |= {"type": "choice", "choices": [long_texts.name("other"), _KIND]}
        job: Json = {
            "description": long_texts.text(long_texts.DESCRIPTION_CHARACTERS),
            "tags": [
                long_texts.name(f"{n}", characters=long_texts.TAG_CHARACTERS) for n in range(64)
            ],
            "parameters": declared,
            "targets": {"groups": groups()},
        }
        return Work(
            "words",
            [self._says(seconds), self._says_again(), self._writes(code)],
            job=job,
            parameters=parameters,
        )

    def _says(self, seconds: float) -> Step:
        script = f"""printf '%s\\n' ${{target.name}} ${{target.labels.site}} ${{job.name}} ${{word}} ${{kind}} "$WORDS"
printf '%s\\n' "$OPSJOBS_TARGET" "$OPSJOBS_JOB" "$OPSJOBS_PARAM_LONG"; cat; sleep {seconds}; printf '%s' ${{word}} >&2
printf '{{"value": %s, "key": "%s"}}\\n' '{json.dumps(_VALUE, ensure_ascii=False)}' "$k\""""

        def stdout(key: str) -> bytes:
            target, job = self._name_of(_host(key)), long_texts.name(_mark(key))
            said = [target, SITE, job, _WORD, _KIND, _WORD, target, job, _LONG, _STDIN]
            return "\n".join(
                [*said, f'{{"value": {json.dumps(_VALUE, ensure_ascii=False)}, "key": "{key}"}}\n']
            ).encode()

        return Step(
            script,
            stdout,
            lambda _: _WORD.encode(),
            more={"outputs": "json_lines", "env": {"WORDS": _WORD}, "stdin": f"{_STDIN}\n"},
            outputs=lambda key: {"value": _VALUE, "key": key},
        )

    def _says_again(self) -> Step:
        return Step(
            "printf '%s\\n' ${actions.step-1.outputs.value} ${actions.step-1.outputs.key}",
            lambda key: f"{_VALUE}\n{_first(key)}\n".encode(),
            more={"outputs": "last_line", "depends_on": ["step-1"]},
            outputs=lambda key: {"last": _first(key)},
        )

    def _writes(self, code: int) -> Step:
        script = f"""f="$k "${{file}}; printf '%s' ${{actions.step-2.outputs.last}}${{word}} >"$f" && cat -- "$f" && rm -- "$f" || exit 99
printf '%s\\n' "${{PWD##*/}}" >&2; exit {code}"""
        return Step(
            script,
            lambda key: f"{_first(key)}{_WORD}".encode(),
            lambda _: f"{self._place.name}\n".encode(),
            code,
            more={"cwd": str(self._place), "depends_on": ["step-2"]},
        )
