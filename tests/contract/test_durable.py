"""The contract of durable runs: started at most once, and followed from any byte on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from contract.conftest import EVERY_BACKEND, NEVER, OpenBackend, backend_opener, collect
from contract.durable_machines import (
    SAID,
    SAY,
    first,
    identity_of,
    lost,
    machine,
    never_starts,
    not_followed,
    until_ended,
)
from kit.fake_remote import Echo, Pause
from opsjobs.remote.session import ContactLost, Output, RemoteExit, SpoolChanged

BYTES = bytes(range(256))


@pytest.fixture(params=EVERY_BACKEND)
def open_backend(request: pytest.FixtureRequest) -> OpenBackend:
    """Return an opener of each backend, including Windows."""
    return backend_opener(request)


# --- begin


async def test_a_first_contact_tells_the_identity_and_starts_nothing(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web:
        order = web.order("exit 1", [RemoteExit(1)])
        with pytest.raises(SpoolChanged) as met:
            await web.durable.begin(order, None)
        assert met.value.seen == web.identity
        assert web.identity.store
        assert web.identity.boot
        assert web.starts(order) == 0
        assert await web.done(order) == (b"", b"", RemoteExit(1))


async def test_the_identity_is_the_same_at_every_visit(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web, web.elsewhere() as again:
        assert await identity_of(again.durable) == web.identity


@pytest.mark.parametrize("what", ["store", "boot"])
async def test_nothing_begins_where_another_store_or_boot_is_expected(
    open_backend: OpenBackend, what: str
) -> None:
    async with machine(open_backend) as web:
        order = web.order("true")
        with pytest.raises(SpoolChanged) as met:
            await web.durable.begin(order, replace(web.identity, **{what: "0123456789abcdef"}))
        assert met.value.seen == web.identity
        assert web.starts(order) == 0
        assert not await never_starts(web.attach(order))


async def test_a_run_is_followed_from_its_first_byte_to_its_end(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order(f"{SAY}; exit 3", [*SAID, RemoteExit(3)])
        assert await web.done(order) == (b"one\0\xff", b"\xfetwo\n", RemoteExit(3))
        assert web.starts(order) == 1


async def test_a_run_without_output_only_ends(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        assert await web.done(web.order("true")) == (b"", b"", RemoteExit(0))


async def test_much_output_comes_back_exactly_on_both_streams(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        line = b"0123456789abcdef" * 8
        fill = "i=0; while [ $i -lt 13 ]; do d=$d$d; i=$((i+1)); done"
        command = f"d={line.decode()}; {fill}; printf %s $d; printf %s $d >&2"
        whole = line * 8192
        assert await web.done(
            web.order(command, [Output("stdout", whole), Output("stderr", whole), RemoteExit(0)])
        ) == (
            whole,
            whole,
            RemoteExit(0),
        )


@pytest.mark.parametrize(
    "data",
    [b"1 5\nX done 0\n", b"OPSJOBS1\n", b"\0" * 5, b"\n\n", b"no final newline", BYTES],
    ids=["a frame", "a greeting", "zeroes", "newlines", "open", "every byte"],
)
async def test_output_that_looks_like_ours_is_data(open_backend: OpenBackend, data: bytes) -> None:
    async with machine(open_backend) as web:
        printf = "".join(f"\\{byte:03o}" for byte in data)
        order = web.order(
            f"printf '{printf}'; printf '{printf}' >&2",
            [Output("stdout", data), Output("stderr", data), RemoteExit(0)],
        )
        assert await web.done(order) == (data, data, RemoteExit(0))


async def test_a_run_has_no_standard_input(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order("cat; echo done", [Echo(), Output("stdout", b"done\n"), RemoteExit(0)])
        assert await web.done(order) == (b"done\n", b"", RemoteExit(0))


async def test_a_command_may_be_long_and_have_many_lines_and_quotes(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web:
        if web.windows:
            return  # a command for cmd has one line
        filling = "\n".join(
            [": `true` $(true)", *(f": 'line {n}' \"!\" \\\\ # ünïcode" for n in range(8_000))]
        )
        said = Output("stdout", b'it\'s\n"all" there!\n')
        order = web.order(
            f"{filling}\ncat <<'END'\nit's\n\"all\" there!\nEND\nexit 6", [said, RemoteExit(6)]
        )
        assert await web.done(order) == (said.data, b"", RemoteExit(6))


async def test_the_environment_of_an_order_reaches_its_command_exactly(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web:
        values = {"PLAIN": "a b", "ODD": 'it\'s "$HOME" `x` \\n !\n\nünïcode\n', "EMPTY": ""}
        said = "|".join(values.values()).encode()
        command = 'printf "%s|%s|%s" "$PLAIN" "$ODD" "${EMPTY-unset}"'
        order = replace(
            web.order(command, [Output("stdout", said), RemoteExit(0)]), environment=values
        )
        assert await web.done(order) == (said, b"", RemoteExit(0))


async def test_output_comes_before_the_run_ends(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        latch = web.latch()
        order = web.order(
            f"echo first; {latch.wait}; echo last",
            [Output("stdout", b"first\n"), latch.gate, Output("stdout", b"last\n")],
        )
        process = await web.begin(order)
        assert await first(process, 6) == b"first\n"
        latch.open()
        assert await collect(process) == (b"last\n", b"", RemoteExit(0))


async def test_many_runs_go_on_side_by_side(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        orders = [
            web.order(f"echo {n}", [Output("stdout", b"%d\n" % n), RemoteExit(0)])
            for n in range(12)
        ]
        done = await asyncio.gather(*(web.done(order) for order in orders))
        assert done == [(b"%d\n" % n, b"", RemoteExit(0)) for n in range(12)]


# --- at most once


async def test_a_second_begin_starts_nothing_and_follows_from_the_first_byte(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web, web.elsewhere() as again:
        latch = web.latch()
        order = web.order(f"{SAY}; {latch.wait}; exit 4", [*SAID, latch.gate, RemoteExit(4)])
        process = await web.begin(order)
        await first(process, 5)
        second = await again.begin(order)
        assert await first(second, 5) == b"one\0\xff"
        latch.open()
        assert (await collect(process))[2] == (await collect(second))[2] == RemoteExit(4)
        assert await again.done(order) == (b"one\0\xff", b"\xfetwo\n", RemoteExit(4))
        assert web.starts(order) == 1


async def test_begins_at_the_same_moment_start_once_and_all_get_all(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web, web.elsewhere() as again:
        order = web.order(f"{SAY}; exit 4", [*SAID, RemoteExit(4)])
        done = await asyncio.gather(*(by.done(order) for by in (web, again, web, again, web)))
        assert done == [(b"one\0\xff", b"\xfetwo\n", RemoteExit(4))] * 5
        assert web.starts(order) == 1


async def test_the_next_attempt_is_another_run(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order("exit 2", [RemoteExit(2)])
        await web.done(order)
        following = replace(order, key=replace(order.key, attempt=2))
        try:
            assert not await never_starts(web.attach(following))
            assert await web.done(following) == (b"", b"", RemoteExit(2))
        finally:
            await web.durable.clean([following.key])


@pytest.mark.parametrize("how", ["live", "ended"])
async def test_a_run_of_another_command_is_lost_and_not_touched(
    open_backend: OpenBackend, how: str
) -> None:
    async with machine(open_backend) as web:
        latch = web.latch()
        order = web.order(
            f"echo ours; {latch.wait}; exit 4",
            [Output("stdout", b"ours\n"), latch.gate, RemoteExit(4)],
        )
        process = await web.begin(order)
        assert await first(process, 5) == b"ours\n"
        if how == "ended":
            latch.open()
            await collect(process)
        other = replace(order, command=order.command + " ")
        assert await not_followed(web.begin(other))
        assert await not_followed(web.attach(other))
        assert web.starts(order) == 1
        latch.open()
        assert await collect(await web.attach(order)) == (b"ours\n", b"", RemoteExit(4))


# --- attach


@pytest.mark.parametrize("offsets", [(0, 0), (1, 0), (0, 255), (77, 200), (256, 256)])
@pytest.mark.parametrize("how", ["live", "ended"])
async def test_an_attach_gives_exactly_the_rest_of_both_streams(
    open_backend: OpenBackend, how: str, offsets: tuple[int, int]
) -> None:
    async with machine(open_backend) as web, web.elsewhere() as again:
        latch = web.latch()
        printf = "".join(f"\\{byte:03o}" for byte in BYTES)
        command = f"printf '{printf}'; printf '{printf}' >&2; {latch.wait}; echo end; echo END >&2; exit 9"
        rest = [Output("stdout", b"end\n"), Output("stderr", b"END\n"), RemoteExit(9)]
        order = web.order(
            command, [Output("stdout", BYTES), Output("stderr", BYTES), latch.gate, *rest]
        )
        process = await web.begin(order)
        await first(process, 256)
        if how == "ended":
            latch.open()
            await collect(process)
        attached = await again.attach(order, offsets)
        latch.open()
        assert await collect(attached) == (
            BYTES[offsets[0] :] + b"end\n",
            BYTES[offsets[1] :] + b"END\n",
            RemoteExit(9),
        )


async def test_an_attach_after_the_last_byte_gives_only_the_end(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order(f"{SAY}; exit 3", [*SAID, RemoteExit(3)])
        await web.done(order)
        assert await collect(await web.attach(order, (5, 5))) == (b"", b"", RemoteExit(3))


async def test_an_attach_to_what_never_began_says_so_and_it_may_still_begin(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web:
        order = web.order("exit 3", [RemoteExit(3)])
        assert not await never_starts(web.attach(order))
        assert web.starts(order) == 0
        assert await web.done(order) == (b"", b"", RemoteExit(3))


@pytest.mark.parametrize(
    "how", ["the process is closed", "the session is left", "the reader gives up"]
)
async def test_a_run_goes_on_when_it_is_let_go(open_backend: OpenBackend, how: str) -> None:
    async with machine(open_backend) as web:
        latch = web.latch()
        order = web.order(
            f"echo first; {latch.wait}; echo last; exit 5",
            [Output("stdout", b"first\n"), latch.gate, Output("stdout", b"last\n"), RemoteExit(5)],
        )
        async with web.elsewhere() as gone:
            process = await gone.begin(order)
            assert await first(process, 6) == b"first\n"
            if how == "the process is closed":
                await process.close()
            elif how == "the reader gives up":
                reader = asyncio.create_task(collect(process))
                await asyncio.sleep(0)
                reader.cancel()
                await asyncio.wait({reader})
        assert await web.durable.look(order.key) is None
        latch.open()
        assert await collect(await web.attach(order, (6, 0))) == (b"last\n", b"", RemoteExit(5))
        assert web.starts(order) == 1


@pytest.mark.parametrize("how", ["begun", "attached"])
async def test_contact_that_breaks_is_no_end_and_the_rest_is_found_again(
    open_backend: OpenBackend, how: str
) -> None:
    async with machine(open_backend) as web:
        if web.backend.break_contact is None:
            return  # There is no connection to this machine that could break.
        latch = web.latch()
        rest = [Output("stdout", b"last\n"), RemoteExit(5)]
        order = web.order(
            f"echo first; {latch.wait}; echo last; exit 5",
            [Output("stdout", b"first\n"), latch.gate, *rest],
        )
        async with web.elsewhere() as far:
            process = await far.begin(order)
            if how == "attached":
                await process.close()
                process = await far.attach(order)
            assert await first(process, 6) == b"first\n"
            reading = asyncio.create_task(collect(process))
            web.backend.break_contact()
            with pytest.raises(ContactLost):
                await reading
        async with web.elsewhere() as again:
            assert await again.durable.look(order.key) is None
            latch.open()
            assert await collect(await again.attach(order, (6, 0))) == (
                b"last\n",
                b"",
                RemoteExit(5),
            )
            assert web.starts(order) == 1


async def test_a_run_ends_while_nobody_follows_it(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        latch = web.latch()
        order = web.order(f"{latch.wait}; {SAY}; exit 5", [latch.gate, *SAID, RemoteExit(5)])
        await (await web.begin(order)).close()
        latch.open()
        await until_ended(web, order)
        assert await collect(await web.attach(order)) == (b"one\0\xff", b"\xfetwo\n", RemoteExit(5))


async def test_two_who_follow_at_once_both_get_all(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web, web.elsewhere() as again:
        latch = web.latch()
        order = web.order(
            f"{SAY}; {latch.wait}; {SAY}; exit 1", [*SAID, latch.gate, *SAID, RemoteExit(1)]
        )
        both = [await web.begin(order), await again.attach(order)]
        reading = [asyncio.create_task(collect(process)) for process in both]
        latch.open()
        assert (
            await asyncio.gather(*reading)
            == [(b"one\0\xff" * 2, b"\xfetwo\n" * 2, RemoteExit(1))] * 2
        )


async def test_an_attach_where_another_store_is_expected_tells_whose_it_is(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web:
        order = web.order("true")
        await web.done(order)
        with pytest.raises(SpoolChanged) as met:
            await web.durable.attach(order, replace(web.identity, store="0123456789abcdef"), (0, 0))
        assert met.value.seen == web.identity


async def test_after_a_reboot_an_end_on_record_still_counts(open_backend: OpenBackend) -> None:
    async with machine(open_backend) as web:
        order = web.order(f"{SAY}; exit 3", [*SAID, RemoteExit(3)])
        await web.done(order)
        before = replace(web.identity, boot="0123456789abcdef")
        assert await collect(await web.durable.attach(order, before, (1, 1))) == (
            b"ne\0\xff",
            b"two\n",
            RemoteExit(3),
        )


async def test_after_a_reboot_whatever_has_no_end_on_record_is_lost(
    open_backend: OpenBackend,
) -> None:
    async with machine(open_backend) as web:
        before = replace(web.identity, boot="0123456789abcdef")
        live, absent, void = (
            web.order("sleep 60", [Pause(NEVER)]),
            web.order("true"),
            web.order("true"),
        )
        await web.begin(live)
        await web.durable.cancel(void.key, 0.0)
        for order in (live, absent, void):
            assert await lost(web.durable.attach(order, before, (0, 0)))
