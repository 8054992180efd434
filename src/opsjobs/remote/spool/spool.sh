# The spool: durable runs on the target, in plain POSIX sh. script.py joins sections of it into ONE line for `sh -c`.
#
# So: no single quote (but in `command`, `become` and `turn`, which are an argument of their own, and in `run_awaited`, which
# only a plain login shell is given), no backslash, an exclamation mark only before a blank (csh), and comments on lines of
# their own. Processes are what costs here: on the way
# of a short run nothing is started but the command and its watchdog; whatever a builtin can do (read, printf, echo, kill,
# [), a builtin does.
#
# Files of a run, in ~/.opsjobs/runs (0700), each named <key>.<letter>:
#   x    the record, and the judge of "at most once": created exclusively by whoever may start the run. Three lines:
#          the end: 9 blanks, overwritten in place by `0.`, `s15.` (signal 15), or `n.` (never began, never will)
#          the cause: 13 blanks, overwritten in place by `timeout`, `output_limit`, `cancel` or `disk_full`
#          `<protocol version> <digest of what runs> <pid>.<its start time>.<boot id>` of the keeper, who waits for the end
#        Overwriting takes no room: an end is recorded on a full disk, too.
#   v    void: the run may not begin. Who starts creates x and then looks for v; who voids creates v and then looks into x:
#        one of the two sees the other, whatever happens in between.
#   1 2  the output.      g  the command's process group, where it is not the keeper's
#   e    it ended with a status over 128 by itself, not by a signal.      f  somebody follows it live
#   p    a long command, until its shell has opened it.      q  empty; it was written to find out if the disk is full
#   s    a folder with a program's script, input and secrets (program.sh), until it ends; where there are secrets and memory
#        that is a file system, it is /dev/shm/opsjobs.<key>
#
# Every answer is a record: a nonce that only this channel knows (from its standard input), a word, its values, a newline.
# `N 1` and `N 2` are followed by bytes of that output stream, up to the next record.

#: names
# Whose standard input is cut off before this has done nothing.
IFS= read -r N || exit
n=${IFS#??}

#: boot
b=
{ read -r b </proc/sys/kernel/random/boot_id; } 2>/dev/null ||
  b=$(sysctl -n kern.bootsessionuuid || sysctl -n kern.boot_id || sysctl -n kern.boottime | tr -dc 0-9) 2>/dev/null

#: machine
# h: this machine, by the names that it gives itself.
h= j=
{ read -r h </proc/sys/kernel/hostname; read -r j </etc/machine-id; } 2>/dev/null
h=$h.$j

#: clock
# c: now, in hundredths of a second.
clock() {
  c=
  { read -r c j </proc/uptime; } 2>/dev/null && c=${c%.*}${c#*.} || c=$(date +%s)00
}
# Sleep so many hundredths of a second, at most one second; a whole one where sleep knows no fractions.
nap() {
  case $1 in
    ?) sleep 0.0$1;;
    ??) sleep 0.$1;;
    *) sleep 1;;
  esac 2>/dev/null || sleep 1
}

#: born
# s: when process $1 was started; false where it is gone or a zombie.
born() {
  if [ -r /proc/self/stat ]; then
    { read -r s </proc/$1/stat; } 2>/dev/null || return 1
    set -- ${s##*) }
    case $1 in
      Z|X) return 1;;
    esac
    s=${20}
  else
    set -- $(ps -o stat= -o lstart= -p $1 2>/dev/null)
    case $1 in
      ""|Z*) return 1;;
    esac
    shift
    s=
    for j; do
      s=$s$j
    done
  fi
}

#: look
# st: how run $K stands. N nothing is known, V void, E its record is still empty, L it lives, D done (r how, t cause), G gone.
look() {
  st=
  for k in 1 2; do
    r= t= ver= dig= id=
    { read -r r; read -r t; read -r ver dig id; } 2>/dev/null <$K.x
    case $r in
      n.) st=V r=;;
      *.) st=D r=${r%.};;
    esac
    case $st$id in
      "") if [ -e $K.v ]; then
          st=V
        elif [ -e $K.x ]; then
          st=E
        else
          st=N
        fi;;
    esac
    case $st in
      ?*) return;;
    esac
    # A keeper that is not alive may have ended since its record was read: read it once more.
    case $k.${id##*.} in
      1.$b) born ${id%%.*} && case $id in
          *.$s.$b) st=L
            return;;
        esac;;
    esac
  done
  st=G
}

#: tidy
# Removes what a program was given as files. j: a name of this section alone.
tidy() {
  for j in $K.s /dev/shm/opsjobs.$K; do
    [ -O $j ] && rm -rf $j
  done
}

#: hello
# $1 a token for a store that is new here. Checks what we need, finds or makes the folder, tells the identity.
m=
for t in cat chmod date dd grep id ln mkdir mv rm sleep wc; do
  command -v $t >/dev/null 2>&1 || m="$m $t"
done
# A ps that does not list this shell (it needs /proc, too) lists nothing that counts.
[ -r /proc/self/stat ] || [ "$(ps -o pid= -p $$ 2>/dev/null)" ] || m="$m ps"
kill -0 -$$ 2>/dev/null || command -v setsid >/dev/null 2>&1 || m="$m setsid"
case $b in
  "") m="$m boot_id";;
esac
case $m in
  ?*) echo "$N M$m"
    exit;;
esac
u=$(id -u)
umask 077
for d in "$HOME/.opsjobs" /var/tmp/opsjobs-$u; do
  mkdir "$d"
  case $d in
    /var/tmp/opsjobs-$u) [ -h "$d" ] && continue
      [ -O "$d" ] && chmod 700 "$d";;
  esac
  [ -O "$d" ] && cd "$d" || continue
  mkdir runs
  chmod 700 runs
  w=
  { w=0; echo $1 && w=1; } >runs/t.$$
  case $w in
    1) [ -s id ] || ln runs/t.$$ id || [ -s id ] || mv -f runs/t.$$ id;;
  esac
  rm -f runs/t.$$
  case $w in
    1) ;;
    *) continue;;
  esac
  i=
  read -r i <id
  # Below the token stand the boots that were told, and of which machine each one was: a home may move to another.
  case $h in
    ?*.*) grep -qsxF "$b $h" id || [ $(($(wc -l <id))) -gt 999 ] || echo "$b $h" >>id;;
  esac
  case $d in
    /var/tmp/opsjobs-$u) i=$i@$u;;
  esac
  echo "$N I $i $b"
  exit
done 2>/dev/null
echo "$N X"

#: payload
# A short command is read here. What is left of standard input then ends when somebody follows the run, or is gone: until
# that the watchdog waits for nothing else, which costs no process.
unset p u
o=$IFS IFS= p= u= l=
read -r u
while read -r l; do
  case $l in
    "$u") break;;
  esac
  p=$p$l$n
done
IFS=$o
case $u in
  "") exit;;
  "$l") ;;
  *) exit;;
esac
exec 5<&0

#: start
# $1 what the command's own shell does, $2 key, $3 store, $4 boot, $5 digest, $6 timeout and $7 grace in hundredths of a
# second, $8 the limit of each output file in bytes, $9 the folder where it is not in the home.
R=$1 K=$2 D=$5 T=$6 G=$7 L=$8 i=
cd "${9:-$HOME/.opsjobs/runs}" 2>/dev/null && read -r i <../id

#: boot_linux
b=
read -r b </proc/sys/kernel/random/boot_id

#: match
case $i.$b in
  $3.$4) ;;
  *) echo "$N I"
    exit;;
esac

#: born_linux
read -r s </proc/$$/stat
set -- ${s##*) }
s=${20}

#: born_elsewhere
born $$

#: judge
# The command gets a process group of its own where the keeper leads none.
m=
kill -0 -$$ 2>/dev/null || {
  m=setsid
  command -v setsid >/dev/null 2>&1 || { echo "$N M setsid"; exit; }
}
w=
set -C
{ w=0; printf "         $n             ${n}1 $D $$.$s.$b$n" && w=1; } 2>/dev/null >$K.x
set +C
case $w in
  1) ;;
  *) [ "$w" ] && rm -f $K.x
    if [ -e $K.x ]; then
      echo "$N S"
    else
      echo "$N F"
    fi
    exit;;
esac
# Handled, not ignored: what is ignored here would be ignored by the command, too.
trap : HUP INT QUIT TERM PIPE USR1 USR2 ALRM
{

#: watch
# The watchdog. It is of the keeper's group, and dies with it when it kills what does not heed TERM: so it records first.
{
  trap : HUP INT QUIT TERM PIPE USR1 USR2 ALRM
  t=timeout a=0
  clock
  e=$((c+T))

#: watch_awaited
  trap : URG
  read -r j <&5
  exec 5<&-
  clock

#: watch_loop
  while d=$((e-c)); [ $d -gt 0 ]; do
    nap $d
    # Without its keeper it stays as long as anything of the run does.
    kill -0 $$ || if [ -r /proc/self/environ ]; then
      grep -qsF "OPSJOBS_RUN=$K" /proc/[0-9]*/environ
    fi ||

#: watch_leave
      exit

#: watch_leave_tidy
      { tidy; exit; }

#: watch_on
    # The position of the files that we opened for the command costs nothing to read. Who opens them anew has one of its
    # own: so now and then the files themselves are asked.
    y= z= a=$((a+1))
    case $a in
      5) a=0;;
      *) read -r j y </proc/$$/fdinfo/7
        read -r j z </proc/$$/fdinfo/8;;
    esac
    case $y.$z in
      ?*.?*) ;;
      *) set -- $(wc -c $K.1 $K.2)
        y=$1 z=$3;;
    esac
    if [ $y -gt $L ] || [ $z -gt $L ]; then
      t=output_limit
      break
    fi
    clock
  done
  read -r r <$K.x
  case $r in
    ?*) exit;;
  esac
  { read -r r <&3; printf $t >&3; } 3<>$K.x
  g=$$
  [ -s $K.g ] && read -r g <$K.g
  kill -TERM -$g
  clock
  e=$((c+G))
  while d=$((e-c)); [ $d -gt 0 ]; do
    nap $d
    clock
  done

#: tidied
tidy

#: watch_end
  printf s9. 1<>$K.x
  kill -KILL -$g
} </dev/null >/dev/null 2>&1 7>&- 8>&- & w=$! j=

#: begin
if [ -e $K.v ]; then
  printf n. 1<>$K.x
  kill -KILL $w
  echo "$N V"
  exit
fi

#: say
# A dot: a shell that keeps here-documents in files, or may.
z=.
eval "[ -p /dev/stdin ] <<x${n}x$n" 2>/dev/null && z=
echo "$N B $SHELL${z:+ .}${BASH_VERSION:+ .}"

#: say_awaited
echo "$N B $SHELL"

#: run
# It takes its output files itself: were they redirected here, dash would tell them of the signal that ended the command.
OPSJOBS_RUN=$K $m sh -c "$R" sh $m
r=$?

#: run_awaited
# The same, with what was read in a here-document. Its end is quoted: nothing in the command is expanded.
eval 'OPSJOBS_RUN=$K $m sh -c "$R" sh $m 5<&- <<""x'"$u$n$u$n$p$u${n}x$u$n"
r=$?

#: ended
q= t= y=0 z=0
{ read -r q; read -r t; } <$K.x
# A status over 128 is a signal, unless the command's shell said that it is not. bash cannot tell: its status is left as it is,
# but where somebody of ours had a reason to end the command.
case $r in
  129|1[3-8]?|19[0-2]) case ${BASH_VERSION:+b}${t:+t} in
      b) ;;
      *) [ -e $K.e ] || r=s$((r-128));;
    esac;;
esac
# How much was written is the position of the files that we opened for the command, where the system shows it.
[ -s $K.1 ] && { read -r j y </proc/$$/fdinfo/7 || y=$(($(wc -c <$K.1))); } 2>/dev/null
[ -s $K.2 ] && { read -r j z </proc/$$/fdinfo/8 || z=$(($(wc -c <$K.2))); } 2>/dev/null
# Output that a full disk did not take ends with a whole block, or the command failed of it. Then a block is asked for.
[ "$q$t" ] || case $r.$((y>0&y%1024==0|z>0&z%1024==0)) in
  0.0) ;;
  *) printf %4096s . >$K.q || {
      t=disk_full
      { read -r j <&3; printf $t >&3; } 3<>$K.x
    }
    : >$K.q;;
esac 2>/dev/null
case $q in
  "") printf %s. $r 1<>$K.x;;
  *) r=${q%.};;
esac
# Its watchdog, if that is still our child: once it was killed and collected, its id may be a stranger's.
s=") - $$"
[ -r /proc/$$/stat ] && s= && read -r s 2>/dev/null </proc/$w/stat
set -- ${s##*) }
case $2 in
  $$) kill -KILL $w;;
esac
# A little output is handed over by builtins. They drop NUL bytes, which the size betrays: then it is read again.
hand() {
  case $2 in
    0) ;;
    ?|??|???) o="$o$N $1 $2$n"
      while read -r l; do
        o=$o$l$n
      done
      o=$o$l;;
    *) printf %s "$o$N $1$n"
      o=
      cat;;
  esac
}
o= IFS=
if [ -e $K.f ]; then
  :
else
  hand 1 $y <$K.1
  hand 2 $z <$K.2
fi
printf %s "$o$N E $r ${t:--} $y $z$n"
exit

#: refuse
} 7>>$K.1 8>>$K.2
printf n. 1<>$K.x
echo "$N F"

#: command
# What the command's own shell does: read the command from standard input, up to the line that ends it, then become it.
n=${IFS#??} o=$IFS IFS= c= l= t=
read -r t
while read -r l; do
  case $l in
    "$t") break;;
  esac
  c=$c$n$l
done
case $t in
  "$l") ;;
  *) t=;;
esac
IFS=$o

#: command_long
# The same for a long command: by way of a file, which its own first words remove.
n= o= l= t=
read -r t
read -r l
cat >$OPSJOBS_RUN.p
case $(($(wc -c <$OPSJOBS_RUN.p))) in
  "$l") ;;
  *) rm -f $OPSJOBS_RUN.p
    t=;;
esac
c=' . "$OPSJOBS_SPOOL.p"'

#: become
case $t in
  "") printf n. 1<>$OPSJOBS_RUN.x
    exit;;
esac
case $1 in
  ?*) echo $$ >$OPSJOBS_RUN.g;;
esac

#: deaf
exec </dev/null >&7 2>&8 7>&- 8>&-

#: hearing
# What else comes over standard input is for the shell that starts a program.
exec 6<&0 </dev/null >&7 2>&8 7>&- 8>&-

#: turn
OPSJOBS_SPOOL=$PWD/$OPSJOBS_RUN
case $BASH_VERSION in
  "") trap 'case $? in 129|1[3-8]?|19[0-2]) echo >"$OPSJOBS_SPOOL.e";; esac' EXIT;;
esac
cd 2>/dev/null
eval "set --; unset n o l t c OLDPWD;${c#?}"

#: direct
# The words of a program that lives and dies with this channel. Without the last one it does nothing.
case $t in
  "") exit 1;;
esac
eval "set --; unset n o l t c N OLDPWD; ${c#?}"

#: ground
# Into the folder of the store $3, which must be ours. $1 key, $2 digest, $4 boot, $5 $6 offsets, $7 the folder where it is
# not in the home.
K=$1 i=
cd "${7:-$HOME/.opsjobs/runs}" 2>/dev/null && read -r i <../id
case $i in
  $3) ;;
  *) echo "$N I"
    exit;;
esac

#: attach
look
# A record that stays empty is of somebody who died over its first byte, or is about to write: a void makes it certain.
a=0
while [ $st = E ]; do
  case $a in
    40) echo >$K.v;;
    80) break;;
  esac
  nap 5
  a=$((a+1))
  look
done
# After a reboot nothing but an end counts: the record of a start may be lost. But what was sent since then is not: so it is told
# since when this machine is up, by the age of its first process (a container is younger than its host), if it is the same one.
y=
case $b.$st in
  $4.*|*.D) ;;
  *.[NV]) [ -r /proc/uptime ] && grep -qsxF "$4 $h" ../id && born 1 && {
      read -r y j </proc/uptime
      y=$((${y%.*}-s/100))
    }
    case $y in
      [1-9]*) ;;
      *) st=G;;
    esac;;
  *) st=G;;
esac
case $ver in
  ""|1) ;;
  *) echo "$N P $ver"
    exit;;
esac
case $dig in
  ""|$2) ;;
  *) echo "$N O"
    exit;;
esac
echo "$N A $st $y"
case $st in
  [NVEG]) exit;;
  # Its watchdog may still wait for the one who started it: he may be gone in a way that sshd has not noticed. Of what the
  # keeper has started it is the one without the mark; who has it not yet does not heed this signal.
  L) p=${id%%.*} w=
    if read -r w </proc/$p/task/$p/children; then
      for j in $w; do
        grep -qsF "OPSJOBS_RUN=$K" /proc/$j/environ || kill -URG $j
      done
    else
      kill -URG -$p
    fi;;
esac 2>/dev/null
# Reads on from where the last one stopped: the open file keeps the position. q: 1 where there was something.
# Where the one who reads is killed, nobody knows the position but who was given the bytes: so all of this ends.
pump() {
  m=$(dd bs=65536 count=16 2>&1 >&5) || exit
  case $m in
    0+0*) ;;
    *) q=1;;
  esac
}
exec 5>&1
d=5 o=1
while :; do
  if [ $o ] && [ -e $K.2 ]; then
    o=
    exec 3<$K.1 4<$K.2
    case $5 in
      0) ;;
      *) dd bs=1 skip=$5 count=0 <&3 || exit;;
    esac
    case $6 in
      0) ;;
      *) dd bs=1 skip=$6 count=0 <&4 || exit;;
    esac
  fi 2>/dev/null
  case $st in
    L) ;;
    *) break;;
  esac
  q=
  case $o in
    1) echo "$N .";;
    *) echo "$N 1"
      pump <&3
      echo "$N 2"
      pump <&4;;
  esac
  case $q in
    1) d=5;;
    *) nap $d
      case $d in
        5) d=10;;
        10) d=30;;
        *) d=100;;
      esac;;
  esac
  look
done
case $o in
  1) ;;
  *) echo "$N 1"
    cat <&3 || exit
    echo "$N 2"
    cat <&4 || exit;;
esac
echo "$N $st ${r:--} ${t:--}"

#: follow
# $1 key, $2 $3 offsets, $4 the folder where it is not in the home. Until standard input ends: no tail outlives its channel.
K=$1
cd "${4:-$HOME/.opsjobs/runs}" 2>/dev/null && command -v tail >/dev/null 2>&1 || exit
echo >$K.f
# What the shell itself complains of is nobody's output.
exec 9>&2 2>/dev/null
echo "$N 1"
echo "$N 2" >&9
tail -c +$(($2+1)) -f $K.1 9>&- & j=$! k=
tail -c +$(($3+1)) -f $K.2 >&9 9>&- & k=$! t=
read -r t
kill $j $k

#: hunt
# v: the living processes of run $K, by its mark in their environment; of a live run by its group and session $g as well.
# h: their groups. u: those that a signal to the group does not reach. The keeper $p is not among them. z: set if the list of
# processes is complete. It is not if the machine hides those of other users (hidepid), or if ps does not list this shell.
spot() {
  { read -r s </proc/$1/stat; } 2>/dev/null || return
  j=$1
  set -- ${s##*) }
  case $1.$j in
    [ZX].*|*.$p) return;;
  esac
  case $q.$g in
    1.*|.$3|.$4) ;;
    *) return;;
  esac
  v="$v $j" h="$h -$3"
  case $3 in
    $g) ;;
    *) u="$u $j";;
  esac
}
hunt() {
  v= h= u= z=
  if [ -r /proc/self/stat ]; then
    [ -r /proc/1/stat ] && z=1
    # Attempt 1 is not attempt 10, and a dot is a dot.
    q=1 e=${K#*.}
    for e in $(grep -lsE "OPSJOBS_RUN=${K%%.*}[.]${e%.*}[.]${K##*.}($|[^0-9])" /proc/[0-9]*/environ); do
      e=${e%/*}
      spot ${e##*/}
    done
    q=
    case $g in
      ?*) for e in $(grep -lsE "[)] [^ZX] [0-9]+ ($g [0-9]+|[0-9]+ $g) " /proc/[0-9]*/stat); do
          e=${e%/*}
          spot ${e##*/}
        done;;
    esac
  else
    set -- $(ps -A -o pid= -o pgid= -o stat=)
    while [ $# -ge 3 ]; do
      case $1 in
        $$) z=1;;
      esac
      case $1.$2.$3 in
        $p.*|*.Z*) ;;
        *.$g.*) v="$v $1" h=-$g;;
      esac
      shift 3
    done
  fi
}

#: grounds
# Into the folder that knows run $K, of all that are ours. st: as look says; after a void V where it holds, U where it cannot.
seek() {
  x=V
  for d in "$HOME" /var/tmp/opsjobs-; do
    case $d in
      "$HOME") d=$d/.opsjobs;;
      *) d=$d$(id -u);;
    esac
    cd "$d/runs" && [ -O . ] || continue
    look
    case $1.$st in
      void.[NEL]) echo >$K.v
        look;;
    esac
    case $1.$st in
      void.[NE]) x=U;;
      *.[NV]) ;;
      *) return;;
    esac
  done 2>/dev/null
  st=$x
}

# Whether one of $v still lives. Where that is not told by /proc, it is not asked.
going() {
  [ -r /proc/self/stat ] || return
  for j in $v; do
    born $j && return
  done
  return 1
}

#: tell
# $1 key.
K=$1 p= g=
seek look
case $st in
  G) hunt
    [ "$v" ] && st=L;;
esac
echo "$N K $st ${r:--} ${t:--}"

#: cancel
# Whether group $g is gone, by the word of kill alone.
vanished() {
  for k in 1 2 5 9 20 50; do
    case $(LC_ALL=C; kill -0 -$g 2>&1) in
      *"o such process"*) return;;
    esac
    nap $k
  done
  return 1
}
# $1 key, $2 grace in hundredths of a second. w: what is to be said.
K=$1 G=$2 p= g=
seek void
case $st in
  V) w=never_started;;
  U) w=unreachable;;
  *) w=already_finished;;
esac
case $st.${id##*.} in
  [LG].$b) p=${id%%.*};;
esac
case $st in
  L) w=killed g=$p
    [ -s $K.g ] && read -r g <$K.g
    [ "$t" ] || { read -r r <&3; printf cancel >&3; } 3<>$K.x
    hunt
    kill -TERM -$g $u
    clock
    f=$((c+G)) d=1 y=
    while [ $c -lt $f ]; do
      look
      case $st.$v in
        # Nobody was there yet to hear it.
        L.) hunt
          [ "$v" ] && kill -TERM -$g $u;;
        L.*) ;;
        *) hunt
          [ "$v" ] || break
          # What was forked just as the signal came has not heard it.
          [ "$y" ] || kill -TERM $v
          y=1;;
      esac
      nap $d
      case $d in
        1) d=5;;
        5) d=20;;
        20) d=21;;
        *) d=50;;
      esac
      clock
    done;;
esac 2>/dev/null
case $p in
  ?*) hunt
    [ "$v" ] && w=killed
    clock
    f=$((c+500)) a=0
    # First each one, so that the keeper can record the end; then whole groups, for who forks faster than we look.
    while [ "$v" ] && [ $c -lt $f ]; do
      case $a in
        0) kill -KILL $v;;
        *) kill -KILL $v $h;;
      esac
      [ $a -lt 20 ] || nap 5
      a=$((a+1))
      # To look at these costs less than to look for all. Who else is there is asked once they are gone.
      for k in 1 2 3 5 9; do
        going || break
        nap $k
      done
      hunt
      clock
    done
    clock
    f=$((c+200))
    while look; [ $st = L ] && [ $c -lt $f ]; do
      nap 2
      clock
    done
    case $st.$w in
      G.killed) printf s9. 1<>$K.x
        look;;
      V.*) w=never_started;;
    esac
    case $st.$v in
      L.*|*.?*) w=unreachable;;
      # An incomplete list proves nothing.
      *) case $z.$g in
          .?*) vanished || w=unreachable;;
        esac;;
    esac
    [ -e $K.p ] && rm -f $K.p
    tidy;;
esac 2>/dev/null
echo "$N C $w ${r:--} ${t:--}"

#: clean
# `all` or `output`, then keys. What lives is left alone. Without its output a run keeps its record, which refuses a second start.
w=$1
shift
u=$(id -u) p= g=
for d in "$HOME/.opsjobs/runs" /var/tmp/opsjobs-$u/runs; do
  cd "$d" && [ -O . ] || continue
  m=
  for K; do
    look
    case $st in
      [NL]) continue;;
      G) hunt
        [ "$v" ] && continue;;
    esac
    tidy
    case $w in
      all) m="$m $K.x $K.v $K.1 $K.2 $K.g $K.e $K.f $K.p $K.q";;
      *) for k in 1 2; do
          [ -s $K.$k ] && : >$K.$k
        done;;
    esac
  done
  [ "$m" ] && rm -f $m
done 2>/dev/null
echo "$N R"
