"""Settings of the safety check: on or off, and the policy file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opsjobs.settings.parsers import folder, setting, yes_no


@dataclass(frozen=True, slots=True)
class SafetySettings:
    """The guard rail in front of every launch."""

    enabled: bool = setting(
        "ENABLE_SAFETY_CHECKS",
        yes_no,
        "on",
        "Whether programs are judged when jobs are stored and launched. Production refuses off.",
        ours=False,
    )
    policy: Path | None = setting(  # noqa: RUF009  dataclasses.field, by another name
        "SAFETY_POLICY",
        folder,
        None,
        "A YAML file with what is stricter for some labels, many targets or become (docs/concepts/safety-check.md).",
    )
