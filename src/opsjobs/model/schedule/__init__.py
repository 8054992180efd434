"""Schedules: what a caller writes, and when that is due."""

from opsjobs.model.instants import HORIZON
from opsjobs.model.schedule.draft import Misfire, Overlap, ScheduleDraft, ScheduleType, refuse_past
from opsjobs.model.schedule.moments import Instant
from opsjobs.model.schedule.timetable import Timetable, timetable
from opsjobs.model.schedule.wall import DstFold, DstGap
from opsjobs.model.zones import ZoneName, tzdata_version, zone

__all__ = [
    "HORIZON",
    "DstFold",
    "DstGap",
    "Instant",
    "Misfire",
    "Overlap",
    "ScheduleDraft",
    "ScheduleType",
    "Timetable",
    "ZoneName",
    "refuse_past",
    "timetable",
    "tzdata_version",
    "zone",
]
