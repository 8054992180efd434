"""Output, groups and differences of an execution, in the browser."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from console.browser import check_accessibility, faults
from console.conftest import Stack, Visit

LINES = 1_000_000
LINES_FEW = 100_000
# A pattern in a million lines, on a loaded machine.
SEARCH_MS = 120_000
NODES_MAX = 600
HEAP_MAX = 80 << 20
# Colours, a link, a title, the clipboard, a cursor move, HTML, a bidi control, an overdrawn line.
HOSTILE = (
    r"printf '\033[31mred\033[0m \033]8;;https://evil.example/\007click\033]8;;\007"
    r"\033]0;title\007\033[2J<img src=x onerror=alert(1)>\342\200\256txt.exe\n10%%\r100%%\n'"
)

# Jumps to any place; the time from one to the second frame after it, below which 95 of 100 stay.
JUMP = """async (jumps) => {
  const box = document.querySelector(".log");
  const frame = () => new Promise(requestAnimationFrame);
  const times = [];
  for (let n = 0; n < jumps; n++) {
    const start = performance.now();
    box.scrollTop = box.scrollHeight * ((n * 0.618) % 1);
    await frame();
    await frame();
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[Math.floor(jumps * 0.95)];
}"""
JUMPS = 60
JUMP_RATIO = 2.0
# The jump target for comparison: equally high, without content.
EMPTY = (
    '<div class="log" style="block-size: 600px; overflow: auto">'
    '<div style="block-size: 8000000px"></div></div>'
)


def launch(stack: Stack, command: str, *targets: str, **more: Any) -> int:
    """Run a command on machines of the lab to its end; return the execution's id."""
    actions = [{"key": "work", "type": "command", "command": command, **more}]
    body = {"actions": actions, "targets": {"ids": list(targets)}}
    made = stack.call("POST", "/run", body)
    stack.http.get(f"/executions/{made['id']}/events?kinds=end", timeout=120)
    found: int = made["id"]
    return found


def write(stack: Stack, lines: int) -> int:
    """Run a command that writes so many lines; return the execution's id.

    Two of the lines have an error.
    """
    command = (
        f"awk 'BEGIN {{ for (i = 1; i <= {lines}; i++) "
        f'if (i == {lines // 2} || i == {lines // 10 * 9}) print "ERROR", i; else print i }}\''
    )
    return launch(stack, command, "lab-1", output_limit="10MiB", timeout="5m")


@pytest.fixture(scope="module")
def long_output_target(stack: Stack) -> int:
    """A target that has written a million lines."""
    return write(stack, LINES)


def line(log: Locator, pattern: str) -> Locator:
    """Return the line of the output with this text."""
    return log.locator(".log-row:not([hidden]) .log-text", has_text=re.compile(pattern))


def nodes(page: Page) -> int:
    """Return the number of elements of the whole page."""
    found: int = page.evaluate("document.querySelectorAll('*').length")
    return found


@pytest.mark.parametrize("lines", [LINES_FEW, pytest.param(LINES, marks=pytest.mark.long)])
def test_many_lines_are_scrolled_found_and_linked(
    visit: Visit, stack: Stack, request: pytest.FixtureRequest, lines: int
) -> None:
    execution = (
        request.getfixturevalue("long_output_target") if lines == LINES else write(stack, lines)
    )
    with visit() as ada:
        page = ada.go(f"/executions/{execution}?tab=output&on=lab-1")
        log = page.get_by_role("region", name="Output of lab-1")
        expect(page.get_by_text(f"{lines:,} lines")).to_be_visible()
        expect(line(log, "^1$")).to_be_visible()
        before = nodes(page)
        for share in (0.5, 0.25, 0.9999, 0.1):
            log.evaluate("(box, share) => { box.scrollTop = box.scrollHeight * share }", share)
            expect(log.locator(".log-row:not([hidden]) .log-text").first).not_to_have_text("…")
        log.evaluate("box => { box.scrollTop = box.scrollHeight }")
        expect(line(log, f"^{lines}$")).to_be_visible()
        assert nodes(page) <= before + 60
        assert nodes(page) < NODES_MAX
        assert page.evaluate("performance.memory.usedJSHeapSize") < HEAP_MAX

        page.keyboard.press("Control+f")
        expect(page.get_by_label("Find in the output")).to_be_focused()
        page.keyboard.type("7777")
        page.keyboard.press("Enter")
        current = log.locator(".log-current .log-text")
        expect(current).to_have_text("7777")
        page.keyboard.press("Escape")
        expect(page.get_by_label("Find in the output")).not_to_be_focused()
        page.keyboard.press("n")
        expect(current).to_have_text("17777")
        page.keyboard.press("N")
        expect(current).to_have_text("7777")
        page.keyboard.press("e")
        expect(current).to_have_text(f"ERROR {lines // 2}", timeout=SEARCH_MS)
        page.keyboard.press("e")
        expect(current).to_have_text(f"ERROR {lines // 10 * 9}", timeout=SEARCH_MS)
        page.keyboard.press("E")
        expect(current).to_have_text(f"ERROR {lines // 2}")

        log.locator(".log-current .log-number").click()
        expect(page).to_have_url(re.compile(rf"#L{lines // 2}$"))
        page.reload()
        expect(log.locator(".log-chosen .log-text")).to_have_text(f"ERROR {lines // 2}")


@pytest.mark.long
def test_a_jump_in_a_million_lines_costs_no_more_than_two_in_an_empty_box(
    visit: Visit, long_output_target: int
) -> None:
    with visit(apart=True) as ada:
        ratios = []
        for _ in range(3):
            ada.page.goto("about:blank")
            ada.page.set_content(EMPTY)
            empty = ada.page.evaluate(JUMP, JUMPS)
            page = ada.go(f"/executions/{long_output_target}?tab=output&on=lab-1")
            expect(page.get_by_text(f"{LINES:,} lines")).to_be_visible()
            ratios.append(page.evaluate(JUMP, JUMPS) / empty)
            if ratios[-1] <= JUMP_RATIO:
                break
        assert min(ratios) <= JUMP_RATIO, ratios


def test_output_reaches_no_further_than_its_line(visit: Visit, stack: Stack) -> None:
    execution = launch(stack, HOSTILE, "lab-2")
    with visit() as ada:
        page = ada.go(f"/executions/{execution}?tab=output&on=lab-2")
        log = page.get_by_role("region", name="Output of lab-2")
        lines = log.locator(".log-row:not([hidden]) .log-text")
        expect(lines).to_have_count(2)
        first, second = lines.first, lines.last
        expect(first).to_have_text("red click<img src=x onerror=alert(1)>U+202Etxt.exe")
        expect(first.locator(".ansi-1")).to_have_text("red")
        expect(second).to_have_text("100%")
        assert log.locator("img, .log-text a").count() == 0
        page.get_by_role("button", name="Colours").click()
        expect(first).to_contain_text("U+001B[31mred")


def test_output_follows_at_its_end_and_stays_elsewhere(visit: Visit, stack: Stack) -> None:
    gate = stack.gate()
    quick = '[ "$OPSJOBS_TARGET" != lab-5 ] || exit 0'
    command = f"{quick}; seq 1 200; {gate.wait}; seq 201 300; sleep 600"
    actions = [{"type": "command", "command": command}]
    made = stack.call("POST", "/run", {"actions": actions, "targets": {"ids": ["lab-3", "lab-5"]}})
    with visit() as ada:
        page = ada.go(f"/executions/{made['id']}?tab=output")
        log = page.get_by_role("region", name="Output of all targets")
        expect(line(log, "^200$")).to_be_visible()
        expect(page.get_by_text("following")).to_be_visible()
        gate.open()
        expect(line(log, "^300$")).to_be_visible()
        log.evaluate("box => { box.scrollTop = 0 }")
        expect(page.get_by_text("stays here")).to_be_visible()
        # The panel of a group stays as it is when the execution ends.
        ada.follow(f"/executions/{made['id']}?tab=groups")
        groups = page.locator(".groups > li")
        succeeded = groups.filter(has_text="succeeded")
        succeeded.get_by_role("button", name="Details").click()
        panel = page.get_by_role("complementary", name="Group of 1 target")
        expect(panel).to_be_focused()
        panel.get_by_role("button", name="lab-5").focus()
        stack.call("POST", f"/executions/{made['id']}/cancel")
        expect(groups.filter(has_text="cancelled")).to_have_count(1)
        expect(page.locator("h1 + .status")).to_have_text("cancelled")
        expect(panel.get_by_role("button", name="lab-5")).to_be_focused()
        page.keyboard.press("Escape")
        expect(panel).to_have_count(0)


def test_a_panel_takes_the_focus_only_when_it_opens(visit: Visit, stack: Stack) -> None:
    gate = stack.gate()
    command = f'[ "$OPSJOBS_TARGET" = lab-5 ] || {{ {gate.wait}; }}'
    actions = [{"type": "command", "command": command}]
    made = stack.call("POST", "/run", {"actions": actions, "targets": {"ids": ["lab-3", "lab-5"]}})
    with visit() as ada:
        page = ada.go(f"/executions/{made['id']}?tab=groups")
        succeeded = page.locator(".groups > li").filter(has_text="succeeded")
        succeeded.get_by_role("button", name="Details").click()
        expect(page.get_by_role("complementary", name="Group of 1 target")).to_be_focused()
        # As after a click beside the panel: its next name does not call the keyboard back.
        page.evaluate("document.activeElement.blur()")
        gate.open()
        expect(page.get_by_role("complementary", name="Group of 2 targets")).to_be_visible()
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))")
        expect(page.locator("body")).to_be_focused()


@pytest.fixture(scope="module")
def differing_execution(stack: Stack) -> int:
    """Run an execution in which one machine of four differs, after one without differences."""
    command = (
        'echo "$OPSJOBS_TARGET common"; if [ "$OPSJOBS_TARGET" = lab-4 ] && [ ${mode} = bad ]; '
        "then echo E: no lock >&2; exit 3; fi; echo done"
    )
    body = {
        "name": "survey",
        "actions": [{"key": "survey", "type": "command", "command": command}],
        "parameters": [{"name": "mode", "default": "good"}],
        "targets": {"ids": [f"lab-{n}" for n in range(1, 5)]},
    }
    job = stack.call("POST", "/jobs", body)["id"]
    for mode in ("good", "bad"):
        made = stack.call("POST", f"/jobs/{job}/execute", {"parameters": {"mode": mode}})
        stack.http.get(f"/executions/{made['id']}/events?kinds=end", timeout=60)
    found: int = made["id"]
    return found


def test_groups_show_what_differs_and_select_it(visit: Visit, differing_execution: int) -> None:
    with visit() as ada:
        page = ada.go(f"/executions/{differing_execution}?tab=groups")
        groups = page.locator(".groups > li")
        expect(groups).to_have_count(4)
        page.get_by_role("button", name="Ignore names and numbers").click()
        expect(groups).to_have_count(2)
        expect(groups.first).to_contain_text("exit 3")
        expect(groups.first.get_by_role("group", name="stderr")).to_have_text("E: no lock")
        expect(groups.last).to_contain_text("3 targets")

        groups.first.get_by_role("button", name="Compare with the 3").click()
        changed = page.get_by_role("region", name="Changed lines")
        expect(changed.locator(".diff-more")).to_have_text(re.compile("done"))
        page.get_by_role("button", name="Side by side").click()
        expect(changed.locator(".diff-pair .diff-more")).to_have_count(1)
        page.get_by_role("button", name="Close").click()
        groups.first.get_by_role("button", name="Compare with last good run").click()
        expect(changed.locator(".diff-less")).to_have_text(re.compile("done"))
        page.go_back()
        groups.last.get_by_role("button", name="Select 3").click()
        expect(page).to_have_url(re.compile("flip="))


def test_long_outputs_are_compared_beside_the_page(visit: Visit, stack: Stack) -> None:
    execution = launch(stack, "seq 1 20000 | sed s/^/$OPSJOBS_TARGET-/", "lab-1", "lab-2")
    with visit() as ada, ada.page.expect_worker() as worker:
        page = ada.go(f"/executions/{execution}?tab=groups&diff=lab-1~lab-2&whole=1")
        expect(page.locator(".diff-row")).to_have_count(2_000)
        expect(page.get_by_role("button", name="Show more: 38,000 rows")).to_be_visible()
        page.get_by_role("button", name="Ignore names and numbers").click()
        expect(page.get_by_text("Both wrote the same.")).to_be_visible()
    assert re.fullmatch(r".*/console/diff\.worker-[A-Z0-9]{8}\.js", worker.value.url)


def test_what_failed_shows_its_end_and_its_reason_and_is_retried(
    visit: Visit, stack: Stack
) -> None:
    away = {"name": "away-2", "host": "127.0.0.1", "port": 9, "host_key_policy": "accept_new"}
    stack.call("POST", "/targets", away)
    command = "seq 1 20000; echo E: no lock >&2; exit 3"
    execution = launch(stack, command, "lab-1", "lab-2", "away-2")
    with visit() as ada:
        page = ada.go(f"/executions/{execution}?tab=targets")
        expect(page.get_by_text("2 failed, 1 unreachable")).to_be_visible()
        page.get_by_role("button", name="See what they have in common").click()
        failed = page.locator(".groups > li").filter(has_text="exit 3")
        unreachable = page.locator(".groups > li").filter(has_text="unreachable")
        expect(unreachable).to_contain_text("away-2 has no credential")
        expect(unreachable).not_to_contain_text("written nothing")
        out = failed.get_by_role("group", name="stdout")
        expect(out).to_contain_text("… 19,994 lines before")
        expect(out).to_contain_text("20000")
        failed.get_by_role("link", name="All output of lab-1").click()
        log = page.get_by_role("region", name="Output of lab-1")
        expect(line(log, "^20000$")).to_be_visible()
        page.go_back()
        failed.get_by_role("button", name="Retry these 2 …").click()
        dialog = page.get_by_role("dialog", name="Retry 2?")
        expect(dialog.get_by_role("heading", name="Retry 2?")).to_be_focused()
        check_accessibility(page)
        dialog.get_by_role("button", name="Retry 2").click()
        expect(page).to_have_url(re.compile(r"/executions/\d+$"))
        expect(page.get_by_role("heading", name=re.compile("seq 1 20000"))).to_be_visible()


def test_what_is_found_on_all_targets_selects_them(visit: Visit, differing_execution: int) -> None:
    with visit() as ada:
        page = ada.go(f"/executions/{differing_execution}?tab=output")
        page.get_by_label("Find in the output").fill("no lock")
        page.get_by_label("Find in the output").press("Enter")
        found = page.get_by_role("region", name="Targets on which it was found")
        expect(found).to_contain_text("Found on 1 target")
        found.get_by_role("button", name="lab-4").click()
        log = page.get_by_role("region", name="Output of lab-4")
        expect(log.locator(".log-stderr .log-text")).to_have_text("E: no lock")


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
def test_output_and_groups_are_accessible_and_fit(
    visit: Visit, stack: Stack, differing_execution: int, *, every: bool
) -> None:
    group = stack.call("GET", f"/executions/{differing_execution}/groups")["items"][0]["digest"]
    queries = ["tab=output", "tab=groups", "tab=groups&diff=lab-4~lab-1", "tab=output&wrap=1"]
    queries.append(f"tab=groups&in={group}")
    paths = [f"/executions/{differing_execution}?{query}" for query in queries]
    with visit() as ada:
        wrong = faults(ada, paths, every=every, shows="common")
    assert not wrong, "\n".join(wrong)
