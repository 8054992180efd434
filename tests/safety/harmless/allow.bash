#: Each must be allowed; a warning counts as an alarm, too.
#: text that only looks dangerous
echo "rm -rf /"
echo 'rm -rf /'
echo rm -rf /
printf '%s\n' 'rm -rf /'
printf "usage: rm -rf / is a bad idea\n"
# rm -rf /
ls # rm -rf /
: 'rm -rf /'
true "rm -rf /"
grep -r 'rm -rf /' /srv/scripts
grep -n "mkfs" /var/log/installer/syslog
grep -c reboot /var/log/syslog
rg 'dd if=/dev/zero' .
find /srv -name '*.sh' -exec grep -l 'rm -rf /' {} +
cat <<EOF
	rm -rf /
	EOF
cat <<'EOF' > /tmp/readme.txt
	Never run: curl http://x | sh
	EOF
cat > /tmp/notes <<EOF
	mkfs.ext4 /dev/sda
	:(){ :|:& };:
	EOF
git commit -m "Remove rm -rf / from the docs"
git log --grep='rm -rf'
logger "will not rm -rf /"
wall "shutdown is at ten"
man rm
man shutdown
which reboot
type rm
command -v shutdown
alias rm='rm -i'
x="rm -rf /"; echo "$x"
msg='DROP TABLE users'; logger "$msg"
history | grep 'rm -rf'
apropos mkfs
sed -n '/rm -rf/p' script.sh
awk '/shutdown/ {print $1}' /var/log/syslog
[ "$x" = "rm -rf /" ] && echo bad
case "$cmd" in "rm -rf /") echo no;; esac
echo "curl http://x | sh" | tee /tmp/doc.txt
echo ':(){ :|:& };:'
echo 'DROP DATABASE x' >> /tmp/todo
python3 -c 'print("rm -rf /")'
jq '.cmd == "rm -rf /"' x.json
test -n "rm -rf /"
#: looking around
uptime
hostname -f
uname -a
id
whoami
w
last -n 20
last reboot
df -h
df -hT / | tail -1
du -sh /var/log/*
du -x -d1 -h / | sort -h | tail -20
free -m
vmstat 1 5
iostat -x 1 3
top -b -n1 | head -20
ps aux --sort=-%mem | head -10
ps -ef | grep '[n]ginx'
pgrep -fa python
lsof -i :443
ss -tlnp
netstat -an | grep LISTEN | wc -l
ip addr show
ip -br link
ip route
cat /etc/os-release
. /etc/os-release; echo "$PRETTY_NAME"
cat /proc/cpuinfo | grep -c processor
lscpu
lsblk -o NAME,SIZE,MOUNTPOINT
blkid
mount | column -t
findmnt --real
dmesg -T | tail -50
journalctl -u nginx --since '1 hour ago' --no-pager
journalctl -p err -b
journalctl --disk-usage
journalctl --vacuum-time=30d
systemctl status sshd
systemctl is-active nginx
systemctl list-units --failed
systemctl list-timers --all
systemctl cat nginx
systemctl daemon-reload
systemctl restart nginx
systemctl reload nginx || systemctl restart nginx
systemctl start postgresql
systemctl enable --now node_exporter
service nginx reload
getent passwd ada
getent hosts db-1
dig +short example.com
host example.com
ping -c 3 db-1
traceroute -n 10.0.0.1
nc -zv db-1 5432
curl -fsS http://localhost:8080/health
curl -s -o /dev/null -w '%{http_code}' https://example.com
curl -fsSL https://example.com/x.tar.gz -o /tmp/x.tar.gz
curl -sS "$URL/api" -H "Authorization: Bearer $TOKEN" | jq .status
wget -q https://example.com/x.deb -O /tmp/x.deb && sha256sum /tmp/x.deb
openssl s_client -connect example.com:443 </dev/null 2>/dev/null | openssl x509 -noout -enddate
openssl rand -hex 16
timedatectl
chronyc tracking
date -u +%FT%TZ
cal
env | sort
printenv PATH
ulimit -n
sysctl -a 2>/dev/null | grep net.ipv4
sysctl -n vm.swappiness
cat /etc/passwd | cut -d: -f1
awk -F: '$3 >= 1000 {print $1}' /etc/passwd
wc -l /etc/group
stat -c '%a %U %G' /etc/shadow
ls -la /etc/sudoers.d
sudo -l
sudo cat /var/log/auth.log | tail -5
crontab -l
ls /etc/cron.d
iptables -L -n -v
ufw status verbose
nft list ruleset
sestatus
getenforce
aa-status
fdisk -l
parted -l
pvs; vgs; lvs
zpool status -x
mdadm --detail /dev/md0
smartctl -H /dev/sda
hdparm -I /dev/sda | head
nvme list
sensors
ethtool eth0
lsmod | grep kvm
modinfo ext4
rpm -qa --last | head
dpkg -l | grep nginx
apt list --upgradable
apt-cache policy nginx
yum check-update
snap list
pip list --outdated
npm ls --depth=0
#: packages
apt-get update
apt-get update && apt-get install -y nginx
DEBIAN_FRONTEND=noninteractive apt-get -y upgrade
apt-get autoremove -y
apt-get clean
yum install -y httpd
dnf -y upgrade --security
rpm -q openssl
apk add --no-cache curl
pip install -r requirements.txt
npm ci
gem install bundler
snap refresh
#: files
mkdir -p /srv/app/releases
cp -a /srv/app /srv/app.bak
cp /etc/nginx/nginx.conf{,.bak}
mv /tmp/app.conf /etc/nginx/conf.d/app.conf
ln -sfn /srv/app/releases/42 /srv/app/current
install -m 0644 app.service /etc/systemd/system/app.service
rsync -a --delete /srv/app/ web-2:/srv/app/
rsync -avz ./build/ /var/www/html/
tar czf /backup/etc-$(date +%F).tar.gz /etc
tar xzf /tmp/x.tar.gz -C /opt/app
unzip -q x.zip -d /opt/x
gzip -9 /var/log/app/app.log.1
touch /var/run/app.ready
rm /tmp/x
rm -f /tmp/app.lock
rm -rf /tmp/build
rm -rf ./node_modules
rm -rf build dist *.egg-info
rm -rf /var/cache/apt/archives
rm -rf /opt/app/releases/41
rm -rf ~/.cache/pip
rm -f /etc/nginx/sites-enabled/default
rm -rf "$WORKDIR"
rm -rf "${TMP:?}"/*
rm -rf "${BUILD_DIR:?not set}/out"
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cp x "$tmp"/
cd /srv/app && rm -rf tmp/*
cd "$(dirname "$0")" && ls
find /var/log -name '*.gz' -mtime +30 -delete
find /tmp -type f -atime +7 -delete
find /srv/backup -maxdepth 1 -name '*.tar.gz' -mtime +14 -exec rm {} \;
find . -name __pycache__ -type d -prune -exec rm -rf {} +
find /var/www -type f -name '*.php' -exec chmod 644 {} \;
find / -xdev -size +100M -type f 2>/dev/null | head
find /etc -newer /tmp/mark -type f
find . -name '*.bak' | xargs rm -f
find . -print0 | xargs -0 ls -ld
ls *.log | xargs -n1 gzip
ls -1t /srv/app/releases | tail -n +6 | xargs -I{} rm -rf /srv/app/releases/{}
chmod 644 /etc/nginx/nginx.conf
chmod +x deploy.sh
chmod -R 755 /var/www/html/static
chmod 600 ~/.ssh/id_ed25519
chmod 700 ~/.ssh
chown -R www-data:www-data /var/www/html/uploads
chown ada /home/ada/notes
setfacl -m u:ada:r /srv/data/x
sed -i 's/listen 80/listen 8080/' /etc/nginx/conf.d/app.conf
sed -i.bak '/^#/d' /srv/app/app.ini
echo 'export A=b' >> ~/.profile
echo 'vm.swappiness=10' > /etc/sysctl.d/99-app.conf
echo "nameserver 10.0.0.2" | tee /tmp/resolv
tee /etc/motd <<< "Welcome"
truncate -s 0 /srv/app/app.log
: > /srv/app/app.log
dd if=/dev/zero of=/tmp/test bs=1M count=100
dd if=/dev/sda of=/backup/mbr.img bs=512 count=1
head -c 32 /dev/urandom | base64
fallocate -l 2G /swapfile
split -b 100M big.iso part-
sort -u a b > c
comm -12 a b
diff -u /etc/nginx/nginx.conf{.bak,}
tail -n 100 /var/log/nginx/access.log | awk '{print $9}' | sort | uniq -c
cut -d' ' -f1 access.log | sort | uniq -c | sort -rn | head
md5sum -c sums.txt
base64 -d payload.b64 > payload.bin
echo aGVsbG8= | base64 -d
xxd -l 64 x.bin
exec > >(tee -a /tmp/run.log) 2>&1
exec 2>/dev/null
ls nowhere 2> /dev/null || true
ls > /dev/null 2>&1
{ date; uptime; } > /tmp/report
cat a - b < c
#: people
useradd -m -s /bin/bash ben
usermod -aG docker ben
id ben >/dev/null 2>&1 || useradd -r -s /usr/sbin/nologin ben
passwd -S ada
chage -l ada
groups ada
ssh-keygen -t ed25519 -N '' -f /tmp/key
ssh-keygen -lf ~/.ssh/authorized_keys
ssh-keyscan web-1 >> /tmp/known_hosts
ssh web-1 uptime
ssh -o BatchMode=yes -p 2222 deploy@web-1 'systemctl is-active nginx'
ssh web-1 "cd /srv/app && git pull --ff-only"
scp app.tar.gz web-1:/tmp/
sudo -u postgres psql -c 'SELECT version()'
sudo -u app -- bash -c 'cd /srv/app && ./bin/migrate'
su - app -c '/srv/app/bin/status'
kill -HUP $(cat /run/nginx.pid)
kill 4321
kill -0 "$PID" 2>/dev/null && echo alive
pkill -f 'worker --queue low'
killall -q node_exporter || true
nohup ./server > server.log 2>&1 &
timeout 30 curl -fsS http://localhost/ready
nice -n 10 ionice -c2 tar cf /backup/x.tar /srv
flock -n /tmp/job.lock /srv/app/bin/job
watch -n 5 'df -h /srv'
time make -j4
env LC_ALL=C sort x
xargs -a hosts.txt -n1 ping -c1
parallel gzip ::: a.log b.log
screen -dmS build make
at -l
trap 'echo interrupted' INT TERM
eval "$(ssh-agent -s)"
source ./venv/bin/activate && python manage.py migrate --noinput
bash /opt/app/run.sh --fast
sh -c 'echo hi'
bash -lc 'node --version'
echo uptime | sh
python3 /srv/app/tool.py --dry-run
python3 -m http.server 8000
python3 - <<'EOF'
	print("hello")
	EOF
perl -ne 'print if /error/i' /var/log/app/app.log
perl -pe 's/a/b/' x
node --version
ruby /opt/x.rb
awk 'BEGIN {s=0} {s+=$1} END {print s}' numbers
#: containers, databases, code
docker ps --format '{{.Names}} {{.Status}}'
docker logs --tail 100 web
docker restart web
docker pull nginx:1.27
docker compose up -d --remove-orphans
docker run --rm -v /srv/data:/data alpine ls /data
docker exec web nginx -t
docker rm web-old
docker image ls
docker inspect -f '{{.State.Health.Status}}' web
podman ps -a
kubectl get pods -A
kubectl -n web rollout restart deployment/web
kubectl apply -f deploy.yaml
kubectl delete pod web-1
kubectl logs -f deploy/web
kubectl exec web-1 -- nginx -t
helm upgrade --install web ./chart
terraform plan -out=plan
aws s3 cp x.tar.gz s3://bucket/
aws ec2 describe-instances
mysql -e 'SHOW PROCESSLIST'
mysql shop -e "DELETE FROM sessions WHERE expires < NOW()"
psql -At -c 'select count(*) from users'
psql -c "update users set active = false where id = 7"
pg_dump -Fc shop > /backup/shop.dump
redis-cli INFO memory
redis-cli GET key
sqlite3 app.db 'select 1'
git pull --ff-only
git status --short
git fetch --all --prune
git checkout v1.2.3
git push origin main
git tag -a v1 -m v1 && git push --tags
make test
make -C /srv/app install
./configure --prefix=/opt/x && make && make install
go build ./...
cargo build --release
mvn -q package
certbot renew --quiet
nginx -t && systemctl reload nginx
apachectl configtest
haproxy -c -f /etc/haproxy/haproxy.cfg
ansible-playbook -i hosts site.yml --check
logrotate -f /etc/logrotate.d/app
update-ca-certificates
ldconfig
hostnamectl set-hostname web-1
timedatectl set-timezone Europe/Berlin
swapon --show
mount /dev/sdb1 /mnt/data
umount /mnt/data
modprobe br_netfilter
sysctl -w net.ipv4.ip_forward=1
#: scripts
#!/bin/bash
	set -euo pipefail
	log() { printf '%s %s\n' "$(date +%FT%T)" "$*" >&2; }
	for host in web-1 web-2 db-1; do
	  if ping -c1 -W1 "$host" >/dev/null; then log "$host up"; else log "$host down"; fi
	done
#!/bin/sh
	RELEASE=/srv/app/releases/$(date +%s)
	mkdir -p "$RELEASE"
	tar xzf /tmp/app.tar.gz -C "$RELEASE"
	ln -sfn "$RELEASE" /srv/app/current
	systemctl restart app
	cd /srv/app/releases && ls -t | tail -n +6 | xargs rm -rf
#!/usr/bin/env bash
	usage() { cat <<-EOT
	Usage: $0 [-n] NAME
	EOT
	exit 2; }
	while getopts "nh" opt; do case $opt in n) dry=1;; *) usage;; esac; done
	shift $((OPTIND - 1))
	[ $# -eq 1 ] || usage
	echo "name is $1"
if ! command -v jq >/dev/null 2>&1; then
	  apt-get install -y jq
	fi
usage=$(df --output=pcent / | tail -1 | tr -dc '0-9')
	if [ "$usage" -gt 90 ]; then
	  echo "disk is full: $usage%"
	  exit 1
	fi
backup() {
	  local name=$1 target=/backup/$1-$(date +%F).sql.gz
	  pg_dump "$name" | gzip > "$target"
	  find /backup -name "$name-*.sql.gz" -mtime +14 -delete
	}
	for db in shop users; do backup "$db"; done
retry() { local n=0; until "$@"; do n=$((n+1)); [ $n -ge 5 ] && return 1; sleep 2; done; }
	retry curl -fsS http://localhost/health
run() { echo "+ $*"; "$@"; }
	run systemctl daemon-reload
	run systemctl restart app
while IFS=: read -r user _ uid _; do
	  [ "$uid" -ge 1000 ] && echo "$user"
	done < /etc/passwd
declare -A ports=([web]=80 [db]=5432)
	for name in "${!ports[@]}"; do echo "$name ${ports[$name]}"; done
case "$(uname -s)" in
	  Linux) echo linux ;;
	  Darwin) echo mac ;;
	esac
lock=/var/lock/job
	exec 9>"$lock"
	flock -n 9 || exit 0
	/srv/app/bin/job
cleanup() { rm -f "$tmp"; }
	tmp=$(mktemp)
	trap cleanup EXIT
	curl -fsS http://localhost/stats > "$tmp"
	jq . "$tmp"
set -e
	export PATH="$HOME/bin:$PATH"
	version="${1:-latest}"
	image="registry.example/app:$version"
	docker pull "$image"
	docker stop app || true
	docker rm app || true
	docker run -d --name app --restart unless-stopped -p 80:8080 "$image"
files=(/etc/nginx/conf.d/*.conf)
	for f in "${files[@]}"; do [[ -f $f ]] && nginx -t -c "$f"; done
i=0; while (( i < 10 )); do curl -fs http://localhost && break; sleep 1; ((i++)); done
[[ "$VERSION" =~ ^v[0-9]+\.[0-9]+$ ]] || { echo bad; exit 1; }
mapfile -t hosts < <(grep -v '^#' hosts.txt)
	printf '%s\n' "${hosts[@]}"
cat > /etc/systemd/system/app.service <<'EOF'
	[Unit]
	Description=App
	[Service]
	ExecStart=/srv/app/bin/app
	ExecStop=/bin/kill -TERM $MAINPID
	[Install]
	WantedBy=multi-user.target
	EOF
	systemctl daemon-reload
	systemctl enable --now app
if [ -f /var/run/reboot-required ]; then echo "reboot needed"; fi
echo ${target.labels.env} ${parameters.service}
systemctl restart ${service}
systemctl reload ${service} || true
journalctl -u ${parameters.unit} -n ${lines}
#: seen for the first time after the readers were written; what was rightly found is left out
(crontab -l; echo '0 2 * * * /srv/app/bin/backup') | crontab -
for i in $(seq 1 5); do echo $i; done
for f in *.txt; do mv "$f" "${f%.txt}.md"; done
find . -type f -name "*.py" | xargs wc -l | sort -n
cat urls.txt | while read -r url; do curl -sI "$url" | head -1; done
ps aux | awk '{sum += $6} END {print sum/1024 " MB"}'
tail -f /var/log/syslog | grep --line-buffered error
ls -la | awk '{print $5, $9}' | sort -rn
export JAVA_HOME=/usr/lib/jvm/java-17; $JAVA_HOME/bin/java -version
"$HOME/.local/bin/tool" --version
PYTHONPATH=src python3 -m pytest -q
DOCKER_BUILDKIT=1 docker build -t app:latest .
docker build --build-arg VERSION=1.2 -t "registry/app:$TAG" . && docker push "registry/app:$TAG"
docker images | grep none | awk '{print $3}'
docker stats --no-stream
docker network create web
docker volume ls
kubectl get nodes -o wide
kubectl describe pod web-1
kubectl scale deploy/web --replicas=3
kubectl cp web-1:/tmp/x ./x
kubectl port-forward svc/web 8080:80
helm rollback web 3
aws s3 sync ./dist s3://bucket/site
aws sts get-caller-identity
gcloud compute instances list
az vm list -o table
git log --oneline -10
git diff HEAD~1
git clone https://example.com/x.git /srv/x
git stash
git rebase origin/main
git submodule update --init --recursive
git branch -a
git remote -v
git rm old.txt
npm run build
yarn install --frozen-lockfile
pip install --upgrade pip
python3 -m venv /srv/app/venv
virtualenv venv && . venv/bin/activate
bundle exec rake db:migrate
php artisan migrate --force
composer install --no-dev
sudo systemctl restart postgresql@15-main
sudo journalctl --since today -u ssh
sudo apt-get install --only-upgrade openssl
sudo dpkg -i /tmp/x.deb
sudo mkdir -p /opt/app && sudo chown app:app /opt/app
sudo tee /etc/nginx/conf.d/x.conf > /dev/null <<'EOF'
	server { listen 80; }
	EOF
sudo sh -c 'echo 1 > /srv/flag'
echo "deb http://x stable main" | sudo tee /etc/apt/sources.list.d/x.list
curl -fsSL https://x/key.gpg | sudo gpg --dearmor -o /usr/share/keyrings/x.gpg
openssl req -new -x509 -days 365 -nodes -out c.pem -keyout k.pem -subj /CN=x
ssh-add -l
sftp web-1 <<< 'get /tmp/x'
mysqldump --single-transaction shop | gzip > shop.sql.gz
zcat shop.sql.gz | mysql shop
mysql -N -e 'select user from mysql.user'
psql -f schema.sql
psql -c 'VACUUM ANALYZE'
pg_isready -h db-1
redis-cli --scan --pattern 'session:*' | wc -l
mongosh --eval 'db.stats()'
rabbitmqctl list_queues
nginx -s reload
apachectl graceful
ethtool -S eth0 | grep err
tcpdump -i eth0 -c 100 -w /tmp/x.pcap
nmap -sn 10.0.0.0/24
arp -a
mtr -rwc 10 example.com
iperf3 -c db-1
lvextend -L +10G /dev/vg0/data && resize2fs /dev/vg0/data
xfs_growfs /srv
growpart /dev/sda 1
fsck -n /dev/sdb1
tune2fs -l /dev/sda1
e2label /dev/sdb1 data
mkdir /mnt/x && mount -t nfs nas:/x /mnt/x
cryptsetup luksDump /dev/sdb
dd if=/dev/zero of=/swapfile bs=1M count=2048 && mkswap /swapfile && swapon /swapfile
logger -t deploy "version $VERSION"
mail -s "report" ada@example.com < /tmp/report
tar -C /opt -xzf /tmp/x.tgz --strip-components=1
rm -rf /var/lib/apt/lists/*
rm -rf /tmp/*
rm -rf /var/tmp/build-$$
rm -f /etc/cron.d/old-job
rm -rf "$HOME/.cache/app"
rm -rf ~/tmp/*
rm -rf -- "$dir"
rm -r "/srv/app/releases/$old"
find /srv/app/releases -mindepth 1 -maxdepth 1 -type d -mtime +30 -exec rm -rf {} +
find "$DIR" -name '*.tmp' -delete
find /home -name '.DS_Store' -delete
[ -d /srv/x ] || mkdir -p /srv/x
[ -n "$1" ] || { echo "usage: $0 name"; exit 2; }
test "$(id -u)" -eq 0 || exec sudo "$0" "$@"
if systemctl is-active --quiet nginx; then systemctl reload nginx; else systemctl start nginx; fi
until nc -z localhost 5432; do sleep 1; done
trap - EXIT
wait
exit 0
set -x; cd /srv; ls; set +x
x=$((1 + 2)); echo "$x"
arr=(a b c); echo "${#arr[@]} ${arr[0]}"
echo "${PATH//:/ }"
printf '%-20s %s\n' name value
date -d '1 day ago' +%F
sed -n '1,10p' /etc/hosts
awk 'NR==1 {print; next} {print | "sort -k2"}' t
column -t -s, x.csv
tr -d '\r' < dos.txt > unix.txt
cmp a b && echo same
stat -f /srv
nproc; cat /proc/loadavg
cat /sys/class/thermal/thermal_zone0/temp
echo mq-deadline > /sys/block/sda/queue/scheduler
echo 3 > /proc/sys/vm/drop_caches
sysctl -p
sysctl -w net.core.somaxconn=1024
update-alternatives --config editor
locale-gen en_US.UTF-8
visudo -c
visudo -cf /etc/sudoers.d/ada
useradd --system app
passwd --status ada
loginctl list-sessions
who -a
kill -TERM "$(cat /run/app.pid)"
pkill -USR1 dd
nice -n 5 make
crontab -l | grep backup
echo '0 3 * * * root /srv/app/bin/job' > /etc/cron.d/app
systemctl edit --full app
systemctl show -p MainPID app
cat <<EOF | kubectl apply -f -
	apiVersion: v1
	kind: ConfigMap
	EOF
cat <<EOF | psql
	select 1;
	EOF
bash -c "cd /srv/app && git pull"
bash -c 'for i in 1 2; do echo $i; done'
xargs -n1 -P4 curl -sO < urls.txt
parallel -j4 convert {} {.}.png ::: *.jpg
timeout 10 bash -c 'until curl -fs localhost; do sleep 1; done'
