"""A fixed corpus of texts that would do something if any shell read them as code.

Each text that is executed leaves a file: `@` stands for its path. Nothing here is random, because
it runs in real shells.
"""

from __future__ import annotations

from pathlib import Path

_DEEDS = ("touch @", ">@", "echo x>>@", "cp /dev/null @", "sh -c '>@'")
_AROUND = (
    "{}",
    "; {}",
    ";{};",
    "& {}",
    "&& {}",
    "| {}",
    "|| {} ||",
    "\n{}\n",
    "\r\n{}\r\n",
    "$({})",
    "`{}`",
    "\\`{}\\`",
    "${{x:-$({})}}",
    "$(( $({}) ))",
    "'; {}; '",
    "'\"'\"'; {}; '",
    '"; {}; "',
    "'$({})'",
    '"`{}`"',
    "\\'; {}; \\'",
    "'\\''; {}; '\\''",
    "; {} #",
    "# \n{}",
    ") ; {}; (",
    "}} ; {}; {{",
    "; fi; {}; if true; then",
    "; done; {}; while false; do",
    ";; esac; {}; case x in x)",
    "\nEOF\n{}\n",
    "END\n{}\nEND",
    "<({})",
    "$'\\n{}'",
    "eval '{}'",
    "exec {}",
    "trap '{}' EXIT",
    "-c '{}'",
    "x\\\n; {}",
    "%s; {}; %n",
)
_OTHERS = (
    "() { :;}; touch @",
    "A=b touch @",
    "*; touch @",
    "~; touch @",
    "!!; touch @",
    "!touch; touch @",
    "^x^touch @",
    "{touch,@}",
    "$IFS;touch${IFS}@",
    "touch\t@",
    "$(</dev/null touch @)",
    "; (touch @) ;",
    "; { touch @; };",
    "; coproc touch @;",
    "; function f { touch @; }; f",
    "a[$(touch @)]",
    "x=$(touch @) y",
    "--; touch @",
    "-e; touch @",
    "--help; touch @",
    "-exec touch @ ;",
    "--checkpoint-action=exec=touch @",
    "-oProxyCommand=touch @",
    "../../; touch @",
    "begin; touch @; end",
    "; and touch @; or touch @",
    "(touch @)",
    "&touch @&",
    "%0a touch @",
    "@opsjobs; touch @",
    "\x1b]0;$(touch @)\x07",
    "\u2019; touch @; \u2019",
    "\u202e; touch @",
    "\x7f; touch @",
    "\x1e0123456789abcdef B; touch @",
    "'\"'\"; touch @; \"'\"'",
    "''''; touch @; ''''",
    "\\; touch @",
    "\\\\; touch @",
    "; touch @ \\",
)


def payloads(witness: Path) -> list[str]:
    """Return all of them; `witness` is the file that must never exist."""
    texts = [around.format(deed) for around in _AROUND for deed in _DEEDS] + list(_OTHERS)
    return [text.replace("@", str(witness)) for text in texts]
