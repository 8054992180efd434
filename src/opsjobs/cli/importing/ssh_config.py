"""OpenSSH client configuration: each Host that is not a pattern becomes a target."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from opsjobs.cli.importing.inventory import (
    TARGETS_MAX,
    FoundTarget,
    ImportedInventory,
    Skipped,
    parse_port,
)

_LINE = re.compile(r"([A-Za-z][A-Za-z0-9]*)(?:\s*=\s*|\s+)(.*)")
_REFUSED_OPTIONS = {
    "proxycommand": "it uses a ProxyCommand: give it a ProxyJump, or add it by hand"
}
_REPORTED_OPTIONS = (
    "certificatefile",
    "forwardagent",
    "localforward",
    "remoteforward",
    "remotecommand",
)


@dataclass
class _Block:
    patterns: list[str]
    options: dict[str, str] = field(default_factory=dict)

    def applies(self, name: str) -> bool:
        if any(p.startswith("!") and fnmatchcase(name, p[1:]) for p in self.patterns):
            return False
        return any(fnmatchcase(name, p) for p in self.patterns if not p.startswith("!"))


def is_ssh_config(lines: Sequence[str]) -> bool:
    """Return True if these lines are of an ssh_config."""
    return any(re.match(r"(?i)host(\s+|\s*=\s*)\S", line) for line in lines)


def read_ssh_config(text: str) -> ImportedInventory:
    """Return the inventory in the text. Raises ValueError with the line."""
    left: list[Skipped] = []
    blocks = _blocks(text, left)
    names = dict.fromkeys(p for block in blocks for p in block.patterns if not _is_pattern(p))
    if len(names) > TARGETS_MAX:
        raise ValueError(f"it has more than {TARGETS_MAX} hosts")
    left += [
        Skipped(p, "a pattern is not a host; its options apply to the hosts that it matches")
        for p in dict.fromkeys(p for block in blocks for p in block.patterns if _is_pattern(p))
    ]
    found: dict[str, FoundTarget] = {}
    for name in names:
        try:
            found[name] = _build_target(name, blocks)
        except ValueError as error:
            left.append(Skipped(name, str(error), target=True))
    left += _unsupported(blocks)
    return ImportedInventory(_with_jumps(found, blocks, left), left)


def _blocks(text: str, left: list[Skipped]) -> list[_Block]:
    blocks = [_Block(["*"])]
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            raise ValueError(f"line {number}: {stripped[:60]!r} is not an option with a value")
        option, value = match[1].lower(), match[2]
        if option == "host":
            blocks.append(_Block(_split_words(value, number)))
        elif option == "match":
            blocks.append(_Block([]))
            left.append(
                Skipped(
                    f"line {number}: Match {value[:60]}",
                    "Match is not supported: the whole block is ignored",
                )
            )
        elif option == "include":
            left.append(
                Skipped(
                    f"line {number}: Include {value[:60]}",
                    "included files are not read: import them too",
                )
            )
        else:
            # The first one is used, as by ssh.
            blocks[-1].options.setdefault(option, " ".join(_split_words(value, number)))
    return blocks


def _split_words(value: str, number: int) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError:
        raise ValueError(f"line {number}: unclosed quote") from None


def _is_pattern(name: str) -> bool:
    return name.startswith("!") or "*" in name or "?" in name


def _options(name: str, blocks: Sequence[_Block]) -> dict[str, str]:
    options: dict[str, str] = {}
    for block in blocks:
        if block.applies(name):
            options = {**block.options, **options}
    return options


def _build_target(name: str, blocks: Sequence[_Block]) -> FoundTarget:
    options = _options(name, blocks)
    for option, reason in _REFUSED_OPTIONS.items():
        if options.get(option, "none").lower() != "none":
            raise ValueError(reason)
    host = options.get("hostname", name).replace("%h", name).replace("%%", "%")
    jump = options.get("proxyjump", "none")
    return FoundTarget(
        name,
        host,
        parse_port(options["port"]) if "port" in options else None,
        options.get("user"),
        options.get("identityfile"),
        jump=None if jump.lower() == "none" else jump,
    )


def _with_jumps(
    found: dict[str, FoundTarget], blocks: Sequence[_Block], left: list[Skipped]
) -> list[FoundTarget]:
    """Resolve jump hosts to targets; create those that only a ProxyJump names."""
    for one in [*found.values()]:
        if one.jump is None:
            continue
        hops = [hop.strip() for hop in one.jump.split(",")]
        if len(hops) > 1 and any(_hop_name(hop) not in found for hop in hops):
            left.append(
                Skipped(
                    f"{one.name}: ProxyJump {one.jump}",
                    "a jump over several hosts: give each of them its own Host entry",
                )
            )
            found[one.name] = replace(one, jump=None)
            continue
        name = _hop_name(hops[-1])
        if name not in found:
            found[name] = _jump_host(hops[-1], blocks)
        found[one.name] = replace(one, jump=name)
        for nearer, hop in itertools.pairwise(hops):
            if found[_hop_name(hop)].jump is None:
                found[_hop_name(hop)] = replace(found[_hop_name(hop)], jump=_hop_name(nearer))
    return [*found.values()]


def _hop_name(hop: str) -> str:
    """Return the host of a jump: `deploy@gate.example.org:2222` -> `gate.example.org`."""
    return re.sub(r":\d+$", "", hop.rpartition("@")[2]).strip("[]")


def _jump_host(hop: str, blocks: Sequence[_Block]) -> FoundTarget:
    user, _, rest = hop.rpartition("@")
    port = re.search(r":(\d+)$", rest)
    made = replace(_build_target(_hop_name(hop), blocks), jump=None)
    return replace(made, user=user or made.user, port=parse_port(port[1]) if port else made.port)


def _unsupported(blocks: Sequence[_Block]) -> Iterator[Skipped]:
    reported = {
        option: ", ".join(block.patterns)[:60]
        for block in blocks
        for option in block.options
        if option in _REPORTED_OPTIONS
    }
    for option, where in reported.items():
        yield Skipped(f"{option} (Host {where})", "it is not supported")
