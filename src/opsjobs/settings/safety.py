"""Settings of the safety check: on or off, and the policy file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from opsjobs.settings.types import ABSOLUTE_PATH, SWITCH
from opsjobs.settings.variables import SettingsGroup, setting


class SafetySettings(SettingsGroup):
    """The safety check that precedes every launch."""

    enabled: Annotated[bool, SWITCH] = setting(
        "ENABLE_SAFETY_CHECKS",
        "on",
        "Whether commands and scripts are checked when jobs are saved and launched. Production "
        "refuses off.",
    )
    policy: Annotated[Path | None, ABSOLUTE_PATH] = setting(
        "OPSJOBS_SAFETY_POLICY",
        None,
        "YAML file with stricter rules for some labels, for many targets or for become.",
    )
