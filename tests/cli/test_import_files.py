"""Inventories of other programs: what is imported, what is skipped, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from hatch_build import node_folder
from ruamel import yaml
from ruamel.yaml.constructor import ConstructorError

from architecture.tree import ROOT
from opsjobs.cli.importing import FoundTarget, ImportedInventory, SourceKind, guess, read
from opsjobs.cli.importing.ansible_files import HOSTS_MAX, expand_hosts


def by_name(inventory: ImportedInventory) -> dict[str, FoundTarget]:
    return {one.name: one for one in inventory.found}


def skipped(inventory: ImportedInventory) -> dict[str, str]:
    return {one.what: one.reason for one in inventory.left}


# --- ranges


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("web-1", ["web-1"]),
        ("web[1:3]", ["web1", "web2", "web3"]),
        ("web[08:10].example.org", ["web08.example.org", "web09.example.org", "web10.example.org"]),
        ("n[1:9:4]", ["n1", "n5", "n9"]),
        ("db-[a:c]", ["db-a", "db-b", "db-c"]),
        ("r[1:2]-[a:b]", ["r1-a", "r1-b", "r2-a", "r2-b"]),
        ("web[001:002]", ["web001", "web002"]),
        ("[2001:db8::1]:22", ["[2001:db8::1]:22"]),
    ],
)
def test_a_range_is_written_out(pattern: str, names: list[str]) -> None:
    assert expand_hosts(pattern) == names


@pytest.mark.parametrize(
    "pattern",
    ["web[3:1]", "web[a:1]", "web[a:C]", "web[1:5:0]", "web[1-5]", "web[", "web[1:1000000000000]"],
)
def test_a_range_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="range"):
        expand_hosts(pattern)


@pytest.mark.parametrize("pattern", [f"web[1:{HOSTS_MAX + 1}]", "a[1:200]b[1:200]"])
def test_a_range_of_too_many_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="10000"):
        expand_hosts(pattern)


# --- Ansible

INI = """
# a comment
bastion.example.org ansible_user=ada

[web]
web[01:03].example.org  ansible_port=2222 http_port=80   # the front
"web-x" ansible_host=10.0.0.9 ansible_ssh_private_key_file='~/.ssh/web key'

[db]
db-1 ansible_host=10.0.1.1 ansible_user=postgres # the only one
win-1 ansible_connection=winrm
pod-1 ansible_connection=kubectl
odd-1 ansible_host="{{ lookup('x') }}"

[prod:children]
web
db

[prod:vars]
ansible_user=deploy
ansible_ssh_common_args='-o ProxyJump=ada@bastion.example.org'
env = prod

[web:vars]
env=front
ansible_become_password=geheim

[local]
here ansible_connection=local
sw-1 ansible_connection=ansible.netcommon.network_cli
"""


def test_an_ini_inventory_with_groups_in_groups_and_variables() -> None:
    inventory = read(SourceKind.ANSIBLE, "hosts.ini", INI)
    found = by_name(inventory)
    assert list(found)[:5] == [
        "bastion.example.org",
        "web01.example.org",
        "web02.example.org",
        "web03.example.org",
        "web-x",
    ]
    web = found["web02.example.org"]
    assert (web.host, web.port, web.user, web.jump, list(web.groups)) == (
        "web02.example.org",
        2222,
        "deploy",
        "bastion.example.org",
        ["prod", "web"],
    )
    assert (web.variables["env"], web.variables["http_port"]) == ("front", "80")
    assert (found["web-x"].host, found["web-x"].key) == ("10.0.0.9", "~/.ssh/web key")
    assert (found["db-1"].user, found["db-1"].variables["env"]) == ("postgres", "prod")
    assert (found["bastion.example.org"].user, found["bastion.example.org"].groups) == ("ada", [])
    assert (found["here"].transport, found["sw-1"].platform) == ("local", "network")
    assert (found["win-1"].transport, found["win-1"].winrm) == ("winrm", {"scheme": "https"})
    assert found["win-1"].jump is None


@pytest.mark.parametrize(
    ("variables", "winrm"),
    [
        ("ansible_connection=winrm ansible_port=5985", {"scheme": "http"}),
        (
            (
                "ansible_connection=winrm ansible_winrm_transport=kerberos,ntlm "
                "ansible_winrm_server_cert_validation=ignore"
            ),
            {"scheme": "https", "auth": "kerberos", "verify": False},
        ),
        (
            (
                "ansible_connection=ansible.builtin.psrp ansible_psrp_protocol=http "
                "ansible_psrp_auth=negotiate"
            ),
            {"scheme": "http", "auth": "negotiate"},
        ),
        (
            "ansible_connection=winrm ansible_winrm_transport=ssl",
            {"scheme": "https", "auth": "basic"},
        ),
    ],
)
def test_windows_hosts_have_the_options_of_winrm(variables: str, winrm: dict[str, object]) -> None:
    inventory = read(SourceKind.ANSIBLE, "hosts.ini", f"win-1 {variables} ansible_user=ada")
    assert by_name(inventory)["win-1"].body() == {
        "name": "win-1",
        "host": "win-1",
        "transport": "winrm",
        "winrm": winrm,
        **({"port": 5985} if "5985" in variables else {}),
    }
    assert skipped(inventory) == {}


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ("ansible_winrm_transport=digest", "authentication is digest"),
        ("ansible_winrm_transport=basic ansible_winrm_scheme=http", "basic over http"),
    ],
)
def test_a_windows_host_that_cannot_be_reached_is_told(variables: str, why: str) -> None:
    text = f"win-1 ansible_connection=winrm {variables}"
    assert why in skipped(read(SourceKind.ANSIBLE, "hosts.ini", text))["win-1"]


def test_what_of_an_ini_inventory_cannot_be_carried_over_is_told() -> None:
    told = skipped(read(SourceKind.ANSIBLE, "hosts.ini", INI))
    assert "kubectl" in told["pod-1"]
    assert "is a template" in told["odd-1"]
    assert "secrets" in told["ansible_become_password (of 4 hosts)"]
    assert not any(what.startswith("ansible_ssh_common_args") for what in told)


def test_what_ansible_says_of_all_holds_for_every_host_and_each_group_overrules_it() -> None:
    text = """
lonely ansible_host=10.0.0.9
[web]
w1 ansible_host=10.0.0.1
w2 ansible_host=10.0.0.2 ansible_user=root
[web:vars]
ansible_port=2022
[all:vars]
ansible_user=bob
ansible_port=2222
site=berlin
"""
    found = {one.name: one for one in read(SourceKind.ANSIBLE, "hosts.ini", text).found}
    assert {name: (one.user, one.port, list(one.groups)) for name, one in found.items()} == {
        "lonely": ("bob", 2222, []),
        "w1": ("bob", 2022, ["web"]),
        "w2": ("root", 2022, ["web"]),
    }
    assert {one.variables["site"] for one in found.values()} == {"berlin"}


def test_a_jump_host_of_all_hosts_is_not_its_own() -> None:
    text = "[all:vars]\nansible_ssh_common_args=-J gate\n[g]\ngate\nw\n"
    found = by_name(read(SourceKind.ANSIBLE, "hosts.ini", text))
    assert (found["gate"].jump, found["w"].jump) == (None, "gate")


def test_yaml_groups_beside_all_have_its_variables_too() -> None:
    text = "all:\n  vars: {ansible_user: bob}\nweb:\n  hosts: {w1: }\nungrouped:\n  hosts: {w2: }\n"
    assert {
        one.name: (one.user, list(one.groups))
        for one in read(SourceKind.ANSIBLE, "hosts.yml", text).found
    } == {
        "w1": ("bob", ["web"]),
        "w2": ("bob", []),
    }


def test_a_value_that_is_vaulted_is_no_login() -> None:
    (left,) = read(
        SourceKind.ANSIBLE, "hosts.yml", "all: {hosts: {w1: {ansible_user: !vault x}}}"
    ).left
    assert (left.what, left.target) == ("w1", True)
    assert "encrypted with ansible-vault" in left.reason


LISTED = {
    "_meta": {
        "hostvars": {
            "w1": {
                "ansible_host": "10.0.0.1",
                "ansible_user": "bob",
                "ansible_port": 2222,
                "facts": {"a": [1]},
            },
            "w2": {"ansible_user": {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256"}},
            "w3": {"ansible_user": "ada"},
            "w4": {},
        },
        "profile": "inventory_legacy",
    },
    "all": {"children": ["ungrouped", "prod"]},
    "prod": {"children": ["web"]},
    "web": {"hosts": ["w1", "w2"], "vars": {"ansible_port": 2022, "site": "berlin"}},
    "old": ["w3"],
}


def test_the_json_of_ansible_inventory_is_read() -> None:
    inventory = read(SourceKind.ANSIBLE, "-", json.dumps(LISTED))
    assert [
        (one.name, one.host, one.user, one.port, list(one.groups)) for one in inventory.found
    ] == [
        ("w1", "10.0.0.1", "bob", 2222, ["prod", "web"]),
        ("w3", "w3", "ada", None, ["old"]),
        ("w4", "w4", None, None, []),
    ]
    assert inventory.found[0].variables == {"site": "berlin", "facts": '{"a": [1]}'}
    assert [(left.what, left.target) for left in inventory.left] == [("w2", True)]


@pytest.mark.parametrize(
    ("groups", "fault"),
    [
        ({"_meta": [], "web": {"hosts": ["w1"]}}, "'_meta' is not an object"),
        ({"web": {"hosts": ["w1", 2]}}, "the hosts of 'web' are not a list of names"),
        ({"web": {"hosts": ["w1"]}, "db": 3}, "the group 'db' is not an object"),
        ({"_meta": {"hostvars": {"w1": 3}}}, "the variables of 'w1' is not an object"),
    ],
)
def test_json_of_another_shape_says_where(groups: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        read(SourceKind.ANSIBLE, "-", json.dumps(groups))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[web]\nweb-1 oops", "line 2: 'oops'"),
        ("[web:vars]\nnothing", "line 2"),
        ("web-1 ansible_host='x", "line 1"),
        ("[a:children]\nb\n[b:children]\na", "contains itself"),
        ("web[9:1]", "line 1"),
    ],
)
def test_an_ini_inventory_that_cannot_be_read_says_where(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read(SourceKind.ANSIBLE, "hosts", text)


YAML = """
all:
  hosts:
    gate: {ansible_host: 192.0.2.1}
  vars:
    ansible_user: deploy
  children:
    prod:
      vars: {env: prod, tier: 1, canary: true}
      children:
        web:
          hosts:
            web[1:2]:
              ansible_port: 2222
              ansible_ssh_common_args: -J gate
            web-9:
        db:
          hosts: db-1
    secret:
      hosts:
        db-1:
          ansible_password: !vault |
            $ANSIBLE_VAULT;1.1;AES256
            6162
          ansible_ssh_common_args: -J nowhere -o Compression=yes
"""


def test_a_yaml_inventory() -> None:
    inventory = read(SourceKind.ANSIBLE, "inventory.yml", YAML)
    found = by_name(inventory)
    assert list(found) == ["gate", "web1", "web2", "web-9", "db-1"]
    web = found["web1"]
    assert (web.host, web.port, web.user, web.jump, list(web.groups)) == (
        "web1",
        2222,
        "deploy",
        "gate",
        ["prod", "web"],
    )
    assert (web.variables["env"], web.variables["tier"], web.variables["canary"]) == (
        "prod",
        "1",
        "true",
    )
    assert list(found["db-1"].groups) == ["prod", "secret", "db"]
    told = skipped(inventory)
    assert "not a host of this inventory" in told["db-1: jump host nowhere"]
    assert "secrets" in told["ansible_password (of 1 host)"]
    assert "not supported" in told["ansible_ssh_common_args (of 1 host)"]


def test_what_it_makes_of_tags_no_other_reader_of_this_process_learns() -> None:
    read(SourceKind.ANSIBLE, "inventory.yml", YAML)
    with pytest.raises(ConstructorError, match="!vault"):
        yaml.YAML(typ="safe", pure=True).load("password: !vault sealed")


def test_json_is_yaml_too() -> None:
    assert list(
        by_name(
            read(SourceKind.ANSIBLE, "i.json", '{"web": {"hosts": {"web-1": {"ansible_port": 1}}}}')
        )
    ) == ["web-1"]


BOMB = "a: &a {hosts: {x: }}\n" + "\n".join(
    f"{b}: &{b} {{children: {{{', '.join(f'{b}{n}: *{a}' for n in range(9))}}}}}"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- web-1\n", "no groups"),
        ("all:\n  host: {x: }\n", "'host'"),
        ("all: {hosts: [a, b]}", "not a mapping"),
        ("all: {hosts: {a: 5}}", "not a mapping"),
        ("all:\n\t- x", "not valid YAML"),
        ("a: " + "{children: {a: " * 40 + "}}" * 40, "deep"),
        (BOMB, "more than"),
    ],
)
def test_a_yaml_inventory_that_cannot_be_read_says_why(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read(SourceKind.ANSIBLE, "i.yml", text)


# --- ssh_config

CONFIG = """
Include ~/.ssh/more
Host web-1 web-2
    HostName %h.example.org
    Port 2222
Host db-1
    HostName=10.0.0.7
    User "postgres"
    ProxyJump ada@gate.example.org:2200
    IdentityFile ~/.ssh/db
Host deep
    ProxyJump gate,web-1
Host far
    ProxyJump one,two
Host odd
    ProxyCommand nc %h %p
Host gate
    HostName gate.example.org
Host web-* !web-2
    User www
    ForwardAgent yes
Match user root
    Port 99
Host *
    User deploy
    Port 22
"""


def test_hosts_of_an_ssh_config_with_all_that_applies_to_them() -> None:
    found = by_name(read(SourceKind.SSH_CONFIG, "config", CONFIG))
    assert (found["web-1"].host, found["web-1"].port, found["web-1"].user) == (
        "web-1.example.org",
        2222,
        "www",
    )
    assert found["web-2"].user == "deploy"
    assert (found["db-1"].host, found["db-1"].user, found["db-1"].key) == (
        "10.0.0.7",
        "postgres",
        "~/.ssh/db",
    )
    assert found["db-1"].jump == "gate.example.org"
    made = found["gate.example.org"]
    assert (made.host, made.user, made.port) == ("gate.example.org", "ada", 2200)
    assert (found["deep"].jump, found["web-1"].jump) == ("web-1", "gate")
    assert found["far"].jump is None


def test_what_of_an_ssh_config_cannot_be_carried_over_is_told() -> None:
    told = skipped(read(SourceKind.SSH_CONFIG, "config", CONFIG))
    assert "ProxyCommand" in told["odd"]
    assert "pattern" in told["web-*"]
    assert "pattern" in told["*"]
    assert "line 2: Include ~/.ssh/more" in told
    assert any(what.endswith("Match user root") for what in told)
    assert "several hosts" in told["far: ProxyJump one,two"]
    assert "forwardagent (Host web-*, !web-2)" in told


@pytest.mark.parametrize("text", ["Host web-1\n  HostName 'x", "Host web-1\n  %%%"])
def test_an_ssh_config_that_cannot_be_read_says_where(text: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        read(SourceKind.SSH_CONFIG, "config", text)


def test_a_port_that_is_none_leaves_that_host_out() -> None:
    inventory = read(SourceKind.SSH_CONFIG, "config", "Host web-1\n  Port http\nHost web-2\n")
    assert list(by_name(inventory)) == ["web-2"]
    assert "'http' is not a port" in skipped(inventory)["web-1"]


# --- tables

CSV = """name,host,port,user,groups,labels,label:Owner,colour
web-1,10.0.0.5,2222,deploy,web;front,env=prod role=web,ada,red
web-2,,,,,,,
,10.0.0.7,22,,,,,
web-1,10.0.0.8,,,,,,
web-4,x,http,,,,,
,,22,,,,,
"""


def test_a_table() -> None:
    inventory = read(SourceKind.CSV, "t.csv", "\ufeff" + CSV.replace("\n", "\r\n"))
    found = by_name(inventory)
    assert list(found) == ["web-1", "web-2", "10.0.0.7"]
    one = found["web-1"]
    assert one.body() == {
        "name": "web-1",
        "host": "10.0.0.5",
        "port": 2222,
        "groups": ["web", "front"],
        "labels": {"env": "prod", "role": "web", "Owner": "ada"},
    }
    assert found["web-2"].body() == {"name": "web-2", "host": "web-2"}
    told = skipped(inventory)
    assert told["line 5: web-1"] == "the name appears twice"
    assert "not a port" in told["line 6: web-4"]
    assert "neither" in told["line 7: (no name)"]
    assert "column colour" in told


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_a_table_may_have_other_separators(separator: str) -> None:
    text = "\n".join(
        separator.join(row) for row in (("hostname", "port", "tags"), ("web-1", "22", "env=prod"))
    )
    assert read(SourceKind.CSV, "t", text).found[0].body() == {
        "name": "web-1",
        "host": "web-1",
        "port": 22,
        "labels": {"env": "prod"},
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "name"), ("a,b\n1,2", "name"), ("name,name\na,b", "twice"), ('name\n"a', "line")],
)
def test_a_table_that_cannot_be_read_says_why(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read(SourceKind.CSV, "t.csv", text)


# --- /etc/hosts

HOSTS = """127.0.0.1 localhost
::1 ip6-localhost
ff02::1 ip6-allnodes
169.254.1.1 meta
10.0.0.5\tweb-1.example.org web-1   # in front
2001:db8::7 db-1
10.0.0.6 web-1.example.org
"""


def test_a_hosts_file() -> None:
    inventory = read(SourceKind.HOSTS, "hosts", HOSTS)
    assert {name: one.host for name, one in by_name(inventory).items()} == {
        "web-1.example.org": "10.0.0.5",
        "db-1": "2001:db8::7",
    }
    told = skipped(inventory)
    assert told["127.0.0.1 localhost"] == "it is the machine itself"
    assert "multicast" in told["ff02::1 ip6-allnodes"]
    assert "link-local" in told["169.254.1.1 meta"]
    assert "already has the address 10.0.0.5" in told["10.0.0.6 web-1.example.org"]


def test_a_hosts_file_that_cannot_be_read_says_where() -> None:
    with pytest.raises(ValueError, match="line 2"):
        read(SourceKind.HOSTS, "hosts", "10.0.0.1 a\nweb-1 10.0.0.2")


# --- which is which


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("inventory.ini", "", SourceKind.ANSIBLE),
        ("inventory.yml", "", SourceKind.ANSIBLE),
        ("/etc/ansible/hosts", INI, SourceKind.ANSIBLE),
        ("-", YAML, SourceKind.ANSIBLE),
        ("t.csv", "", SourceKind.CSV),
        ("-", CSV, SourceKind.CSV),
        ("/etc/hosts", HOSTS, SourceKind.HOSTS),
        ("~/.ssh/config", CONFIG, SourceKind.SSH_CONFIG),
        ("-", "10.0.0.1 ansible_user=ada", SourceKind.ANSIBLE),
    ],
)
def test_what_a_file_is_is_seen(name: str, text: str, kind: SourceKind) -> None:
    assert guess(name, text) is kind


def test_a_thousand_hosts_are_read_from_one_line() -> None:
    assert len(read(SourceKind.ANSIBLE, "i", "[web]\nweb[0001:1000].example.org").found) == 1000


# --- the console has a reader of its own, in the browser

COMPARE = """
import { entryOf } from "./src/inventory/found.ts";
import { readInventory } from "./src/inventory/read.ts";
const answers = [];
for (const [name, text] of JSON.parse(process.argv.at(-1)))
  try {
    const { found, left } = await readInventory(text, name);
    answers.push({
      found: found.map((one) => [entryOf(one), one.user ?? null, one.key ?? null, one.variables ?? {}]),
      left: left.map((one) => [one.what, one.reason, one.target]),
    });
  } catch (failed) {
    answers.push({ refused: failed.message });
  }
console.log(JSON.stringify(answers));
"""
SAMPLES = [
    ("hosts", INI),
    ("inventory.yml", YAML),
    ("i.json", json.dumps(LISTED)),
    ("config", CONFIG),
    ("t.csv", CSV),
    ("hosts", HOSTS),
    ("hosts", "[web]\nw1:2200\n[2001:db8::1]:22\nr[1:2]-[a:b]\n[all:vars]\nsite = 'a # b' \n"),
    ("hosts", "[all:vars]\nansible_ssh_common_args=-J gate\n[g]\ngate\nw\n"),
    ("hosts", "a ansible_connection=psrp ansible_psrp_protocol=http ansible_psrp_auth=negotiate"),
    ("hosts", "a ansible_connection=winrm ansible_winrm_transport=[kerberos,ntlm]"),
    ("hosts", "a ansible_connection=winrm ansible_winrm_transport=digest"),
    ("config", "Host a\n  Port http\nHost b\n  ProxyJump a\n"),
    ("t.csv", 'name;tags\n"web;1";"a=1|b=2"\nweb-2;oops\n'),
]
REFUSED = [
    ("hosts", "[web]\nweb-1 oops"),
    ("hosts", "[web:vars]\nnothing"),
    ("hosts", "web[9:1]"),
    ("hosts", "[a:children]\nb\n[b:children]\na"),
    ("i.yml", "all:\n  host: {x: }\n"),
    ("i.yml", "all: {hosts: {a: 5}}"),
    ("i.json", json.dumps({"web": {"hosts": ["w1", 2]}})),
    ("config", "Host web-1\n  %%%"),
    ("t.csv", "name,name\na,b"),
    ("t.csv", "a,b\n1,2"),
]


def ours(name: str, text: str) -> dict[str, Any]:
    """Return the parsed inventory in the form of COMPARE."""
    kind = guess(name, text)
    try:
        inventory = read(kind, name, text)
    except ValueError as refused:
        return {"refused": str(refused)}
    return {
        "found": [[one.body(), one.user, one.key, dict(one.variables)] for one in inventory.found],
        "left": [[one.what, one.reason, one.target] for one in inventory.left],
    }


def test_the_console_reads_the_same_of_each() -> None:
    if not (ROOT / "console" / "node_modules").is_dir():
        pytest.skip("the packages of the console are not there: scripts/console build")
    samples = [*SAMPLES, *REFUSED]
    node = str(node_folder() / "bin" / "node")
    done = subprocess.run(
        [node, "--input-type=module-typescript", "-e", COMPARE, "--", json.dumps(samples)],
        cwd=ROOT / "console",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for (name, text), theirs in zip(samples, json.loads(done.stdout), strict=True):
        assert theirs == ours(name, text), text
