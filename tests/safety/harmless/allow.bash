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
#: written by a fresh eye, before the rules were looked at
#!/usr/bin/env bash
	set -euo pipefail
	VERSION="${1:-1.8.2}"
	ARCH=$(uname -m)
	case "$ARCH" in
	  x86_64) ARCH=amd64 ;;
	  aarch64) ARCH=arm64 ;;
	  *) echo "unsupported architecture $ARCH" >&2; exit 1 ;;
	esac
	TMP=$(mktemp -d)
	trap 'rm -rf "$TMP"' EXIT
	curl -fsSL "https://github.com/prometheus/node_exporter/releases/download/v${VERSION}/node_exporter-${VERSION}.linux-${ARCH}.tar.gz" -o "$TMP/ne.tgz"
	tar -xzf "$TMP/ne.tgz" -C "$TMP" --strip-components=1
	install -m 0755 "$TMP/node_exporter" /usr/local/bin/node_exporter
	node_exporter --version
cat > /etc/systemd/system/node_exporter.service <<'EOF'
	[Unit]
	Description=Prometheus node exporter
	After=network-online.target
	
	[Service]
	User=node_exporter
	ExecStart=/usr/local/bin/node_exporter --web.listen-address=:9100
	Restart=on-failure
	
	[Install]
	WantedBy=multi-user.target
	EOF
	systemctl daemon-reload
	systemctl enable --now node_exporter
id -u node_exporter >/dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin node_exporter
#!/bin/bash
	# nightly dump
	BACKUP_DIR=/var/backups/postgres
	STAMP=$(date +%Y%m%d-%H%M%S)
	mkdir -p "$BACKUP_DIR"
	for db in $(psql -At -c "select datname from pg_database where not datistemplate"); do
	  pg_dump -Fc "$db" > "$BACKUP_DIR/$db-$STAMP.dump"
	done
	find "$BACKUP_DIR" -name '*.dump' -mtime +14 -delete
mysqldump --single-transaction --routines shop | gzip -c > /srv/backup/shop-$(date +%F).sql.gz && ls -lh /srv/backup | tail -3
rsync -aHAX --delete --exclude-from=/etc/backup/excludes /home/ backup@nas.example.com:/volume1/backup/$(hostname -s)/home/
restic -r s3:s3.amazonaws.com/acme-backup backup /etc /home --exclude-caches --tag nightly
	restic -r s3:s3.amazonaws.com/acme-backup forget --keep-daily 7 --keep-weekly 4 --prune
borg create --stats --compression lz4 ssh://borg@vault:22/./repo::'{hostname}-{now}' /etc /var/lib/docker/volumes
	borg prune -v --list --keep-daily=7 --keep-weekly=4 ssh://borg@vault:22/./repo
cat >/etc/logrotate.d/myapp <<EOF
	/var/log/myapp/*.log {
	    daily
	    rotate 14
	    compress
	    delaycompress
	    missingok
	    notifempty
	    postrotate
	        systemctl reload myapp > /dev/null 2>/dev/null || true
	    endscript
	}
	EOF
	logrotate -d /etc/logrotate.d/myapp
logrotate -f /etc/logrotate.conf
find /var/log/nginx -type f -name '*.log' -size +100M -exec gzip {} \;
find /var/log -name '*.gz' -mtime +30 -print0 | xargs -0 -r rm -f
journalctl --vacuum-time=14d
journalctl -u nginx --since "1 hour ago" --no-pager | grep -ci error
df -hP | awk 'NR>1 && $5+0 > 85 {print $6" is at "$5}'
docker ps --filter health=unhealthy --format '{{.Names}}' | xargs -r docker restart
docker image prune -af --filter "until=168h"
docker compose -f /opt/stack/docker-compose.yml pull && docker compose -f /opt/stack/docker-compose.yml up -d --remove-orphans
docker run --rm -v "$PWD":/work -w /work node:20 npm ci
docker exec -i db psql -U postgres -c 'VACUUM ANALYZE'
docker build -t registry.example.com/team/app:$(git rev-parse --short HEAD) . && docker push registry.example.com/team/app:$(git rev-parse --short HEAD)
docker logs --tail 200 -f api 2>&1 | grep -v healthcheck
docker volume ls -qf dangling=true | xargs -r docker volume rm
kubectl -n web rollout restart deploy/frontend
	kubectl -n web rollout status deploy/frontend --timeout=120s
kubectl get pods -A --field-selector=status.phase=Failed -o name | head
kubectl get pods -n jobs --no-headers | awk '/Evicted/{print $1}' | xargs -r kubectl delete pod -n jobs
kubectl apply -f - <<EOF
	apiVersion: v1
	kind: ConfigMap
	metadata:
	  name: settings
	data:
	  LOG_LEVEL: info
	EOF
kubectl create secret generic tls --from-file=tls.crt=/etc/ssl/certs/site.crt --from-file=tls.key=/etc/ssl/private/site.key --dry-run=client -o yaml | kubectl apply -f -
kubectl exec -n db postgres-0 -- pg_isready -U postgres
kubectl cp web/frontend-abc:/tmp/heap.hprof ./heap.hprof
kubectl drain node-3 --ignore-daemonsets --delete-emptydir-data && sleep 30 && kubectl uncordon node-3
helm upgrade --install ingress ingress-nginx/ingress-nginx -n ingress --create-namespace -f values.yaml --wait
terraform -chdir=/srv/infra plan -out=tf.plan
export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get -y -o Dpkg::Options::="--force-confold" upgrade
	apt-get -y autoremove
	[ -f /var/run/reboot-required ] && echo "reboot required" || echo "no reboot"
apt-get install -y --no-install-recommends nginx curl ca-certificates && rm -rf /var/lib/apt/lists/*
curl -fsSL https://download.docker.com/linux/debian/gpg | gpg --dearmor -o /etc/apt/keyrings/docker.gpg
	echo "deb [arch=$(dpkg --print-architecture) signed-by=/etc/apt/keyrings/docker.gpg] https://download.docker.com/linux/debian $(. /etc/os-release && echo "$VERSION_CODENAME") stable" > /etc/apt/sources.list.d/docker.list
	apt-get update && apt-get install -y docker-ce docker-ce-cli containerd.io
dnf -y update --security && dnf needs-restarting -r || true
yum install -y epel-release && yum clean all
apk add --no-cache bash curl tzdata
zypper --non-interactive patch --category security
pip install --upgrade pip && pip install -r requirements.txt
npm ci --omit=dev && npm run build && pm2 reload ecosystem.config.js
snap refresh --list; flatpak update -y
#!/bin/sh
	# certbot deploy hook
	set -e
	for domain in $RENEWED_DOMAINS; do
	  case $domain in
	    mail.example.com)
	      cat "$RENEWED_LINEAGE/fullchain.pem" "$RENEWED_LINEAGE/privkey.pem" > /etc/haproxy/certs/mail.pem
	      chmod 600 /etc/haproxy/certs/mail.pem
	      systemctl reload haproxy
	      ;;
	  esac
	done
certbot renew --quiet --deploy-hook "systemctl reload nginx"
openssl s_client -connect example.com:443 -servername example.com </dev/null 2>/dev/null | openssl x509 -noout -enddate
openssl req -x509 -newkey rsa:2048 -nodes -keyout /etc/nginx/ssl/site.key -out /etc/nginx/ssl/site.crt -days 365 -subj "/CN=$(hostname -f)"
ln -sf /etc/nginx/sites-available/shop.conf /etc/nginx/sites-enabled/shop.conf
	rm -f /etc/nginx/sites-enabled/default
	nginx -t && nginx -s reload
sed -i 's/^#\?MaxClients .*/MaxClients 200/' /etc/apache2/apache2.conf && apachectl configtest && apachectl graceful
sed -i.bak -e 's/worker_connections 768/worker_connections 4096/' /etc/nginx/nginx.conf
echo 'vm.swappiness=10' | tee /etc/sysctl.d/99-swappiness.conf && sysctl --system
cat <<EOF | sudo tee /etc/docker/daemon.json >/dev/null
	{"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}}
	EOF
	sudo systemctl restart docker
timedatectl set-timezone Europe/Berlin && timedatectl status
hostnamectl set-hostname web-7.example.com && grep -q web-7 /etc/hosts || echo "127.0.1.1 web-7.example.com web-7" >> /etc/hosts
fallocate -l 2G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile
lsblk -o NAME,SIZE,FSTYPE,MOUNTPOINT && blkid && pvs && vgs && lvs
mount | grep -q /mnt/nfs || mount -t nfs nas:/export /mnt/nfs
smartctl -H /dev/sda | grep -q PASSED || echo "disk is failing" | mail -s "SMART $(hostname)" ops@example.com
for h in web-1 web-2 web-3; do
	  echo "== $h"
	  ssh -o BatchMode=yes "$h" 'uptime; free -m | sed -n 2p'
	done
ssh deploy@app-1 "cd /srv/app && git pull --ff-only && systemctl --user restart app"
scp -q build/app.jar deploy@app-1:/srv/app/releases/ && ssh deploy@app-1 'ln -sfn /srv/app/releases/app.jar /srv/app/current.jar'
#!/bin/bash
	RELEASES=/srv/app/releases
	cd "$RELEASES" || exit 1
	ls -1dt */ | tail -n +6 | xargs -r rm -rf --
set -e
	APP=/opt/myapp
	NEW="$APP/releases/$(date +%s)"
	mkdir -p "$NEW"
	tar -xzf /tmp/myapp.tgz -C "$NEW"
	chown -R myapp:myapp "$NEW"
	ln -sfn "$NEW" "$APP/current"
	systemctl restart myapp
	sleep 3
	curl -fsS http://127.0.0.1:8080/health || { ln -sfn "$APP/previous" "$APP/current"; systemctl restart myapp; exit 1; }
while ! nc -z db-1 5432; do sleep 1; done; echo up
until curl -sf http://localhost:9200/_cluster/health | grep -q '"status":"green"'; do echo waiting; sleep 5; done
for i in {1..30}; do pg_isready -h localhost && break; sleep 2; done
ps aux --sort=-%mem | head -11
pgrep -f 'celery worker' | wc -l
pkill -HUP -f gunicorn || true
kill -USR1 $(cat /run/nginx.pid)
[ -f /run/app.pid ] && kill -TERM "$(cat /run/app.pid)" && rm -f /run/app.pid
ss -ltnp | awk '{print $4}' | grep -oE '[0-9]+$' | sort -un
lsof -nP -iTCP:8080 -sTCP:LISTEN -t
tcpdump -c 100 -i eth0 -w /tmp/cap.pcap port 443
ip -br addr; ip route get 8.8.8.8; resolvectl status | head -20
ufw allow 443/tcp && ufw status numbered
firewall-cmd --permanent --add-service=https && firewall-cmd --reload
iptables -S | grep -c DROP
fail2ban-client status sshd | grep 'Banned IP'
last -n 20 -F | head; who; w
getent passwd | awk -F: '$3>=1000 && $3<65000 {print $1}'
usermod -aG docker deploy
groupadd -f developers && usermod -a -G developers alice
install -d -m 0750 -o app -g app /var/lib/app /var/log/app
chown -R www-data:www-data /var/www/html && find /var/www/html -type d -exec chmod 755 {} + && find /var/www/html -type f -exec chmod 644 {} +
setfacl -R -m u:deploy:rwX /srv/www
tar --exclude='*.sock' -czf "/backup/etc-$(date +%F).tar.gz" /etc 2>/dev/null
tar -C / -xzf /backup/etc-2024-05-01.tar.gz etc/nginx
gpg --batch --yes --encrypt -r ops@example.com -o /backup/db.dump.gpg /backup/db.dump && shred -u /backup/db.dump
aws s3 sync /var/backups s3://acme-backups/$(hostname)/ --storage-class STANDARD_IA --only-show-errors
aws ec2 describe-instances --filters Name=tag:env,Values=prod --query 'Reservations[].Instances[].[InstanceId,State.Name]' --output text
az vm list -d -o table
gcloud compute instances list --format='value(name,status)'
vault kv get -field=password secret/app/db | docker login -u ci --password-stdin registry.example.com
ansible-playbook -i inventory/prod site.yml --limit web --check --diff
git -C /srv/app fetch --prune && git -C /srv/app reset --hard origin/main && git -C /srv/app clean -fd
make -C /usr/src/app clean all install PREFIX=/opt/app
./configure --prefix=/usr/local && make -j"$(nproc)" && sudo make install
cd /tmp && wget -q https://dl.google.com/go/go1.22.3.linux-amd64.tar.gz && rm -rf /usr/local/go && tar -C /usr/local -xzf go1.22.3.linux-amd64.tar.gz
cat >> ~/.bashrc <<'EOF'
	export PATH=$PATH:/usr/local/go/bin
	alias ll='ls -alF'
	EOF
mkdir -p ~/.ssh && chmod 700 ~/.ssh && ssh-keyscan github.com >> ~/.ssh/known_hosts
sort -u hosts.txt | comm -23 - done.txt | while read -r h; do echo "todo: $h"; done
while IFS=, read -r name ip; do
	  printf '%-20s %s\n' "$name" "$ip"
	done < hosts.csv
awk -F'"' '{print $6}' /var/log/nginx/access.log | sort | uniq -c | sort -rn | head -20
awk '{c[$9]++} END {for (k in c) print k, c[k]}' access.log
zgrep -h ' 500 ' /var/log/nginx/access.log* | cut -d' ' -f7 | sort | uniq -c | sort -rn | head
jq -r '.items[] | select(.status.phase!="Running") | .metadata.name' pods.json
curl -s https://api.github.com/repos/grafana/loki/releases/latest | jq -r .tag_name
curl -sS -X POST -H 'Content-Type: application/json' -d "{\"text\":\"deploy of $APP finished on $(hostname)\"}" "$SLACK_WEBHOOK"
wget -qO- http://169.254.169.254/latest/meta-data/instance-id
redis-cli -h cache-1 INFO memory | grep used_memory_human
redis-cli --scan --pattern 'session:*' | head -1000 | xargs -r redis-cli DEL
psql -U app -d shop -c "DELETE FROM sessions WHERE expires_at < now() - interval '7 days'"
psql -v ON_ERROR_STOP=1 -d shop <<'SQL'
	BEGIN;
	ALTER TABLE orders ADD COLUMN IF NOT EXISTS note text;
	CREATE INDEX IF NOT EXISTS orders_created ON orders (created_at);
	COMMIT;
	SQL
sudo -u postgres psql -tAc "SELECT 1 FROM pg_roles WHERE rolname='app'" | grep -q 1 || sudo -u postgres createuser app
sudo -u postgres pg_basebackup -D /var/lib/postgresql/15/standby -h primary -U replicator -P -R -X stream
mysql -e "CREATE DATABASE IF NOT EXISTS shop CHARACTER SET utf8mb4; GRANT SELECT, INSERT ON shop.* TO 'app'@'10.0.%'"
mongodump --archive=/backup/mongo-$(date +%F).gz --gzip --db app
sqlite3 /var/lib/app/app.db ".backup '/backup/app.db'" && sqlite3 /backup/app.db 'pragma integrity_check'
rabbitmqctl list_queues name messages consumers | awk '$2>1000'
systemctl list-units --failed --no-legend | awk '{print $2}'
for svc in nginx postgresql redis-server; do systemctl is-active --quiet $svc || { echo "$svc is down"; systemctl start $svc; }; done
mkdir -p /etc/systemd/system/nginx.service.d
	cat > /etc/systemd/system/nginx.service.d/limits.conf <<EOF
	[Service]
	LimitNOFILE=65535
	EOF
	systemctl daemon-reload && systemctl restart nginx
loginctl enable-linger deploy; sudo -iu deploy XDG_RUNTIME_DIR=/run/user/$(id -u deploy) systemctl --user enable --now app.service
(crontab -l 2>/dev/null | grep -v backup.sh; echo "15 2 * * * /opt/scripts/backup.sh >> /var/log/backup.log 2>&1") | crontab -
exec 9>/var/lock/backup.lock
	flock -n 9 || { echo "already running" >&2; exit 0; }
	/opt/scripts/backup.sh
flock -n /tmp/sync.lock -c 'rsync -a /src/ /dst/'
nohup /opt/app/bin/server --config /etc/app.yml > /var/log/app.log 2>&1 &
	echo $! > /run/app.pid
	disown
timeout 300 bash -c 'until docker inspect -f "{{.State.Health.Status}}" api | grep -q healthy; do sleep 2; done'
tmpfile=$(mktemp /tmp/report.XXXXXX)
	{
	  echo "Report for $(hostname) at $(date)"
	  echo; uptime; echo; df -h; echo; free -m
	} > "$tmpfile"
	mail -s "daily report" ops@example.com < "$tmpfile"
	rm -f -- "$tmpfile"
usage() { cat <<EOF
	Usage: ${0##*/} [-e env] [-f] host...
	  -f   force: runs rm -rf on the cache first
	EOF
	}
	while getopts ":e:fh" opt; do
	  case $opt in
	    e) ENVIRONMENT=$OPTARG ;;
	    f) FORCE=1 ;;
	    h) usage; exit 0 ;;
	    *) usage >&2; exit 2 ;;
	  esac
	done
	shift $((OPTIND-1))
	for host in "$@"; do echo "deploying to $host in ${ENVIRONMENT:-staging}"; done
log() { echo "[$(date '+%F %T')] $*" | tee -a "$LOGFILE"; }
	die() { log "ERROR: $*"; exit 1; }
	LOGFILE=/var/log/deploy.log
	[ "$(id -u)" -eq 0 ] || die "must run as root"
	command -v docker >/dev/null 2>&1 || die "docker missing"
	log "all good"
retry() { local n=0; until "$@"; do n=$((n+1)); [ $n -ge 5 ] && return 1; sleep $((2**n)); done; }
	retry curl -fsS https://example.com/health
if grep -qi microsoft /proc/version; then echo wsl; elif [ -f /.dockerenv ]; then echo docker; else echo metal; fi
. /etc/os-release; case "$ID-$VERSION_ID" in ubuntu-2*) apt-get -y install chrony;; rocky-*|almalinux-*) dnf -y install chrony;; esac; chronyc tracking
source /opt/venv/bin/activate && python manage.py migrate --noinput && python manage.py collectstatic --noinput && deactivate
python3 -c 'import json,sys; print(json.load(sys.stdin)["version"])' < package.json
python3 - <<'EOF'
	import shutil
	total, used, free = shutil.disk_usage("/")
	print(f"{used/total:.0%} used")
	EOF
perl -pi -e 's/DEBUG=true/DEBUG=false/' /srv/app/.env
perl -ne 'print if /ERROR/ .. /^$/' app.log
cp -a /etc/nginx "/root/nginx-$(date +%F)" && cp /tmp/new.conf /etc/nginx/conf.d/app.conf
cp /etc/ssh/sshd_config /etc/ssh/sshd_config.bak && sed -i 's/^#\?PermitRootLogin.*/PermitRootLogin no/' /etc/ssh/sshd_config && sshd -t && systemctl reload sshd
mv /var/log/app.log /var/log/app.log.1 && kill -HUP "$(pidof app)" && gzip /var/log/app.log.1
: > /var/log/huge.log
truncate -s 0 /var/lib/docker/containers/*/*-json.log
rm -rf /var/cache/nginx/* /tmp/app-* "${HOME}/.cache/pip"
rm -rf ./node_modules ./dist && npm ci
rm -rf -- "${BUILD_DIR:?}"/*
[ -n "$CACHE" ] && [ -d "$CACHE" ] && rm -rf "${CACHE:?}/"*
find /tmp -maxdepth 1 -user jenkins -mmin +1440 -exec rm -rf {} \;
dd if=/dev/zero of=/tmp/testfile bs=1M count=256 oflag=direct && rm /tmp/testfile
dd if=/dev/urandom bs=32 count=1 2>/dev/null | base64
openssl rand -hex 32 > /etc/app/secret.key && chmod 400 /etc/app/secret.key
echo "$TLS_CERT" | base64 -d > /etc/app/tls.crt
md5sum -c SHASUMS --ignore-missing; sha256sum /usr/local/bin/kubectl | cut -c1-12
echo "c0ffee  app.tgz" | sha256sum -c - && tar xf app.tgz
curl -LO "https://dl.k8s.io/release/$(curl -L -s https://dl.k8s.io/release/stable.txt)/bin/linux/amd64/kubectl" && install -o root -g root -m 0755 kubectl /usr/local/bin/kubectl
xargs -P4 -n1 -a urls.txt curl -sfO
parallel -j4 gzip ::: /var/log/app/*.log.1
strace -f -p "$(pidof nginx | cut -d' ' -f1)" -e trace=network -o /tmp/strace.out & sleep 5; kill %1
screen -dmS build make -j8; tmux new-session -d -s watch 'htop'
sudo install -m 440 /dev/stdin /etc/motd <<< "Managed by opsjobs"
update-ca-certificates && update-grub2 --version >/dev/null 2>&1; ldconfig
virsh list --all; virsh snapshot-create-as web-1 before-upgrade
zfs list -t snapshot -o name,creation -s creation | tail; zfs snapshot tank/data@$(date +%F)
modprobe -n -v br_netfilter; lsmod | grep overlay; sysctl net.ipv4.ip_forward
localectl set-locale LANG=en_US.UTF-8; locale -a | head
uptime -p; nproc; cat /proc/loadavg /proc/meminfo | head -5; vmstat 1 3; iostat -x 1 2
if [ -e /etc/cron.d/backup ]; then cat /etc/cron.d/backup; else echo "no cron job"; fi
diff -u /etc/ssh/sshd_config /usr/share/openssh/sshd_config || true; grep -v '^#' /etc/sudoers.d/* | head
visudo -cf /etc/sudoers; awk -F: '$2=="!" {print $1}' /etc/shadow | head
mapfile -t files < <(find /srv/incoming -type f -name '*.csv' -mmin +5); for f in "${files[@]}"; do mv -n -- "$f" /srv/processed/; done
declare -A ports=([web]=80 [db]=5432); for k in "${!ports[@]}"; do timeout 2 bash -c "</dev/tcp/localhost/${ports[$k]}" && echo "$k ok" || echo "$k closed"; done
select_env() { local e=$1; [[ $e =~ ^(dev|staging|prod)$ ]] || return 1; export KUBECONFIG="$HOME/.kube/$e"; }
	select_env staging && kubectl get ns
envsubst '${HOST} ${PORT}' < /opt/templates/nginx.conf.tpl > /etc/nginx/conf.d/site.conf
PGPASSWORD=$DB_PASS psql -h "$DB_HOST" -U "$DB_USER" -d "$DB_NAME" -f /opt/migrations/001.sql
watch -n1 -d 'ss -s' & WP=$!; sleep 3; kill $WP
gcore -o /tmp/core $(pidof app) && gdb -batch -ex bt /usr/bin/app /tmp/core.*
systemd-run --unit=reindex --property=CPUQuota=50% /opt/app/bin/reindex --all
podman generate systemd --new --name web > ~/.config/systemd/user/web.service && systemctl --user daemon-reload
sed -i '/^127\.0\.1\.1/d' /etc/hosts
sed -i "s|^DB_HOST=.*|DB_HOST=${DB_HOST}|" /opt/app/.env
crm_mon -1; pcs status; corosync-quorumtool -s
nmcli con mod eth0 ipv4.dns "10.0.0.2 10.0.0.3" && nmcli con up eth0
netplan generate && netplan apply
ethtool eth0 | grep -E 'Speed|Link'; mii-tool eth0 2>/dev/null
find / -xdev -type f -size +500M -printf '%s %p\n' 2>/dev/null | sort -rn | head
du -xsh /var/* 2>/dev/null | sort -h | tail -5
ls -la / /root 2>&1 | head; stat -c '%a %U %n' /etc/shadow
test $(date +%u) -eq 7 && /opt/scripts/weekly.sh || /opt/scripts/daily.sh
#: what a program is given from outside
export DIR=/srv/app/cache; bash -c 'rm -rf "$DIR"/*'
DIR=/srv/app/cache sh -c 'rm -rf "$DIR"/*'
export DIR=/srv/app/cache; sudo -E bash -c 'rm -rf "$DIR"/*'
sh -c 'rm -rf "$1"/cache' _ /srv/app
find /srv -name '*.tmp' -print0 | xargs -0 sh -c 'rm -f "$@"' _
run() { local what=$1; shift; echo "$what"; "$@"; }; run "restarting" systemctl restart app
printf 'a\nb\n' | while read -r n; do rm -rf "/srv/app/cache/$n/old"; done
ls /srv/app/tmp | xargs -I{} rm -rf /srv/app/tmp/{}
printf 'all:\n\techo done\n' > Makefile && make
#: a second look, written before the mended rules were tried on it
#!/bin/bash
	set -Eeuo pipefail
	trap 'echo "failed at line $LINENO" >&2' ERR
	readonly SRC=${SRC:-/var/lib/grafana}
	readonly DEST=${DEST:-/backup/grafana}
	readonly KEEP=7
	install -d -m 0700 "$DEST"
	tar -C "$SRC" -czf "$DEST/grafana-$(date +%F).tgz" grafana.db plugins
	ls -1t "$DEST"/grafana-*.tgz | tail -n +$((KEEP + 1)) | xargs -r rm -f --
wg genkey | tee /etc/wireguard/private.key | wg pubkey > /etc/wireguard/public.key
	chmod 600 /etc/wireguard/private.key
for u in alice bob; do
	  id "$u" &>/dev/null || useradd -m -s /bin/bash "$u"
	  install -d -o "$u" -g "$u" -m 700 "/home/$u/.ssh"
	done
getent group app >/dev/null || groupadd --system app
	getent passwd app >/dev/null || useradd --system -g app -d /opt/app -s /sbin/nologin app
if ! systemctl is-active --quiet docker; then systemctl start docker; fi
	docker network inspect web >/dev/null 2>&1 || docker network create web
docker run -d --name redis --restart unless-stopped -p 127.0.0.1:6379:6379 -v redis-data:/data redis:7-alpine redis-server --appendonly yes
docker ps -aq -f status=exited -f name=ci- | xargs -r docker rm
docker save app:1.2 | gzip > /srv/images/app-1.2.tgz && scp /srv/images/app-1.2.tgz edge-1:/tmp/
docker exec app sh -c 'cd /app && php artisan migrate --force && php artisan cache:clear'
docker stats --no-stream --format 'table {{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}' | sort -k2 -hr | head
kubectl scale deploy/worker --replicas=0 -n batch && kubectl wait --for=delete pod -l app=worker -n batch --timeout=60s && kubectl scale deploy/worker --replicas=4 -n batch
kubectl get nodes -o json | jq -r '.items[] | select(.status.conditions[] | select(.type=="Ready" and .status!="True")) | .metadata.name'
kubectl -n web set image deploy/frontend frontend=registry.example.com/frontend:$TAG --record
kubectl create job --from=cronjob/report report-manual-$(date +%s) -n reports
kubectl logs -n ingress -l app=nginx --since=10m | awk '$9 ~ /^5/ {n++} END {print n+0}'
helm repo update && helm diff upgrade web ./chart -f prod.yaml
nft list ruleset > /root/nft-$(date +%F).rules
ip route show default | awk '{print $3; exit}' | xargs -r ping -c 3
dig +short example.com @10.0.0.2 || getent hosts example.com
openssl x509 -in /etc/nginx/ssl/site.crt -noout -checkend $((30*86400)) || echo "expires soon"
acme.sh --renew -d example.com --reloadcmd "systemctl reload nginx"
semanage fcontext -a -t httpd_sys_content_t '/srv/www(/.*)?' && restorecon -Rv /srv/www
sudo -H -u jenkins bash -lc 'cd ~/workspace && ./gradlew --no-daemon clean build'
su -s /bin/sh -c 'php /var/www/nextcloud/occ maintenance:mode --on' www-data
echo "net.core.somaxconn = 1024" > /etc/sysctl.d/60-net.conf; sysctl -p /etc/sysctl.d/60-net.conf
cat > /etc/cron.d/certcheck <<'EOF'
	MAILTO=ops@example.com
	17 6 * * 1 root /usr/local/bin/certcheck --days 21
	EOF
	chmod 644 /etc/cron.d/certcheck
printf '%s\n' '[Service]' 'Environment=JAVA_OPTS=-Xmx2g' > /etc/systemd/system/app.service.d/override.conf && systemctl daemon-reload
curl -fsSL https://pkgs.k8s.io/core:/stable:/v1.30/deb/Release.key | gpg --dearmor -o /etc/apt/keyrings/kubernetes.gpg
apt-mark hold kubelet kubeadm kubectl; apt-mark showhold
apt list --upgradable 2>/dev/null | grep -c -security
dpkg -l | awk '/^rc/ {print $2}' | xargs -r apt-get -y purge
rpm -q --last kernel | head -2; package-cleanup --oldkernels --count=2 -y
npm cache clean --force && rm -rf node_modules package-lock.json && npm install
find /srv/uploads -type f -mtime +90 -printf '%p\n' | tee /tmp/old.txt | wc -l; xargs -d '\n' -a /tmp/old.txt rm -f
find /opt/app/releases -mindepth 1 -maxdepth 1 -type d | sort | head -n -5 | xargs -r rm -rf
lockfile=/run/lock/sync.lock
	if ( set -o noclobber; echo $$ > "$lockfile" ) 2>/dev/null; then
	  trap 'rm -f "$lockfile"' EXIT
	  rsync -a --delete /srv/www/ web-2:/srv/www/
	else
	  echo "locked by $(cat "$lockfile")"
	fi
mysql -N -e "SELECT table_name FROM information_schema.tables WHERE table_schema='shop'" | while read -r t; do mysql shop -e "OPTIMIZE TABLE $t"; done
psql -At -c "select pg_terminate_backend(pid) from pg_stat_activity where state='idle in transaction' and now()-state_change > interval '1 hour'"
pg_dump -Fc shop | ssh backup@vault 'cat > /srv/dumps/shop.dump'
vacuumdb --all --analyze-in-stages; reindexdb --concurrently shop
redis-cli CONFIG SET maxmemory 2gb && redis-cli BGSAVE
sed -ri 's/(^Port ).*/\12222/' /etc/ssh/sshd_config.d/port.conf && sshd -t && systemctl restart sshd
update-alternatives --set editor /usr/bin/vim.basic
growpart /dev/sda 1 && resize2fs /dev/sda1
xfs_growfs /srv && df -h /srv
mkdir -p /mnt/backup && mount -o ro UUID=0f3c-12 /mnt/backup && rsync -a /mnt/backup/etc/nginx/ /etc/nginx/ && umount /mnt/backup
exec > >(tee -a /var/log/provision.log) 2>&1
	echo "start $(date)"
declare -i fails=0
	for url in https://a.example https://b.example; do
	  code=$(curl -s -o /dev/null -w '%{http_code}' "$url")
	  [[ $code == 200 ]] || { echo "$url $code"; fails+=1; }
	done
	exit $((fails > 0))
pids=(); for h in web-{1..4}; do ssh "$h" uptime & pids+=($!); done; for p in "${pids[@]}"; do wait "$p" || echo "one failed"; done
test -x /usr/sbin/logrotate || exit 0
	/usr/sbin/logrotate --state /var/lib/logrotate/status /etc/logrotate.conf
	EXITVALUE=$?
	[ $EXITVALUE != 0 ] && /usr/bin/logger -t logrotate "ALERT exited abnormally with [$EXITVALUE]"
	exit $EXITVALUE
cp -p /etc/hosts{,.bak} && printf '10.0.0.5 db-1 db-1.internal\n' >> /etc/hosts
ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/deploy -C "deploy@$(hostname)" <<< n
ssh -J bastion app-2 'journalctl -u app -n 50 --no-pager'
git clone --depth 1 -b v2.3 https://github.com/acme/tool.git /opt/tool && make -C /opt/tool install
tar xzf app.tgz -C /opt --transform 's,^app-[^/]*,app,' && chown -R root:root /opt/app
unzip -oq plugin.zip -d /var/www/html/wp-content/plugins && chown -R www-data: /var/www/html/wp-content/plugins
wp --path=/var/www/html plugin update --all --allow-root
logger -p local0.notice -t deploy "version $(cat /opt/app/VERSION) live"
sync; echo 3 > /proc/sys/vm/drop_caches
swapoff /swapfile && fallocate -l 4G /swapfile && mkswap /swapfile && swapon /swapfile
rm -f /etc/nginx/sites-enabled/old.conf /var/run/app.sock
rm -rf "$WORKSPACE/target" "${TMPDIR:-/tmp}/build-$$"
pkill -f 'node server.js' ; sleep 1; cd /srv/app && nohup node server.js >> app.log 2>&1 &
systemctl list-timers --all --no-pager; systemctl cat backup.timer
systemd-analyze blame | head; systemctl reset-failed
date -d '@1700000000' +%FT%T
timedatectl status && timedatectl set-timezone Europe/Berlin
chronyc tracking; chronyc makestep
mdatp health --field real_time_protection_enabled
auditctl -s; ausearch -m avc -ts recent
journalctl -b -p err --no-pager | tail -50
printf '[Journal]\nStorage=persistent\n' > /etc/systemd/journald.conf.d/10-persistent.conf && systemctl restart systemd-journald
systemctl restart rsyslog auditd
ls -l /var/mail; du -sh /var/spool/mail
export HISTSIZE=5000 HISTTIMEFORMAT='%F %T '
ls -l /dev/shm; df -h /dev/shm
du -sh ~/.opsjobs
passwd -S ada
#: written without a look at the rules, of what is done to machines every day
df -hT --exclude-type=tmpfs --exclude-type=devtmpfs
du -xsh /var/* 2>/dev/null | sort -rh | head -20
find /var/log -name '*.gz' -mtime +90 -delete
find /tmp -maxdepth 1 -user deploy -name 'build-*' -mmin +600 -exec rm -rf {} +
rsync -a --delete ./public/ /var/www/site/current/
tar -czf "/backup/etc-$(date +%F).tar.gz" /etc
tar -xzf release.tar.gz -C /opt/app/releases/42 --strip-components=1
ln -sfn /opt/app/releases/42 /opt/app/current
systemctl restart nginx && systemctl is-active nginx
systemctl reload haproxy || journalctl -u haproxy -n 50 --no-pager
journalctl -u app --since "1 hour ago" | grep -c ERROR
ss -tlnp | awk 'NR>1 {print $4}' | sort -u
ip -br addr; ip route show default
curl -fsS -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8080/healthz
wget -q -O /tmp/app.deb https://packages.example.com/app_1.2.deb && sha256sum -c /tmp/app.sha256
apt-get update -qq && apt-get install -y --no-install-recommends curl jq
apt-get -y autoremove && apt-get clean
pip install --user -r requirements.txt
npm ci && npm run build && rm -rf node_modules/.cache
git -C /srv/repo fetch --prune && git -C /srv/repo reset --hard origin/main
docker pull registry.example.com/app:42 && docker compose -f /opt/app/compose.yml up -d
docker image prune -f
docker logs --tail 100 web 2>&1 | grep -i error || true
kubectl rollout restart deployment/web -n shop
kubectl get pods -A --field-selector=status.phase!=Running
kubectl delete pod web-7d9f -n shop
kubectl -n shop delete job migrate --ignore-not-found
psql -Atc 'select count(*) from pg_stat_activity'
pg_dump -Fc shop > "/backup/shop-$(date +%u).dump"
psql shop -c "delete from sessions where expires_at < now() - interval '7 days'"
mysql -e 'SHOW PROCESSLIST' | wc -l
mysqldump --single-transaction shop | gzip > /backup/shop.sql.gz
redis-cli ping | grep -q PONG
redis-cli --scan --pattern 'session:*' | head
aws s3 sync ./dist s3://site-assets --delete
aws s3 cp /backup/shop.dump s3://backups/shop/$(date +%F).dump
openssl x509 -in /etc/ssl/certs/app.pem -noout -enddate
certbot renew --quiet --deploy-hook 'systemctl reload nginx'
chown -R www-data:www-data /var/www/site/shared/uploads
chmod 640 /etc/app/config.yml
chmod -R g+w /srv/shared/projects
useradd --system --home /opt/app --shell /usr/sbin/nologin app
id deploy || adduser --disabled-password --gecos '' deploy
passwd -S deploy
sed -i 's/^#\?LogLevel .*/LogLevel warn/' /etc/app/app.conf
sed -n '1,20p' /etc/hosts
grep -q '^10.0.0.5 db$' /etc/hosts || echo '10.0.0.5 db' >> /etc/hosts
sysctl -w vm.swappiness=10
lsblk -o NAME,SIZE,TYPE,MOUNTPOINT
mount -o remount,rw /srv/data
dd if=/dev/zero of=/tmp/testfile bs=1M count=100 conv=fdatasync && rm /tmp/testfile
lvextend -r -L +10G /dev/vg0/data
resize2fs /dev/vg0/data
fstrim -av
(crontab -l 2>/dev/null; echo '15 3 * * * /opt/app/bin/cleanup') | crontab -
: > /var/log/app/debug.log
kill -HUP "$(cat /run/app.pid)"
pkill -u deploy -f 'python worker.py' || true
for h in web1 web2 web3; do ssh "$h" uptime; done
while ! nc -z localhost 5432; do sleep 1; done
timeout 30 bash -c 'until curl -sf localhost:9200; do sleep 2; done'
set -euo pipefail; cd "$(mktemp -d)"; trap 'rm -rf "$PWD"' EXIT; make -C /src all
tmp=$(mktemp -d) && tar xf x.tar -C "$tmp" && rm -rf "$tmp"
[ -f /var/run/reboot-required ] && cat /var/run/reboot-required.pkgs
last -n 20 | awk '{print $1}' | sort | uniq -c
getent group sudo
iptables -L -n -v | head -40
firewall-cmd --list-all
ethtool eth0 | grep Speed
dig +short example.com @10.0.0.2
timedatectl status
tail -n 500 /var/log/syslog | grep -i oom
ps -eo pid,pcpu,pmem,comm --sort=-pcpu | head
rm -f /opt/app/shared/tmp/*.lock
rm -rf /opt/app/releases/39
rm -rf ./dist ./build
find . -name '__pycache__' -type d -prune -exec rm -rf {} +
mv /etc/app/config.yml.new /etc/app/config.yml
cp -a /etc/nginx/nginx.conf{,.bak}
install -m 0755 app /usr/local/bin/app
gpg --verify release.tar.gz.asc release.tar.gz
base64 -d <<< 'aGVsbG8K'
python3 -m json.tool < /etc/app/config.json > /dev/null
hostnamectl set-hostname web-3
systemctl daemon-reload; systemctl enable --now app.service
#: some processes, by name or by list
kill $(ps -C worker -o pid=)
ps aux | grep '[w]orker' | awk '{print $2}' | xargs -r kill
kill $(pgrep -u app -f 'gunicorn: worker')
ps -eo pid,etimes,comm | awk '$3 == "worker" && $2 > 3600 {print $1}' | xargs -r kill
kill $(lsof -t -i :8080)
#: a script that starts itself once, or for two different tasks
"$0" --daemon &
"$0" web & "$0" worker & wait
#: lists from files that delete nothing
xargs -a packages.txt apt-get install -y
xargs -n1 ping -c1 < hosts
ls -dt /srv/app/releases/* | tail -n +6 | xargs rm -rf
