# Code of the shell that starts a program from data on standard input. program.py joins its
# sections, as lines.
#
# The code arrives over standard input, too, so quotes need no escaping; but it sets the author's
# variables, so no name is used after that which could be one of them: only positional parameters,
# and names with the prefix OPSJOBS_.
# `@fail CAUSE@` is replaced: in a durable run the cause goes into its record, else it is reported
# in a record of its own.
#
# OPSJOBS_PLACE, a folder of the run's own (0700), contains while the program runs:
#   script.*     the script     stdin   its input     secrets/*   one file (0600) each
#   words        code that a shell would read slowly: variables, arguments, the command
#   e            present if the interpreter could not be started at all

#: place
# $@: the places for the folder, best first.
OPSJOBS_PLACE= OPSJOBS_TERM= OPSJOBS_BASH=${BASH_VERSION:+$BASH}
while [ $# -gt 0 ]; do
  mkdir -m 700 "$1" 2>/dev/null && OPSJOBS_PLACE=$1 && break
  shift
done
[ "$OPSJOBS_PLACE" ] || @fail storage@

#: unpack
# $1: the total number of bytes; then name and size of each part. The bytes arrive over fd 6.
(
  umask 077
  cd "$OPSJOBS_PLACE" || exit 1
  p=p z=$1
  shift
  [ $# = 2 ] && p=$1
  for d; do
    case $d in
      secrets/*) [ -d secrets ] || mkdir secrets || exit 1;;
    esac
  done
  cat >$p || exit 1
  case $(($(wc -c <$p))) in
    $z) ;;
    *) exit 2;;
  esac
  [ $p = p ] || exit 0
  while [ $# -gt 0 ]; do
    case $2 in
      0) : >$1 || exit 1;;
      *) dd bs=$2 count=1 >$1 || exit 1;;
    esac
    shift 2
  done <p
  rm p
) <&6 2>/dev/null
case $? in
  0) ;;
  2) @cut@;;
  *) @fail storage@;;
esac
exec 6<&-

#: guard
# After a KILL of this shell no process in its group is left that could tidy up.
OPSJOBS_GUARD=
if command -v setsid >/dev/null 2>&1; then
  setsid sh -c 'while kill -0 $1; do sleep 1; done; rm -rf "$2"' opsjobs $$ "$OPSJOBS_PLACE" </dev/null >/dev/null 2>&1 &
  OPSJOBS_GUARD=$!
fi

#: open
# The shell waits for the program, for the steps after it: a TERM is for the program to handle. The
# shell would report the signal that ended the program, in the program's output.
exec 9>&2 2>/dev/null
trap OPSJOBS_TERM=1 TERM
(

#: launch
# $@: the interpreter with all its arguments.
case $OPSJOBS_BASH in
  "") trap 'echo >"$OPSJOBS_PLACE/e"' EXIT
    exec "$@";;
  *) exec "$OPSJOBS_BASH" -c 'shopt -s execfail
      OPSJOBS_PLACE=$1
      shift
      exec "$@"
      echo >"$OPSJOBS_PLACE/e"' sh "$OPSJOBS_PLACE" "$@";;
esac

#: close
) 2>&9 9>&-
set -- $?
[ -e "$OPSJOBS_PLACE/e" ] && set -- e

#: tidy
rm -rf "$OPSJOBS_PLACE"
[ "$OPSJOBS_GUARD" ] && kill $OPSJOBS_GUARD

#: leave
case $1 in
  e) exec 2>&9
    @fail interpreter@;;
esac
case $OPSJOBS_TERM$1 in
  1143) trap - TERM EXIT
    kill -TERM $$;;
esac
exit $1
