"""Actions as a caller writes them: the six types and their common fields."""

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel, Duration, Size
from opsjobs.model.approvers import Approvers
from opsjobs.model.draft_error import fault
from opsjobs.model.retry import RetryPolicy
from opsjobs.model.spool_identity import Durability
from opsjobs.model.target import Name, SelectionDraft

KEY = text_patterns.ACTION_KEY
SCRIPT_BYTES_MAX = 256 << 10


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_reference(value: object) -> object:
    """Return a UUID in its one canonical spelling, so that it can be looked up as text."""
    text = _as_text(value)
    return text.lower() if isinstance(text, str) and text_patterns.UUID.fullmatch(text) else text


Path = Annotated[str, Field(min_length=1, max_length=4_096, pattern=text_patterns.LINE)]
Argument = Annotated[str, BeforeValidator(_as_text), Field(max_length=32_768)]
VariableName = Annotated[str, Field(pattern=text_patterns.VARIABLE_NAME)]


class BecomeDraft(ApiModel):
    """Privilege escalation: run the command as `user` through sudo, su or doas.

    `credential` names the credential whose password is entered. doas reads passwords only from a
    terminal, and commands have none."""

    user: str = Field(default="root", pattern=text_patterns.ACCOUNT)
    method: Literal["sudo", "su", "doas"] = "sudo"
    credential: Name | None = None

    @model_validator(mode="after")
    def _doas_takes_no_password(self) -> BecomeDraft:
        if self.method == "doas" and self.credential is not None:
            raise ValueError(
                "doas asks for its password on a terminal, which no command has: permit it with "
                "nopass, or take sudo"
            )
        return self


class ActionDraft(ApiModel):
    """The fields of every action.

    `depends_on`: keys of actions that come before it (None: the one before it in the list; empty:
    none, it starts at once). `when`: a condition for running it at all. `on_failure`: what follows
    its failure (model/workflow); `rollback` names the action that undoes it, which runs only then.
    `scope: barrier`: it starts once all targets of the wave have reached it. `targets` narrows it
    to some of the execution's targets. `timeout`: its limit in seconds (None: the service's
    COMMAND_TIMEOUT). `retry`: None uses the policy's."""

    key: str | None = Field(default=None, pattern=KEY)
    depends_on: list[Annotated[str, Field(pattern=KEY)]] | None = Field(
        default=None, max_length=1_000
    )
    when: str | None = Field(default=None, min_length=1, max_length=4_096)
    on_failure: Literal["stop", "continue", "skip_remaining", "rollback"] = "stop"
    rollback: str | None = Field(default=None, pattern=KEY)
    scope: Literal["target", "barrier"] = "target"
    targets: SelectionDraft | None = None
    timeout: Duration | None = None
    retry: RetryPolicy | None = None


class RunningAction(ActionDraft):
    """The fields of actions that start a program on the target.

    `output_limit`: bytes of each stream that are kept (None: OPSJOBS_OUTPUT_LIMIT_BYTES).
    `durable`: if the program survives its worker; the settings of the policy and the target count,
    too. `become`: the user it runs as (None: the login user). `env`: its environment variables;
    names starting with OPSJOBS_ are reserved. `stdin`: the text of its standard input. `outputs`:
    the values that later actions read from its stdout: json_lines (each line that is a JSON object,
    merged in order) or last_line (`last`, the last line that is not empty)."""

    durable: Durability = "auto"
    become: BecomeDraft | None = None
    output_limit: Size | None = None
    expected_exit_codes: list[Annotated[int, Field(ge=0, le=255)]] = Field(
        default=[0], min_length=1, max_length=256
    )
    env: dict[VariableName, Argument] = Field(default_factory=dict, max_length=128)
    cwd: Path | None = None
    stdin: str | None = Field(default=None, max_length=SCRIPT_BYTES_MAX)
    outputs: Literal["none", "json_lines", "last_line"] = "none"

    @model_validator(mode="after")
    def _our_names_are_ours(self) -> RunningAction:
        if ours := [name for name in self.env if name.upper().startswith("OPSJOBS_")]:
            raise fault(
                "reserved_name",
                f"{ours[0]} is a name of the service's own: take one without OPSJOBS_",
                "env",
                ours[0],
            )
        return self


class CommandAction(RunningAction):
    """Run one command line in the target's login shell."""

    type: Literal["command"] = "command"
    command: str = Field(min_length=1, max_length=65_536)


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
                f"the script has {len(body)} bytes, the limit is {SCRIPT_BYTES_MAX}: upload it as "
                "a file, and run that"
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


class FileTransferAction(ActionDraft):
    """Upload a file to the target, or download files from it.

    `source`: the id of an uploaded file, or a path or glob on the target. `mode`, `owner` and
    `group` are those of an uploaded file. `unpack`: the file is a tar archive, which is extracted
    into the directory `destination`."""

    type: Literal["file_transfer"] = "file_transfer"
    direction: Literal["upload", "download"]
    source: Annotated[Path, BeforeValidator(_as_text)]
    destination: Path | None = None
    mode: str | None = Field(default=None, pattern=text_patterns.FILE_MODE)
    owner: str | None = Field(default=None, pattern=text_patterns.ACCOUNT)
    group: str | None = Field(default=None, pattern=text_patterns.ACCOUNT)
    unpack: bool = False

    @model_validator(mode="before")
    @classmethod
    def _an_upload_names_a_file(cls, said: Any) -> Any:
        if isinstance(said, Mapping) and said.get("direction") == "upload" and "source" in said:
            return {**said, "source": _as_reference(said["source"])}
        return said

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


class WaitAction(ActionDraft):
    """Wait for `duration`, without holding a connection or a slot for parallel runs."""

    type: Literal["wait"] = "wait"
    duration: Duration


class ApprovalAction(Approvers, ActionDraft):
    """Wait for an approval: one for the execution, not one per target.

    The runs are cancelled if it expires."""

    type: Literal["approval"] = "approval"
    message: str = Field(default="", max_length=2_000)
    expires_in: Duration = 86_400.0


class JobAction(ActionDraft):
    """Run another job to its end: on the same target, unless `targets` selects others."""

    type: Literal["job"] = "job"
    job: Annotated[str, BeforeValidator(_as_reference), Field(min_length=1, max_length=200)]
    parameters: dict[str, Any] = Field(default_factory=dict, max_length=100)


KINDS = ("command", "script", "file_transfer", "wait", "approval", "job")


def line_of(action: Mapping[str, Any]) -> str | None:
    """Return the command line of an action for people; None if it starts no program.

    Of a script it is the interpreter and the arguments."""
    if action.get("interpreter") is not None:
        return shlex.join([action["interpreter"], *(action.get("args") or ())])
    command: str | None = action.get("command")
    return command


def _kind(body: Any) -> str | None:
    kind = (
        body.get("type", "command") if isinstance(body, dict) else getattr(body, "type", "command")
    )
    return kind if kind in KINDS else None


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
