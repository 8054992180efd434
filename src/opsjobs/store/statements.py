r"""SQL statements in files next to the module that runs them; text that can be stored.

A file `sql/NAME.sql` can be pasted into psql: parameters and fragments are written as psql
variables. `:'name'` is a parameter of the statement, `:name` a fragment: a constant of the code, or
a piece of SQL that several statements share. To run one by hand, `\set` each of them first, `\set
id 7`.
"""

from __future__ import annotations

import re
from pathlib import Path

_COMMENT = re.compile(r"[ \t]*--[^\n]*")
# Arrays of bytes are sent in binary: psycopg's text form of them costs several times as much.
_PARAMETER = re.compile(r":'(\w+)'(::bytea\[\])?")
_FRAGMENT = re.compile(r"(?<![:\w]):([a-z_]\w*)")


def load_statement(module: str, name: str, **fragments: object) -> str:
    """Return the statement `sql/NAME.sql` next to a module's file, in psycopg's form.

    Comments are left out. Raises ValueError if the fragments in the file differ from the given
    ones.
    """
    path = Path(module).parent / "sql" / f"{name}.sql"
    text = _COMMENT.sub("", path.read_text()).strip().removesuffix(";")
    used = set(_FRAGMENT.findall(_PARAMETER.sub("", text)))
    if used != set(fragments):
        raise ValueError(
            f"{path}: it uses the fragments {sorted(used)}, and was given {sorted(fragments)}"
        )
    text = _PARAMETER.sub(_placeholder, text.replace("%", "%%"))
    return _FRAGMENT.sub(lambda found: str(fragments[found[1]]), text)


def _placeholder(match: re.Match[str]) -> str:
    return f"%({match[1]})b{match[2]}" if match[2] else f"%({match[1]})s"


def storable(text: str, characters: int) -> str:
    r"""Return the text without NUL and lone surrogates, cut to a number of characters.

    >>> storable("a\0b\udc80c", 4)
    'a\ufffdb?'
    """
    return text[:characters].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
