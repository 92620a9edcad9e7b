#!/usr/bin/env bash
# A SLURM controller and one node on this machine, on loopback, for the tests:
#   local_slurm.sh start DIR    writes DIR/slurm.conf; use it with SLURM_CONF=DIR/slurm.conf
#   local_slurm.sh stop DIR
# Needs root and Debian's slurm-wlm and munge. Nothing outside DIR is written.
set -euo pipefail
action=${1:?start or stop}
dir=$(realpath -m "${2:?a directory}")
export SLURM_CONF=$dir/slurm.conf

start() {
  mkdir -p "$dir/state" "$dir/spool"
  (umask 077 && head -c 128 /dev/urandom > "$dir/munge.key")
  cat > "$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$(hostname)(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmUser=root
SlurmctldPort=${SLURMCTLD_PORT:-6817}
SlurmdPort=${SLURMD_PORT:-6818}
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
MailProg=/bin/true
ReturnToService=2
JobRequeue=1
KillWait=60
SchedulerParameters=sched_interval=2,batch_sched_delay=0
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" \
    --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
  slurmctld
  slurmd
  for _ in $(seq 60); do
    sinfo --noheader --format=%T 2> /dev/null | grep -q idle && return
    sleep 0.5
  done
  echo "the node does not become idle: see $dir/slurmctld.log and $dir/slurmd.log" >&2
  exit 1
}

# Every process that was started with this configuration, job steps and leftovers included.
ours() {
  for environ in /proc/[0-9]*/environ; do
    pid=${environ//[!0-9]/}
    case $(cat "/proc/$pid/comm" 2> /dev/null) in slurm* | munged) ;; *) continue ;; esac
    ! grep -qz "^SLURM_CONF=$SLURM_CONF$" "$environ" 2> /dev/null || echo "$pid"
  done
  return 0
}

stop() {
  scancel --full --user=root 2> /dev/null || true
  scontrol shutdown 2> /dev/null || true
  [ ! -f "$dir/munged.pid" ] || kill "$(cat "$dir/munged.pid")" 2> /dev/null || true
  for signal in TERM TERM KILL; do
    for _ in $(seq 20); do
      pids=$(ours)
      [ -n "$pids" ] || return 0
      kill "-$signal" $pids 2> /dev/null || true
      sleep 0.25
    done
  done
}

case $action in
  start) start ;;
  stop) stop ;;
  *) echo "unknown action $action: start or stop" >&2; exit 2 ;;
esac
