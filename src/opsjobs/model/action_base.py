"""The common parts of all actions: their fields, and the methods that each stage calls.

The types themselves are in `model.action`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from opsjobs.model import text_patterns
from opsjobs.model.api_model import ApiModel, Duration, Size
from opsjobs.model.naming import Name
from opsjobs.model.program import Durability, Program
from opsjobs.model.retry import RetryPolicy
from opsjobs.model.selection import SelectionDraft
from opsjobs.model.validation_errors import fault

KEY = text_patterns.ACTION_KEY
SCRIPT_BYTES_MAX = 256 << 10


def as_text(value: object) -> object:
    """Return a number as text, and any other value as it is."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Path = Annotated[str, Field(min_length=1, max_length=4_096, pattern=text_patterns.LINE)]
Argument = Annotated[str, BeforeValidator(as_text), Field(max_length=32_768)]
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


class TemplateKind(Enum):
    """The way in which the values of a template are filled in."""

    TEXT = auto()
    """Values as they are."""
    COMMAND = auto()
    """Each value as one word, quoted for the target's shell."""
    VALUE = auto()
    """The value with its type, if the text is only one name."""


@dataclass(frozen=True, slots=True)
class FieldTemplate:
    """A text of an action in which `${name}` is replaced."""

    path: tuple[str | int, ...]
    """The field, and the key or index in it if it is a mapping or a list."""
    text: str
    kind: TemplateKind = TemplateKind.TEXT


@dataclass(frozen=True, slots=True)
class ProgramSource:
    """A program that an action starts, as the safety check reads it."""

    field: str
    """The field that holds the program."""
    text: str | bytes
    interpreter: str | None
    """The program that reads it; None: the target's login shell."""
    args: Sequence[str]
    env: Mapping[str, str]
    stdin: str | None
    become: bool


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that an action writes on the target, as the safety check reads it."""

    destination: str
    mode: str | None


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

    def templates(self) -> list[FieldTemplate]:
        """Return the texts that are rendered for each target."""
        return []

    def summary(self) -> str:
        """Return the rendered action in words, as a preview shows it."""
        raise NotImplementedError

    def safety_input(self) -> ProgramSource | WrittenFile | None:
        """Return the input of the safety check; None if the action does nothing on a target."""
        return None


def signed_exit_code(code: int) -> int:
    """Return an exit code as signed 32 bits, as it is stored: 0xC000013A as -1073741510."""
    return (code + (1 << 31)) % (1 << 32) - (1 << 31)


ExitCode = Annotated[int, Field(ge=-(1 << 31), le=(1 << 32) - 1), AfterValidator(signed_exit_code)]
"""An exit code: at most 255 on POSIX machines, any number of 32 bits on Windows."""


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
    expected_exit_codes: list[ExitCode] = Field(default=[0], min_length=1, max_length=256)
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

    def templates(self) -> list[FieldTemplate]:
        """Return the variables and the working directory."""
        found = [FieldTemplate(("env", name), value) for name, value in self.env.items()]
        return found if self.cwd is None else [*found, FieldTemplate(("cwd",), self.cwd)]

    @property
    def line(self) -> str:
        """The command line for display; of a script, its interpreter and arguments."""
        raise NotImplementedError

    def program(self, **inputs: Any) -> Program:
        """Return the program to start, with these inputs (fields of Program).

        Raises ValueError if no host accepts it.
        """
        raise NotImplementedError


class FrozenAction(ActionDraft):
    """An action of an execution, as fixed by the launch, for workers to perform.

    It is read from the stored JSON. Types set `extra="ignore"`: fields of a later release are
    ignored.
    """

    key: str
    target_ids: frozenset[str] | None = None
    """The ids of the targets that it is for; None: all of the execution's."""


class FrozenBecome(BecomeDraft, extra="ignore"):
    """The user that an action becomes, with the credential that the launch found."""

    credential_id: str | None = None


class FrozenRunningAction(FrozenAction, RunningAction):
    """An action of an execution that starts a program on the target."""

    become: FrozenBecome | None = None


CHECK_KEY = "gate-check"
"""The key of the check after a wave, in the plan of an execution."""
