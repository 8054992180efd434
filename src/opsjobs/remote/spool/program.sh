# What the shell that starts a program does with what came over standard input. program.py joins sections of it, as lines.
#
# It comes over standard input itself, so quotes are free; but the author's variables are set by it, so no name is used after
# that which could be one of them: only positional parameters, and names that begin with OPSJOBS_.
# `@fail CAUSE@` is replaced: in a durable run the cause goes into its record, else a record of its own tells of it.
#
# OPSJOBS_PLACE, a folder of the run's own (0700), holds while it runs:
#   script.*     the script     stdin   its input     secrets/*   one file (0600) each
#   words        what would be long to read for a shell: variables, arguments, the command
#   e            the interpreter could not be started at all

#: place
# $@: where the folder may be made, best place first.
OPSJOBS_PLACE= OPSJOBS_TERM= OPSJOBS_BASH=${BASH_VERSION:+$BASH}
while [ $# -gt 0 ]; do
  mkdir -m 700 "$1" 2>/dev/null && OPSJOBS_PLACE=$1 && break
  shift
done
[ "$OPSJOBS_PLACE" ] || @fail storage@

#: unpack
# $1 how many bytes there are in all; then name and size of each part. They come over fd 6.
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
# Who kills this shell by KILL leaves nobody in its group who could tidy up.
OPSJOBS_GUARD=
if command -v setsid >/dev/null 2>&1; then
  setsid sh -c 'while kill -0 $1; do sleep 1; done; rm -rf "$2"' opsjobs $$ "$OPSJOBS_PLACE" </dev/null >/dev/null 2>&1 &
  OPSJOBS_GUARD=$!
fi

#: open
# The shell stays behind the program, for what comes after it: a TERM is the program's to hear. It would tell of the signal
# that ended the program, in its output.
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
