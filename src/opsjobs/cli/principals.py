"""`opsjobs users`, `services`, `tokens` and `login`: identities, their grants and logins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from opsjobs.cli import inputs, options
from opsjobs.cli.client import Client, Json, RequestRefused, connect, is_clear_text, without_token
from opsjobs.cli.endpoint import StoredLogin, TokenStore
from opsjobs.cli.errors import CommandFailed, ExitCode
from opsjobs.cli.inputs import read_password
from opsjobs.cli.messages import tell
from opsjobs.cli.nouns import Noun, add_each, add_list, add_remove, add_show
from opsjobs.cli.render import Column, ago
from opsjobs.model.access import Role


def render_grants(grants: list[Json]) -> str:
    """Return `viewer, operator@env=staging`: roles or permissions with their labels."""
    return ", ".join(
        (grant.get("role") or " ".join(grant.get("permissions") or ()))
        + (f"@{grant['scope']}" if grant.get("scope") else "")
        for grant in grants
    )


_NAME_AND_GRANTS = (
    Column("id", lambda p: p["id"]),
    Column("name", lambda p: p["name"]),
    Column("may", lambda p: render_grants(p["grants"])),
)
_STATE = Column("state", lambda p: "disabled" if p["disabled"] else "enabled")
_UUID = Column("uuid", lambda p: p["uuid"], wide=True)

USER = Noun(
    "user",
    (*_NAME_AND_GRANTS, _STATE, Column("last login", lambda u: ago(u.get("last_login_at"))), _UUID),
)
SERVICE = Noun(
    "service",
    (*_NAME_AND_GRANTS, _STATE, Column("changed", lambda s: s["updated_at"], wide=True), _UUID),
)
TOKEN = Noun(
    "token",
    (
        *_NAME_AND_GRANTS,
        Column("last used", lambda k: ago(k.get("last_used_at"))),
        Column("expires", lambda k: k.get("expires_at") or "never"),
        Column("made by", lambda k: k.get("made_by"), wide=True),
        Column("person", lambda k: k.get("person"), wide=True),
        _UUID,
    ),
    route="api-key",
    refs_help="Names, ids or uuids, not the tokens themselves.",
)

User = Annotated[str, typer.Argument(metavar="USER", help="Name, id or uuid.")]
Service = Annotated[str, typer.Argument(metavar="SERVICE", help="Name, id or uuid.")]

Roles = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        metavar="ROLE[@LABELS]",
        help=(
            "viewer, operator, developer, manager or admin; restricted to labels: "
            "operator@env=staging. May be repeated."
        ),
    ),
]


def parse_grant(text: str) -> Json:
    """Return `operator@env=staging` as a grant of the API."""
    role, scope = _split_scope("--role", text)
    return {"role": role, "scope": scope}


def _split_scope(option: str, text: str) -> tuple[str, str]:
    """Return a role or permission, and its scope. Raises CommandFailed for `operator@`."""
    name, sign, scope = text.partition("@")
    if sign and not scope.strip():
        raise CommandFailed(
            f"{option} {text}: the labels after @ are empty. Name them, or write {name}.",
            ExitCode.USAGE,
        )
    return name, scope


# The fields of a PUT; a user has no public key.
_REPLACED = ("name", "public_key", "grants", "disabled")


def _replace(client: Client, noun: Noun, found: Json, changes: Json) -> Json:
    """Change these fields of a user or a service, keep its others, and return it."""
    kept: Json = {name: found[name] for name in _REPLACED if name in found}
    changed: Json = client.put(noun.path(found), {**kept, **changes})
    return changed


def _post(noun: Noun, verb: str) -> Callable[[Client, Json], object]:
    return lambda client, found: client.post(f"{noun.path(found)}/{verb}")


def _set_disabled(noun: Noun, *, disabled: bool) -> Callable[[Client, Json], object]:
    return lambda client, found: _replace(client, noun, found, {"disabled": disabled})


# --- users


users = typer.Typer(help="Users: people who can log in, and their roles.", no_args_is_help=True)

add_list(users, USER, "List users and their roles.")
add_show(users, USER, "Show one user.")


@users.command("add")
def add_user(
    name: Annotated[str, typer.Argument(help="The name to log in with.")],
    *,
    role: Roles = None,
    reuse_name: options.ReuseName = False,
) -> None:
    """Add a user. Without --role it is a viewer.

    Prompts for the password twice, or reads it from the first line of standard input.
    """
    body: Json = {"name": name, "grants": [parse_grant(one) for one in role or ["viewer"]]}
    if reuse_name:
        body["reuse_name"] = True
    body["password"] = read_password(f"Password for {name}", twice=True)
    with connect() as client:
        made = client.post("/users", body)
    print(made["id"])
    tell(f"user {name} may: {render_grants(made['grants'])}")


@users.command("set")
def set_roles(user: User, role: Roles = None) -> None:
    """Replace all roles of a user. Takes effect at once."""
    if not role:
        raise CommandFailed(
            "no role is given. Use --role, such as --role operator@env=staging.", ExitCode.USAGE
        )
    with connect() as client:
        grants = [parse_grant(one) for one in role]
        changed = _replace(client, USER, USER.find(client, user), {"grants": grants})
    tell(f"user {changed['name']} may: {render_grants(changed['grants'])}")


@users.command("passwd")
def change_password(
    user: Annotated[
        str | None, typer.Argument(metavar="USER", help="The user (default: yourself).")
    ] = None,
) -> None:
    """Change a password; all logins of that user end.

    For your own, it asks for the current one first. On standard input, give one per line.
    """
    with connect() as client:
        if user is None:
            passwords = {
                "current_password": read_password("Your current password"),
                "password": read_password("New password", twice=True),
            }
            client.once("/auth/password", passwords)
            tell("your password is changed. Log in again")
            return
        found = USER.find(client, user)
        password = read_password(f"Password for {found['name']}", twice=True)
        _replace(client, USER, found, {"password": password})
    tell(f"the password of {found['name']} is changed, and all logins with the old one have ended")


add_each(
    users,
    USER,
    "Disable users: their logins end at once.\n\n"
    "Their tokens are refused until they are enabled again.",
    _post(USER, "disable"),
    verb="disable",
    done="disabled",
)
add_each(users, USER, "Enable users again.", _post(USER, "enable"), verb="enable", done="enabled")
add_remove(users, USER, "Remove users, with their logins and their tokens.")


# --- services


services = typer.Typer(
    help="Services: programs that sign their own tokens, and their roles.", no_args_is_help=True
)

KEY_CHARACTERS_MAX = 16_384  # the limit of the API
KEY_HELP = "A file with its public key (PEM); - is standard input."
Permissions = Annotated[
    list[str] | None,
    typer.Option(
        "--permission",
        metavar="PERMISSION[@LABELS]",
        help="A permission, such as jobs:read; labels as with --role. May be repeated.",
    ),
]

add_list(services, SERVICE, "List services and their grants.")
add_show(services, SERVICE, "Show one service, with its public key.")


@services.command("add")
def add_service(
    name: Annotated[str, typer.Argument(help="Its client id: `iss` and `sub` of its tokens.")],
    *,
    key: Annotated[str, typer.Option(metavar="FILE", help=KEY_HELP)],
    role: Roles = None,
    permission: Permissions = None,
    reuse_name: options.ReuseName = False,
) -> None:
    """Register a service, so that tokens that it signs are accepted.

    Without --role or --permission it is a viewer.
    """
    body: Json = {
        "name": name,
        "public_key": _public_key(key),
        "grants": _grants(role, permission) or [parse_grant("viewer")],
    }
    if reuse_name:
        body["reuse_name"] = True
    with connect() as client:
        made = client.post("/services", body)
    print(made["id"])
    tell(f"service {name} may: {render_grants(made['grants'])}")


@services.command("set")
def set_service(
    service: Service,
    *,
    key: Annotated[str | None, typer.Option(metavar="FILE", help=KEY_HELP)] = None,
    role: Roles = None,
    permission: Permissions = None,
) -> None:
    """Replace a service's key, or all of its grants. Takes effect at once."""
    grants = _grants(role, permission)
    changes: Json = {"grants": grants} if grants else {}
    if key is not None:
        changes["public_key"] = _public_key(key)
    if not changes:
        raise CommandFailed("nothing to change. Use --key, --role or --permission.", ExitCode.USAGE)
    with connect() as client:
        changed = _replace(client, SERVICE, SERVICE.find(client, service), changes)
    tell(f"service {changed['name']} may: {render_grants(changed['grants'])}")


add_each(
    services,
    SERVICE,
    "Disable services: their tokens are refused until they are enabled again.",
    _set_disabled(SERVICE, disabled=True),
    verb="disable",
    done="disabled",
)
add_each(
    services,
    SERVICE,
    "Enable services again.",
    _set_disabled(SERVICE, disabled=False),
    verb="enable",
    done="enabled",
)
add_remove(services, SERVICE, "Remove services: from now on their tokens are refused.")


def _grants(roles: list[str] | None, permissions: list[str] | None) -> list[Json]:
    """Return a grant for each role, and one for the permissions of each scope."""
    by_scope: dict[str, list[str]] = {}
    for text in permissions or ():
        permission, scope = _split_scope("--permission", text)
        by_scope.setdefault(scope, []).append(permission)
    return [parse_grant(role) for role in roles or ()] + [
        {"permissions": given, "scope": scope} for scope, given in by_scope.items()
    ]


def _public_key(file: str) -> str:
    """Return the text of the file. Raises CommandFailed.

    It must be readable, and must not be a private key.
    """
    text = inputs.read_text(file, KEY_CHARACTERS_MAX)
    if "PRIVATE KEY-----" in text:
        raise CommandFailed(
            "--key: this is a private key. Keep it secret, and extract the public key with "
            "`openssl pkey -in FILE -pubout`.",
            ExitCode.USAGE,
        )
    if not text.strip():
        raise CommandFailed("--key: give a public key in PEM form.", ExitCode.USAGE)
    return text


# --- tokens


tokens = typer.Typer(help="Tokens: add, list and remove API keys.", no_args_is_help=True)


@tokens.command("add")
def add_token(
    name: Annotated[str, typer.Argument(help="The name, such as ada or deploy-bot.")],
    *,
    role: Annotated[
        Role | None,
        typer.Option(help="Its role (default: operator, unless --permission is given)."),
    ] = None,
    permission: Annotated[
        list[str] | None,
        typer.Option(
            "--permission",
            metavar="PERMISSION",
            help="A permission, such as jobs:read, instead of a role. May be repeated.",
        ),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(metavar="LABELS", help="Restrict it to these labels, such as env=staging."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="When it expires: in 30d, or at a time such as 2027-01-31T00:00:00Z.",
        ),
    ] = None,
    person: Annotated[
        str | None,
        typer.Option(metavar="USER", help="The user who will hold it (default: its creator)."),
    ] = None,
    reuse_name: options.ReuseName = False,
) -> None:
    """Add a token and print it. It is shown only once: only its hash is stored."""
    if role is not None and permission:
        raise CommandFailed("--role and --permission exclude each other.", ExitCode.USAGE)
    if scope is not None and not scope.strip():
        raise options.names_nothing("--scope")
    body: Json = {"name": name, "scope": scope or ""}
    body |= (
        {"permissions": options.split(permission)}
        if permission
        else {"role": role or Role.OPERATOR}
    )
    if person is not None:
        body["person"] = person
    if reuse_name:
        body["reuse_name"] = True
    if expires is not None:
        body["expires_at"] = options.expiry("--expires", expires)
    with connect() as client:
        made = client.post("/api-keys", body)
    print(made["token"])
    tell(
        f"token {name} is added ({render_grants(made['grants'])}). It is shown only now; "
        "use it in OPSJOBS_TOKEN or `Authorization: Bearer …`"
    )


add_list(tokens, TOKEN, "List tokens by name. The tokens themselves are not stored.")
add_remove(tokens, TOKEN, "Remove tokens: from now on they are refused.")


# --- login


def login(
    username: Annotated[str, typer.Argument(help="Your user name at the service.")],
) -> None:
    """Log in; later commands run as this user.

    Prompts for the password, or reads it from the first line of standard input. The login is stored
    in your configuration folder, readable only by you, and renews itself until it ends or you log
    out. OPSJOBS_TOKEN takes precedence over it.
    """
    with without_token() as client:
        url = client.endpoint.url
        if is_clear_text(url):
            tell(f"warning: {url} is not https: the password is sent in clear text")
        body = {"username": username, "password": read_password(f"Password of {username}")}
        tokens = client.once("/auth/login", body)
    logins = TokenStore()
    with logins.lock():
        logins.keep(url, StoredLogin.of_answer(username, tokens))
    tell(f"logged in at {url} as {username}")


def logout() -> None:
    """Log out: end the login at the service and delete it here."""
    logins = TokenStore()
    with connect(as_login=True) as client:
        url = client.endpoint.url
        if logins.get(url) is None:
            raise CommandFailed(f"not logged in at {url}.", ExitCode.NOT_FOUND)
        try:
            client.once("/auth/logout", {})
        except RequestRefused as refused:
            if refused.status != 401:  # the login has already ended there
                raise
    with logins.lock():
        logins.forget(url)
    tell(f"logged out at {url}")
