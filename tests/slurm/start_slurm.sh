#!/usr/bin/env bash
# A real Slurm on one Debian 12 machine, for tests: four virtual nodes, two of them with two fake GPUs, and accounting,
# so that sacct works. As root; without systemd, containers or cgroups. Every daemon listens on loopback only and has a
# pid file. Starting twice is harmless.
#   start_slurm.sh start    install what is missing (apt), start, wait until all nodes are up
#   start_slurm.sh stop     stop what this script started
#   start_slurm.sh wipe     stop, and delete all state
# Environment: SLURM_LAB (state folder, else a folder of the user's), SLURM_LAB_CPUS and SLURM_LAB_MEM (MB) of each node, which may exceed the machine's
set -euo pipefail

LAB=${SLURM_LAB:-${XDG_STATE_HOME:-$HOME/.local/state}/scgpt-slurm}
TEMPLATES="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/templates"
CPUS=${SLURM_LAB_CPUS:-16}
MEM=${SLURM_LAB_MEM:-64000}
HOST=$(hostname -s)
CONFIGS=(slurm.conf slurmdbd.conf gres.conf)
NODES=(n1 n2 n3 n4)

say() { printf '[slurm] %s\n' "$*" >&2; }
die() { say "ERROR: $*"; exit 1; }

install_packages() {
    local package missing=()
    for package in slurmctld slurmd slurm-client slurmdbd munge mariadb-server-core mariadb-client-core; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    # exit 101 keeps the packages from starting daemons of their own
    local policy=/usr/sbin/policy-rc.d
    if [ -e $policy ]; then policy=; else printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy; fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$LAB.apt.log" 2>&1 ||
        die "apt-get install failed: $(tail -n 5 "$LAB.apt.log")"
    [ -z "$policy" ] || rm -f "$policy"
}

# A zombie is gone too: where nobody reaps, kill -0 would succeed on it for ever.
gone() {
    local state
    state=$(sed -n 's/^State:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null) || true
    [ -z "$state" ] || [ "${state:0:1}" = Z ]
}
alive() { # NAME PROGRAM: does the pid file belong to a living PROGRAM?
    local pid
    pid=$(cat "$LAB/run/$1.pid" 2>/dev/null) || return 1
    [ -n "$pid" ] && ! gone "$pid" && grep -q "^$2" "/proc/$pid/comm" 2>/dev/null
}
wait_for() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}
launch() { # NAME COMMAND...: a daemon that puts itself into the background (and must not inherit our lock)
    local name=$1
    shift
    setsid "$@" </dev/null >"$LAB/log/$name.start" 2>&1 9>&- || die "$name: $(cat "$LAB/log/$name.start")"
}
stop_daemon() { # NAME PROGRAM SECONDS
    if alive "$1" "$2"; then
        local pid
        pid=$(cat "$LAB/run/$1.pid")
        kill -TERM "$pid" 2>/dev/null || true
        wait_for "$3" gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
    fi
    rm -f "$LAB/run/$1.pid"
}
all_up() { [ "$(sinfo -h -N -p cpu,frail -o '%T' | grep -c -E '^(idle|mixed|allocated|completing)$')" = ${#NODES[@]} ]; }
no_jobs() { [ -z "$(squeue -h -t RUNNING,COMPLETING,PENDING)" ]; }
registered() { [ -n "$(sacctmgr -n -P show cluster lab format=ControlHost)" ]; }

write_configs() {
    local config
    for config in "${CONFIGS[@]}"; do
        sed -e "s|@LAB@|$LAB|g" -e "s|@HOST@|$HOST|g" -e "s|@CPUS@|$CPUS|g" -e "s|@MEM@|$MEM|g" \
            "$TEMPLATES/$config.in" >"$LAB/etc/$config"
        # In /etc/slurm, because a job's own srun does not see SLURM_CONF: the executor plugin strips it.
        if [ -e "/etc/slurm/$config" ] && [ "$(readlink "/etc/slurm/$config")" != "$LAB/etc/$config" ]; then
            die "/etc/slurm/$config belongs to a Slurm of this machine: nothing was changed there"
        fi
        ln -sfn "$LAB/etc/$config" "/etc/slurm/$config"
    done
    chmod 600 "$LAB/etc/slurmdbd.conf"
}

start_munge() {
    if ! alive munged munged; then
        [ -s "$LAB/munge/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$LAB/munge/munge.key")
        chmod 711 "$LAB/munge"
        launch munged /usr/sbin/munged --force --key-file="$LAB/munge/munge.key" --socket="$LAB/munge/munge.socket" \
            --pid-file="$LAB/run/munged.pid" --log-file="$LAB/log/munged.log" --seed-file="$LAB/munge/seed"
    fi
    wait_for 10 munge -S "$LAB/munge/munge.socket" -n || die "munged did not start, see $LAB/log/munged.log"
}

start_accounting() {
    if [ ! -d "$LAB/sql/mysql" ]; then
        mariadb-install-db --no-defaults --datadir="$LAB/sql" --user=root --skip-test-db \
            --auth-root-authentication-method=socket >"$LAB/log/mariadb-install.log" 2>&1
    fi
    if ! alive mariadbd mariadbd; then
        setsid /usr/sbin/mariadbd --no-defaults --datadir="$LAB/sql" --user=root --socket="$LAB/run/sql.sock" \
            --pid-file="$LAB/run/mariadbd.pid" --bind-address=127.0.0.1 --port=16306 --skip-name-resolve \
            --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 \
            </dev/null >"$LAB/log/mariadbd.log" 2>&1 9>&- &
        disown
    fi
    wait_for 30 mariadb -S "$LAB/run/sql.sock" -e 'select 1' || die "mariadbd did not start, see $LAB/log/mariadbd.log"
    mariadb -S "$LAB/run/sql.sock" -e "create database if not exists slurm_acct_db;
        create user if not exists 'slurm'@'127.0.0.1' identified by 'slurm';
        grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';"
    alive slurmdbd slurmdbd || launch slurmdbd /usr/sbin/slurmdbd
    wait_for 30 sacctmgr -n show cluster || die "slurmdbd did not start, see $LAB/log/slurmdbd.log"
    if [ -z "$(sacctmgr -n -P show cluster lab format=cluster)" ]; then
        sacctmgr -i -Q add cluster lab >/dev/null
        sacctmgr -i -Q add account lab Description=lab Organization=lab >/dev/null
        sacctmgr -i -Q add user root Account=lab >/dev/null
    fi
}

start() {
    local i node
    [ "$(id -u)" = 0 ] || die "run me as root"
    install_packages
    getent hosts "$HOST" >/dev/null || echo "127.0.0.1 $HOST" >>/etc/hosts
    if alive slurmctld slurmctld && all_up; then
        say "already up"
        return 0
    fi
    mkdir -p "$LAB"/{etc,state,spool/n1,spool/n2,run,log,dev,munge,sql} /etc/slurm
    chmod 755 "$LAB"
    for i in 0 1; do # fake GPUs: copies of /dev/null
        [ -e "$LAB/dev/gpu$i" ] || mknod "$LAB/dev/gpu$i" c 1 3
    done
    write_configs
    start_munge
    start_accounting
    alive slurmctld slurmctld || launch slurmctld /usr/sbin/slurmctld
    wait_for 20 scontrol ping || die "slurmctld did not start, see $LAB/log/slurmctld.log"
    wait_for 20 registered || die "slurmctld did not register with slurmdbd" # sacct lags behind before
    for node in "${NODES[@]}"; do alive slurmd-$node slurmd || launch slurmd-$node /usr/sbin/slurmd -N $node; done
    if ! wait_for 5 all_up; then # an earlier test may have left one down
        scontrol update nodename=n[1-4] state=resume 2>/dev/null || true
        wait_for 25 all_up || die "the nodes did not come up: $(sinfo -N -l 2>&1)"
    fi
    say "up: $(sinfo -h -o '%P %D %T' | tr '\n' ';')"
}

stop() {
    if alive slurmctld slurmctld; then
        scancel -u root 2>/dev/null || true
        wait_for 10 no_jobs || say "jobs are left after scancel"
    fi
    local config node process
    for node in "${NODES[@]}"; do stop_daemon "slurmd-$node" slurmd 10; done
    # what outlived its job on a node that a test took down
    for process in $(grep -lzx SLURM_CLUSTER_NAME=lab /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3); do
        [ "$process" = $$ ] || kill -KILL "$process" 2>/dev/null || true
    done
    stop_daemon slurmctld slurmctld 20
    stop_daemon slurmdbd slurmdbd 20
    stop_daemon mariadbd mariadbd 30
    stop_daemon munged munged 10
    for config in "${CONFIGS[@]}"; do
        [ "$(readlink "/etc/slurm/$config" 2>/dev/null)" != "$LAB/etc/$config" ] || rm -f "/etc/slurm/$config"
    done
    say "stopped"
}

case "${1:-}" in
start | stop | wipe)
    mkdir -p "$(dirname "$LAB")"
    exec 9>"$LAB.lock"
    flock -w 120 9 || die "another start or stop is running"
    ;;
esac
case "${1:-}" in
start) start ;;
stop) stop ;;
wipe)
    stop
    rm -rf "$LAB" "$LAB.apt.log"
    ;;
*)
    sed -n '2,8p' "$0"
    exit 2
    ;;
esac
