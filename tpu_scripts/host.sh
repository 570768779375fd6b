#!/usr/bin/env bash
# What the other scripts do on each host, in the checkout that setup.sh put there.
#
#   host.sh install [gs://BUCKET | HOST:/SHARE]   mounts what is shared, installs, looks for a TPU
#   host.sh exec vjax.MODULE …                    runs a module here and becomes it
#   host.sh start vjax.MODULE …                   runs it on, without a terminal
#   host.sh follow | wait | stop                  the log | its end, with its status | SIGTERM
#   host.sh --dry-run …                           prints the commands of install and exec
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mounted=${VJAX_MOUNT:-/mnt/vjax}
state=.run # of the run that was started last: its log, pid and status

fail() {
  echo "$(hostname): $*" >&2
  exit 1
}

dry_run=''
if [ "${1-}" = --dry-run ]; then
  dry_run=1
  shift
fi
run() {
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

mount_share() {
  run sudo mkdir -p "$mounted"
  if mountpoint -q "$mounted"; then return; fi
  case $1 in
    gs://*)
      command -v gcsfuse >/dev/null || [ -n "$dry_run" ] || install_gcsfuse
      run sudo chown "$(id -u)" "$mounted"
      run gcsfuse --implicit-dirs "${1#gs://}" "$mounted"
      ;;
    *)
      run sudo apt-get install -y -q nfs-common
      run sudo mount -t nfs -o rw,hard "$1" "$mounted"
      ;;
  esac
}

install_gcsfuse() {
  curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg |
    sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
  echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -q
  sudo apt-get install -y -q gcsfuse
}

link_share() {
  if [ -d runs ] && [ ! -L runs ]; then
    fail "vjax/runs is a directory of this host alone: move what it has to $mounted/runs first."
  fi
  run mkdir -p "$mounted/runs" "$mounted/compiled"
  run ln -sfn "$mounted/runs" runs
}

find_tpu() {
  local device
  for device in ${TPU_DEVICES:-/dev/accel* /dev/vfio/[0-9]*}; do
    if [ -e "$device" ]; then return; fi
  done
  fail "There is no TPU here: neither /dev/accel* nor /dev/vfio/N. Is this a TPU VM, or a pod with google.com/tpu among its limits?"
}

running() { [ -f "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null; }

action=${1-}
[ $# -eq 0 ] || shift
case $action in
  -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' tpu_scripts/host.sh ;;
  install)
    if [ $# -gt 0 ]; then
      mount_share "$1"
      link_share
    fi
    # The images have an older Python; uv brings one.
    run python3 -m pip install --user --quiet uv
    [ -x .venv/bin/python ] || run python3 -m uv venv --quiet --python 3.12 .venv
    run python3 -m uv pip install --quiet --python .venv/bin/python -c constraints.txt -e '.[tpu]'
    [ -n "$dry_run" ] || find_tpu
    ;;
  exec)
    [[ ${1-} == vjax.* ]] || fail "A module of vjax is needed, such as vjax.train, not ${1-nothing}."
    [ -n "$dry_run" ] || find_tpu
    python=.venv/bin/python
    [ -x "$python" ] || python=python3
    if [ -d "$mounted" ]; then
      link_share
      export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$mounted/compiled}
    fi
    export VJAX_START_SECONDS=${VJAX_START_SECONDS:-600} # hosts come up one after another
    export VJAX_PREEMPTED_STATUS=${VJAX_PREEMPTED_STATUS:-75} # saved, and not at its end: start it again
    export JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu} # never a quiet run on the CPU
    if [ -n "$dry_run" ]; then run "$python" -m "$@"; else exec "$python" -m "$@"; fi
    ;;
  start)
    if running; then fail "A run is going on here already: run.sh NAME --stop ends it."; fi
    mkdir -p "$state"
    rm -f "$state/status" "$state/pid" "$state/stopped"
    # shellcheck disable=SC2016 # the inner shell expands it
    setsid nohup bash -c '
      tpu_scripts/host.sh exec "$@" & echo $! > .run/pid; wait $!; echo $? > .run/new; mv .run/new .run/status
    ' start "$@" >"$state/log" 2>&1 </dev/null &
    until [ -s "$state/pid" ]; do sleep 0.1; done
    ;;
  follow)
    [ -f "$state/pid" ] || fail "Nothing was started here."
    tail -n +1 -F --pid="$(cat "$state/pid")" "$state/log" 2>/dev/null
    ;;
  wait)
    [ -f "$state/pid" ] || fail "Nothing was started here."
    while running; do sleep 1; done
    for _ in 1 2 3 4 5 6 7 8 9 10; do [ -f "$state/status" ] || sleep 0.2; done
    status=$(cat "$state/status" 2>/dev/null || echo 137) # killed, with all that watched it
    if [ "$status" -eq 75 ] && [ -f "$state/stopped" ]; then status=143; fi # by hand, no preemption
    if [ "$status" -ne 0 ]; then
      echo "$(hostname) ended with $status:" >&2
      tail -n 20 "$state/log" >&2
    fi
    exit "$status"
    ;;
  stop)
    if running; then
      touch "$state/stopped"
      kill -TERM "$(cat "$state/pid")"
    fi
    ;;
  *) fail "install, exec, start, follow, wait or stop is needed, not ${action:-nothing}." ;;
esac
