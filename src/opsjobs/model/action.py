"""The types of actions: one class for a caller's draft, one for the form a launch fixed.

To add a type, add its two classes and its lines in the two tables at the end.
"""

from __future__ import annotations

import base64
import binascii
import json
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.access import Approvers
from opsjobs.model.action_base import (
    SCRIPT_BYTES_MAX,
    ActionDraft,
    Argument,
    FieldTemplate,
    FrozenAction,
    FrozenRunningAction,
    Path,
    ProgramSource,
    RunningAction,
    TemplateKind,
    WrittenFile,
    as_text,
)
from opsjobs.model.api_model import Duration
from opsjobs.model.program import Program
from opsjobs.model.secret import is_secret
from opsjobs.model.units import describe_size, format_duration
from opsjobs.model.validation_errors import fault


def _as_reference(value: object) -> object:
    """Return a UUID in its one canonical spelling, so that it can be looked up as text."""
    text = as_text(value)
    return text.lower() if isinstance(text, str) and text_patterns.UUID.fullmatch(text) else text


class CommandAction(RunningAction):
    """Run one command line in the target's login shell."""

    type: Literal["command"] = "command"
    command: str = Field(min_length=1, max_length=65_536)

    def templates(self) -> list[FieldTemplate]:
        """Return the inputs' templates, and the command line, which is quoted."""
        command = FieldTemplate(("command",), self.command, TemplateKind.COMMAND)
        return [*super().templates(), command]

    def summary(self) -> str:
        """Return the command line."""
        return self.command

    def safety_input(self) -> ProgramSource:
        """Return the command line, which the login shell reads."""
        return ProgramSource(
            "command", self.command, None, (), self.env, self.stdin, self.become is not None
        )

    @property
    def line(self) -> str:
        """The command line itself."""
        return self.command

    def program(self, **inputs: Any) -> Program:
        """Return the command line as a program to start."""
        return Program(command=self.command, **inputs)


class FrozenCommand(FrozenRunningAction, CommandAction, extra="ignore"):
    """A command line of an execution."""


class ScriptAction(RunningAction):
    """Run a script, byte for byte as written.

    `script` is text, `script_base64` bytes that need not be UTF-8. `interpreter`: a known name, or
    the path of one on the target. The script is never changed: it reads `args` and OPSJOBS_*."""

    type: Literal["script"] = "script"
    interpreter: str = Field(default="bash", pattern=text_patterns.INTERPRETER)
    script: str | None = Field(default=None, max_length=SCRIPT_BYTES_MAX)
    script_base64: str | None = Field(default=None, max_length=SCRIPT_BYTES_MAX * 4 // 3 + 4)
    args: list[Argument] = Field(default_factory=list, max_length=1_000)

    @model_validator(mode="after")
    def _one_script(self) -> ScriptAction:
        if (self.script is None) == (self.script_base64 is None):
            raise ValueError("a script is written in script or in script_base64: in one of them")
        if not (body := self.body):
            raise fault(
                "empty_script",
                "the script is empty",
                "script" if self.script is not None else "script_base64",
            )
        if len(body) > SCRIPT_BYTES_MAX:
            words = (
                f"the script has {len(body)} bytes, the limit is "
                f"{describe_size(SCRIPT_BYTES_MAX)}: upload it as a file, and run that"
            )
            raise fault(
                "script_too_long", words, "script" if self.script is not None else "script_base64"
            )
        return self

    @property
    def body(self) -> bytes:
        """The bytes of the script. Raises a fault if the base64 is invalid."""
        if self.script is not None:
            return self.script.encode()
        try:
            return base64.b64decode(self.script_base64 or "", validate=True)
        except (binascii.Error, ValueError):
            raise fault("not_base64", "this is not base64", "script_base64") from None

    def templates(self) -> list[FieldTemplate]:
        """Return the inputs' templates, and the arguments; a script is never changed."""
        args = [FieldTemplate(("args", at), argument) for at, argument in enumerate(self.args)]
        return [*super().templates(), *args]

    def summary(self) -> str:
        """Return the command line that starts the script, with its size in place of its text."""
        script = f"<a script of {len(self.body)} bytes>"
        return " ".join([self.interpreter, script, *map(shlex.quote, self.args)])

    def safety_input(self) -> ProgramSource:
        """Return the script, which its interpreter reads."""
        is_text = self.script is not None
        return ProgramSource(
            "script" if is_text else "script_base64",
            self.script if self.script is not None else self.body,
            self.interpreter,
            self.args,
            self.env,
            self.stdin,
            self.become is not None,
        )

    @property
    def line(self) -> str:
        """The interpreter and the arguments."""
        return script_line(self.interpreter, self.args)

    def program(self, **inputs: Any) -> Program:
        """Return the script as a program to start."""
        return Program(
            script=self.body, interpreter=self.interpreter, args=tuple(self.args), **inputs
        )


class FrozenScript(FrozenRunningAction, ScriptAction, extra="ignore"):
    """A script of an execution."""


class FileTransferAction(ActionDraft):
    """Upload a file to the target, or download files from it.

    `source`: the id of an uploaded file, or a path or glob on the target. `mode`, `owner` and
    `group` are those of an uploaded file. `unpack`: the file is a tar archive, which is extracted
    into the directory `destination`."""

    type: Literal["file_transfer"] = "file_transfer"
    direction: Literal["upload", "download"]
    source: Annotated[Path, BeforeValidator(as_text)]
    destination: Path | None = None
    mode: str | None = Field(default=None, pattern=text_patterns.FILE_MODE)
    owner: str | None = Field(default=None, pattern=text_patterns.ACCOUNT)
    group: str | None = Field(default=None, pattern=text_patterns.ACCOUNT)
    unpack: bool = False

    @model_validator(mode="before")
    @classmethod
    def _an_upload_names_a_file(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("direction") == "upload" and "source" in value:
            return {**value, "source": _as_reference(value["source"])}
        return value

    @model_validator(mode="after")
    def _an_upload_has_a_place(self) -> FileTransferAction:
        if self.direction == "upload" and self.destination is None:
            raise fault(
                "missing", "an upload needs a destination: the path on the target", "destination"
            )
        return self

    @model_validator(mode="after")
    def _a_download_has_none(self) -> FileTransferAction:
        given = [
            name
            for name in ("destination", "mode", "owner", "group", "unpack")
            if getattr(self, name)
        ]
        if self.direction == "download" and given:
            words = f"a download has no {given[0]}: what it brings are the execution's artifacts"
            raise fault("not_of_a_download", words, given[0])
        return self

    def templates(self) -> list[FieldTemplate]:
        """Return the source, and the destination of an upload."""
        found = [FieldTemplate(("source",), self.source)]
        if self.destination is not None:
            found.append(FieldTemplate(("destination",), self.destination))
        return found

    def summary(self) -> str:
        """Return the source and the destination in words."""
        return f"{self.direction} {self.source} to {self.destination or 'the artifacts'}"

    def safety_input(self) -> WrittenFile | None:
        """Return the file that an upload writes; a download writes none."""
        if self.direction == "download" or self.destination is None:
            return None
        return WrittenFile(self.destination, self.mode)


class FrozenTransfer(FrozenAction, FileTransferAction, extra="ignore"):
    """A file transfer of an execution; the source of an upload is the id of its file."""


class WaitAction(ActionDraft):
    """Wait for `duration`, without holding a connection or a slot for parallel runs."""

    type: Literal["wait"] = "wait"
    duration: Duration

    def summary(self) -> str:
        """Return the duration of the wait in words."""
        return f"wait {format_duration(self.duration)}"


class FrozenWait(FrozenAction, WaitAction, extra="ignore"):
    """A wait of an execution."""


class ApprovalAction(Approvers, ActionDraft):
    """Wait for an approval: one for the execution, not one per target.

    The runs are cancelled if it expires."""

    type: Literal["approval"] = "approval"
    message: str = Field(default="", max_length=2_000)
    expires_in: Duration = 86_400.0

    def summary(self) -> str:
        """Return the requested approval in words."""
        return f"wait for an approval: {self.message}"


class FrozenApproval(FrozenAction, ApprovalAction, extra="ignore"):
    """An approval that an execution waits for."""


class JobAction(ActionDraft):
    """Run another job to its end: on the same target, unless `targets` selects others."""

    type: Literal["job"] = "job"
    job: Annotated[str, BeforeValidator(_as_reference), Field(min_length=1, max_length=200)]
    parameters: dict[str, Any] = Field(default_factory=dict, max_length=100)

    def templates(self) -> list[FieldTemplate]:
        """Return the parameters that are text; one name alone keeps its type."""
        return [
            FieldTemplate(("parameters", name), value, TemplateKind.VALUE)
            for name, value in self.parameters.items()
            if isinstance(value, str)
        ]

    def summary(self) -> str:
        """Return the job and its parameters, without their secrets."""
        given = {n: "***" if is_secret(value) else value for n, value in self.parameters.items()}
        return f"run the job {self.job} with {json.dumps(given)}"


class FrozenJob(FrozenAction, JobAction, extra="ignore"):
    """A job that an execution runs."""

    pins: Mapping[str, str] | None = None
    """Fingerprints of its own targets as they were approved, in hexadecimal by target id."""


DRAFT_TYPES: Mapping[str, type[ActionDraft]] = {
    "command": CommandAction,
    "script": ScriptAction,
    "file_transfer": FileTransferAction,
    "wait": WaitAction,
    "approval": ApprovalAction,
    "job": JobAction,
}
FROZEN_TYPES: Mapping[str, type[FrozenAction]] = {
    "command": FrozenCommand,
    "script": FrozenScript,
    "file_transfer": FrozenTransfer,
    "wait": FrozenWait,
    "approval": FrozenApproval,
    "job": FrozenJob,
}
KINDS = tuple(DRAFT_TYPES)


def parse_frozen(stored: Mapping[str, Any]) -> FrozenAction:
    """Return an action of an execution from its stored JSON.

    Raises ValueError if this release does not know its type or cannot read it.
    """
    kind = stored.get("type", "command")
    if (found := FROZEN_TYPES.get(kind)) is None:
        raise ValueError(f"this release has no action type {kind!r}")
    return found.model_validate(stored, context={"stored": True})


def script_line(interpreter: str, args: Sequence[str]) -> str:
    """Return the command line that starts a script, for display."""
    return shlex.join([interpreter, *args])


def _kind(body: Any) -> str | None:
    kind = (
        body.get("type", "command") if isinstance(body, dict) else getattr(body, "type", "command")
    )
    return kind if kind in KINDS else None


class JobType(StrEnum):
    """The main purpose of a job; the default follows from its actions."""

    COMMAND = "command"
    SCRIPT = "script"
    FILE_TRANSFER = "file_transfer"
    COMPOSITE = "composite"

    @classmethod
    def of_actions(cls, types: Sequence[str]) -> JobType:
        """Return the type that follows from the types of the actions."""
        only = types[0] if len(types) == 1 else ""
        return cls(only) if only in set(cls) else cls.COMPOSITE


Action = Annotated[
    Annotated[CommandAction, Tag("command")]
    | Annotated[ScriptAction, Tag("script")]
    | Annotated[FileTransferAction, Tag("file_transfer")]
    | Annotated[WaitAction, Tag("wait")]
    | Annotated[ApprovalAction, Tag("approval")]
    | Annotated[JobAction, Tag("job")],
    Discriminator(
        _kind,
        custom_error_type="unknown_action_type",
        custom_error_message=f"an action's type is one of {', '.join(KINDS)}",
    ),
]
"""Any action, discriminated by `type`; without a type it is a command."""

CheckAction = Annotated[
    Annotated[CommandAction, Tag("command")] | Annotated[ScriptAction, Tag("script")],
    Discriminator(
        lambda body: kind if (kind := _kind(body)) in ("command", "script") else None,
        custom_error_type="unknown_action_type",
        custom_error_message="a check is a command or a script",
    ),
]
"""A check after a wave: a command or a script."""
