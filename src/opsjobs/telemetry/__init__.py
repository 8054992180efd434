"""Telemetry of a process: logs and metrics."""

from opsjobs.telemetry.logs import bound, configure, hide, log
from opsjobs.telemetry.metrics import Metrics

__all__ = ["Metrics", "bound", "configure", "hide", "log"]
