"""Two hundred values that touch the file that WITNESS names if anything reads them as code."""

from __future__ import annotations

_DO = "touch $WITNESS"

# Ways for a value to escape from its context; %s is the code that it then runs.
_OUT = (
    "; %s", "& %s", "&& %s", "| %s", "|| %s", "\n%s\n", "\r\n%s", "`%s`", "$(%s)", "$( %s )", "${x:-$(%s)}", "$(($(%s)))",
    "' ; %s ; '", "'; %s #", "' && %s && '", "'$(%s)'", "'`%s`'", "'\n%s\n'", "''; %s; ''", "'\\''; %s; '\\''", "\\'; %s; \\'",
    "\\\\'; %s; #", "'\\; %s; #", "'\"'; %s; '\"'", "\"; %s; \"", "\"; %s #", "\" && %s && \"", "\"$(%s)\"", "\"`%s`\"", "\"\n%s\n\"",
    "\\\"; %s; \\\"", "\\\\\"; %s; #", "); %s; (", ")); %s; ((", "}; %s; {", "]; %s; [", "]]; %s; [[", "fi; %s", "done; %s", "esac; %s",
    "; %s #", "\t; %s", " ;%s", ";%s;", "<(%s)", ">(%s)", "<<EOF\n$(%s)\nEOF", "EOF\n%s\n", "$'; %s; '", "$'\\'; %s; #'",
    "$\"; %s; \"", "-e '%s'", "--; %s", "-- $(%s)", "a=b; %s", "x[$(%s)]", "a[`%s`]=1", "!; %s", "!%s", "^x^%s",
    "~; %s", "*; %s", "?; %s", "{a,$(%s)}", "{a,b}; %s", "%% ; %s", "$IFS; %s", "${IFS}%s", "$@; %s", "$*; %s",
    "\x01; %s", "\x7f; %s", "\x1b]0;%s\x07", "\x0b%s", "\x0c; %s", "\u2028%s", "\u0085; %s", "\u00a0; %s", "\ufeff; %s", "é; %s",
    "\u2018; %s; \u2019", "\u201c; %s; \u201d", "\uff07; %s; \uff07", "\uff1b%s", "\\n%s", "\\x27; %s; #", "\\047; %s; #", "\\u0027; %s; #",
    "&#39;; %s; #", "%%27; %s; #",
)  # fmt: skip

# Code other than a plain touch.
_DOING = (
    "touch $WITNESS", "touch ${WITNESS}", "touch \"$WITNESS\"", "touch '$WITNESS' $WITNESS", "t''ouch $WITNESS", "\\touch $WITNESS",
    "/usr/bin/touch $WITNESS", "/bin/touch $WITNESS", "command touch $WITNESS", "exec touch $WITNESS", "eval touch $WITNESS",
    "eval 'touch $WITNESS'", ": > $WITNESS", ">$WITNESS", ">>$WITNESS", "echo x>$WITNESS", "echo x | tee $WITNESS",
    "cp /etc/passwd $WITNESS", "ln -s x $WITNESS", "mkdir $WITNESS", "dd if=/dev/null of=$WITNESS", "sh -c 'touch $WITNESS'",
    "sh -c \"touch $WITNESS\"", "env sh -c 'touch $WITNESS'", "printf x > $WITNESS", "touch$IFS$WITNESS", "touch${IFS}$WITNESS",
    "{ touch $WITNESS; }", "(touch $WITNESS)", "if true; then touch $WITNESS; fi", "for i in 1; do touch $WITNESS; done",
    "while touch $WITNESS; do break; done", "case a in a) touch $WITNESS;; esac", "f() { touch $WITNESS; }; f",
    "trap 'touch $WITNESS' EXIT", "set -- touch $WITNESS; $1 $2", "a=touch; $a $WITNESS", "a='touch $WITNESS'; $a",
    "true && touch $WITNESS", "false || touch $WITNESS", "touch $WITNESS &", "time touch $WITNESS", "! touch $WITNESS",
    "x=$(touch $WITNESS)", "x=`touch $WITNESS`", "cat <<E\n$(touch $WITNESS)\nE", ". /dev/stdin <<E\ntouch $WITNESS\nE",
    "touch -- $WITNESS", "touch -a $WITNESS", "touch\t$WITNESS", "touch \\\n$WITNESS", "$(echo touch) $WITNESS", "`echo touch` $WITNESS",
    "echo $(touch $WITNESS)", "test -z \"$(touch $WITNESS)\"", "[ -z \"$(touch $WITNESS)\" ]",
)  # fmt: skip

# Odd values without code: they have to arrive unchanged.
_ODD = (
    "", " ", "  a  b  ", "\t", "\n", "\n\n", "a\nb", "a\r\nb\r\n", "'", "''", "'''", '"', '""', "\\", "\\\\", "\\'", "'\\", "a\\", "\\n", "`",
    "$", "$$", "$x", "${x}", "${name}", "$HOME", "$(", ")", "*", "?", "[a-z]", "~", "~root", "#", "# x", "!", "!!", "-", "--", "-n", "-e",
    "a b", "a;b", "%s", "%n", "%PATH%", "^", "&", "|", "<", ">", "{}", "{a,b}", "=",
)  # fmt: skip

HOSTILE: tuple[str, ...] = (
    *(way.replace("%s", _DO).replace("%%", "%") for way in _OUT),
    *(f"'; {one}; '" for one in _DOING),
    *_ODD,
)
