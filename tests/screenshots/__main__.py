"""`make screenshots`: the pages of the console in both themes, as pictures in docs/images/console.

A lab of machines with a made-up past, whose executions are really run, is opened in Chromium with the fonts DejaVu and a clock
that stands still. --compare: write nothing; tell which pictures differ from those that are there, and end with 1 if any does.
--only NAME: pages whose name contains this.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx2
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from architecture.tree import ROOT
from console.browser import Visitor, find_chromium, log_in
from console.conftest import Stack
from kit.backing_servers import memory, open_folder
from kit.opsjobs_processes import opsjobs_up
from screenshots import history
from screenshots.history import MACHINES, History, make

FOLDER = ROOT / "docs" / "images" / "console"
FONTS = Path("/usr/share/fonts/truetype/dejavu")
THEMES = ("light", "dark")
SIZE = (1280, 800)
QUALITIES = (85, 70, 50, 30)
BYTES_MAX = 80_000
WAIT_MS = 60_000
DIFFERENT_MAX = 0.04
"""The share of pixels that may differ: ids, times and durations vary in each run."""

Prepare = Callable[[Page], None]


@dataclass(frozen=True)
class Picture:
    """One page: the name of its picture, its URL, and the steps before the picture is taken."""

    name: str
    path: Callable[[History], str]
    prepare: Prepare | None = None


def _find(page: Page) -> None:
    page.get_by_label("Find in the output").fill("checksum")
    page.keyboard.press("Enter")
    page.get_by_text("Found on", exact=False).wait_for()


def _judge(page: Page) -> None:
    page.get_by_label("What would run").fill(
        "cd /var/cache && rm -rf $CACHE/*\nsystemctl restart nginx\n"
    )
    page.get_by_text("block", exact=False).first.wait_for()


PICTURES: Sequence[Picture] = (
    Picture("now", lambda _: "/"),
    Picture("executions", lambda _: "/executions"),
    Picture("groups", lambda past: f"/executions/{past.ended}?tab=groups"),
    Picture("targets-live", lambda past: f"/executions/{past.running}?tab=targets"),
    Picture("output", lambda past: f"/executions/{past.index}?tab=output&on=stage-1"),
    Picture("find", lambda past: f"/executions/{past.index}?tab=output", _find),
    Picture("timeline", lambda past: f"/executions/{past.ended}?tab=timeline"),
    Picture(
        "launch",
        lambda _: (
            "/launch?command=systemctl+restart+nginx&l=site%3Dberlin%2Crole%3Dweb&x=web-6&why=ticket+4721"
        ),
    ),
    Picture("job", lambda past: f"/jobs/{past.jobs['rotate-certificates']}"),
    Picture("schedule", lambda past: f"/schedules/{past.schedules['backup-database']}"),
    Picture("tonight", lambda _: "/tonight"),
    Picture("approval", lambda past: f"/approvals/{past.approval}"),
    Picture("machines", lambda _: "/targets?q=label%3Asite%3Dberlin"),
    Picture("safety", lambda _: "/safety", _judge),
)


@contextmanager
def browser(fonts: Path) -> Iterator[Browser]:
    """Start Chromium with no fonts but DejaVu."""
    program = find_chromium()
    if program is None:
        raise SystemExit("screenshots: Chromium is missing. Type: apt-get install chromium")
    if not FONTS.is_dir():
        raise SystemExit("screenshots: DejaVu is missing. Type: apt-get install fonts-dejavu-core")
    # Text is in Sans, whatever family is requested, and code in Sans Mono.
    mono = (
        '<match><test name="family" compare="contains"><string>mono</string></test>'
        '<edit name="family" mode="assign"><string>DejaVu Sans Mono</string></edit></match>'
    )
    serif = (
        '<selectfont><rejectfont><pattern><patelt name="family"><string>DejaVu Serif</string>'
        "</patelt></pattern></rejectfont></selectfont>"
    )
    sans = (
        '<match><edit name="family" mode="append_last"><string>DejaVu Sans</string></edit></match>'
    )
    fonts.write_text(
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
        f"<dir>{FONTS}</dir><cachedir>{fonts.parent}</cachedir>{serif}{mono}{sans}</fontconfig>"
    )
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--font-render-hinting=none"],
            env={**os.environ, "FONTCONFIG_FILE": str(fonts)},
        )
        yield found
        found.close()


def take(
    chromium: Browser, past: History, pictures: Sequence[Picture], at: datetime
) -> Iterator[tuple[str, bytes]]:
    """Take all pictures; yield each with the name of its file."""
    for theme in THEMES:
        context = chromium.new_context(
            viewport={"width": SIZE[0], "height": SIZE[1]},
            color_scheme=theme,  # type: ignore[arg-type]  # light or dark
            reduced_motion="reduce",
            timezone_id="Europe/Berlin",
            locale="en-GB",
        )
        log_in(context, past.stack.url, past.stack.token)
        # On a busy machine a page may have to repeat a request.
        visitor = Visitor(context.new_page(), past.stack.url, refusals={503})
        visitor.watch()
        visitor.page.set_default_timeout(WAIT_MS)
        visitor.page.clock.set_fixed_time(at)
        session = context.new_cdp_session(visitor.page)
        for picture in pictures:
            page = visitor.go(picture.path(past))
            if picture.prepare is not None:
                picture.prepare(page)
            page.get_by_role("alert").first.wait_for(state="detached")
            page.mouse.move(0, 0)
            page.wait_for_timeout(500)
            yield f"{picture.name}-{theme}.webp", capture(session)
        if visitor.wrong:
            raise SystemExit(f"screenshots: {visitor.wrong}")
        context.close()


def capture(session: CDPSession) -> bytes:
    """Return a picture of the page, of the best quality that is small enough."""
    for quality in QUALITIES:
        asked = {"format": "webp", "quality": quality}
        picture = base64.b64decode(session.send("Page.captureScreenshot", asked)["data"])
        if len(picture) <= BYTES_MAX:
            return picture
    raise SystemExit(f"screenshots: {len(picture):,} bytes, more than {BYTES_MAX:,}")


# The share of pixels whose colour differs visibly; 1 if the sizes differ.
DIFFERENT = """async ([one, other]) => {
  const read = async (data) => {
    const image = new Image();
    image.src = `data:image/webp;base64,${data}`;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height);
    const pen = canvas.getContext("2d");
    pen.drawImage(image, 0, 0);
    return pen.getImageData(0, 0, image.width, image.height).data;
  };
  const [left, right] = [await read(one), await read(other)];
  if (left.length !== right.length) return 1;
  let found = 0;
  for (let n = 0; n < left.length; n += 4)
    if ([0, 1, 2].some((by) => Math.abs(left[n + by] - right[n + by]) > 48)) found++;
  return found / (left.length / 4);
}"""


def compare(page: Page, name: str, picture: bytes) -> float:
    """Return the share of pixels that differ from the existing picture; 1 if there is none."""
    file = FOLDER / name
    if not file.exists():
        return 1.0
    both = [base64.b64encode(data).decode() for data in (file.read_bytes(), picture)]
    share: float = page.evaluate(DIFFERENT, both)
    return share


def options() -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--only", default="")
    return parser.parse_args()


def main() -> int:
    """Create the history, take the pictures, and write or compare them."""
    asked = options()
    pictures = [one for one in PICTURES if asked.only in one.name]
    wrong = 0
    with (
        open_folder(memory()) as folder,
        tempfile.TemporaryDirectory() as scratch,
        opsjobs_up(folder / "data", "--lab", str(len(MACHINES))) as service,
        browser(Path(scratch) / "fonts.conf") as chromium,
    ):
        url = (service.data / "endpoint").read_text().strip()
        token = (service.data / "admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        with httpx2.Client(base_url=f"{url}/api/v1", headers=headers, timeout=60) as http:
            past = make(Stack(service, url, token, http))
        blank = chromium.new_page()
        FOLDER.mkdir(parents=True, exist_ok=True)
        for name, picture in take(chromium, past, pictures, history.now(past)):
            if asked.compare:
                share = compare(blank, name, picture)
                wrong += share > DIFFERENT_MAX
                sys.stdout.write(f"{name}: {share:.1%} differ\n")
            else:
                (FOLDER / name).write_bytes(picture)
                sys.stdout.write(f"{name}: {len(picture) / 1_000:.0f} kB\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
