"""Draw one trace of a run: a whole `up` with a lab, and a collector on loopback.

    PYTHONPATH=tests:. .venv/bin/python -m bench.trace

It needs the extra `otel`, which the development environment has.
"""

from __future__ import annotations

import json
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from kit.opsjobs_processes import UpProcess, opsjobs_up
from kit.span_collector import SeenSpan, otlp_collector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
WIDTH = 40
SHOWN = ("target_run", "action", "attempt", "durable", "exit_code", "status", "result", "type")


def draw(spans: Sequence[SeenSpan]) -> str:
    """Return the spans of one trace as a tree with a bar for each, to scale."""
    first, last = min(span.began for span in spans), max(span.ended for span in spans)
    known = {span.span_id for span in spans}
    lines: list[str] = []

    def add(parent: str | None, depth: int) -> None:
        for span in spans:
            if (span.parent_id if span.parent_id in known else None) == parent:
                lines.append(_line(span, depth, first, last))
                add(span.span_id, depth + 1)

    add(None, 0)
    return "\n".join([f"trace {spans[0].trace_id}, {(last - first) / 1e6:.1f} ms", *lines])


def _line(span: SeenSpan, depth: int, first: int, last: int) -> str:
    scale = WIDTH / max(last - first, 1)
    at = min(int((span.began - first) * scale), WIDTH - 1)
    long = max(1, min(round((span.ended - span.began) * scale), WIDTH - at))
    bar = f"{' ' * at}{'=' * long}".ljust(WIDTH)
    notes = " ".join(
        f"{name}={span.attributes[f'opsjobs.{name}']}"
        for name in SHOWN
        if f"opsjobs.{name}" in span.attributes
    )
    name = f"{'  ' * depth}{span.name}"
    service = span.service.removeprefix("opsjobs-")
    return (
        f"{name:<30}{service:<10}{(span.began - first) / 1e6:>8.1f}"
        f"{(span.ended - span.began) / 1e6:>8.1f}  |{bar}| {notes}"
    ).rstrip()


def main() -> int:
    """Run one command on one machine of a lab and print its trace."""
    with tempfile.TemporaryDirectory() as folder, otlp_collector() as collector:
        Path(folder).chmod(0o755)
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        }
        with opsjobs_up(Path(folder) / "data", "--lab", "1", settings=settings) as service:
            assert service.run("run", "true", "-l", "lab=true").returncode == 0  # warm up
            _launch(service)
            spans = collector.wait(lambda found: any(span.name == "commit" for span in found))
        print("name                          process     at ms      ms")
        print(draw([span for span in spans if span.trace_id == TRACE]))
    return 0


def _launch(service: UpProcess) -> None:
    body = {
        "actions": [{"type": "command", "command": "uptime"}],
        "targets": {"selector": "lab=true"},
    }
    request = urllib.request.Request(
        f"{(service.data / 'endpoint').read_text().strip()}/run",
        json.dumps(body).encode(),
        {
            "Authorization": f"Bearer {(service.data / 'admin-token').read_text().strip()}",
            "Content-Type": "application/json",
            "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
        },
    )
    urllib.request.urlopen(request, timeout=60).close()


if __name__ == "__main__":
    sys.exit(main())
