"""Schedules: drafts from callers, and their due times."""

from opsjobs.model.api_model import HORIZON
from opsjobs.model.schedule.draft import Misfire, Overlap, ScheduleDraft, ScheduleType, refuse_past
from opsjobs.model.schedule.times import Instant
from opsjobs.model.schedule.timetable import Timetable, timetable
from opsjobs.model.schedule.wall_clock import DstFold, DstGap
from opsjobs.model.time_zones import ZoneName, tzdata_version, zone

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
