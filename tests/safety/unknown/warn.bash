#: Merely unknown: a warning, and an approval in production or if a policy says so.
$CMD
"$1" -rf /tmp/x
${TOOL}ctl stop x
$(cat /tmp/cmd)
eval "$CMD"
eval "$(cat /tmp/x)"
bash -c "$CMD"
sh -c "$(cat /tmp/x)"
ssh web-1 "$CMD"
cat /tmp/list | sh
grep x /tmp/list | bash -s
sed s/a/b/ x | sudo sh
echo "$X" | sh
xargs -I{} sh -c '{}' < /tmp/list
find . -exec sh -c '{}' \;
while read -r l; do $l; done < /tmp/x
. "$FILE"
source $X
bash "$SCRIPT"
python3 -c "$CODE"
python3 -c 'exec(input())'
ruby -e 'system("x")'
perl -e "$X"
/tmp/$X/$Y
/opt/?ool run
a=1; a[$(rm x)]=2; $a
printf "$X" | sh
tail -1 /tmp/x | bash
