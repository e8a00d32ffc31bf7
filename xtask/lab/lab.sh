#!/usr/bin/env bash
# Throw-away machines for trueup's tests: `cargo xtask lab` calls this.
#
# A host is a process tree in its own mount, pid, uts, ipc, net and cgroup namespaces with systemd as pid 1, its own
# /nix, sshd, and an address on a bridge that leads nowhere. All share one read-only root (base.sh) under an overlay
# each. `reboot`, `poweroff` and pulling the plug work and keep the overlay, as a disk does.
# It touches only what carries its lab id: /var/tmp/trueup-lab/ID, bridge tulabID, links tvID-*, namespaces tulabID-*.
#
#   lab up N | NAME...        start hosts h1..hN, or those named; returns when root ssh answers on all
#   lab ssh NAME [CMD]        run a command on a host
#   lab crash NAME            kill the whole host at once and boot it again (a power cut)
#   lab halt NAME             stop it, keep its disk; `up NAME` boots it again
#   lab reset NAME...         a new disk, the same identity, booted
#   lab net NAME on|off       plug in or pull its network cable
#   lab grub NAME             make it a host that GRUB boots, with GRUB's own tools (systemd-boot otherwise)
#   lab list [-o json]        hosts: name, address, port, key, hostKey, known_hosts, state, bootId
#   lab logs NAME [ARGS]      its journal, read from its disk, so also of a dead host
#   lab env [-o json]         exports for a shell: PATH with nix, NIX_CONFIG, NIX_SSHOPTS, TRUEUP_LAB_*
#   lab seed STORE            put the fixture fleets' builder (busybox) into a store; prints its name and hash
#   lab down [NAME...]        destroy those named, or the whole lab
#   lab base | check          make the shared root | say whether hosts can run here (exit 3 and why, if not)
#   lab claim PID | reap      take a free lab id for as long as process PID lives | destroy the labs whose owner is gone
#
# Settings: TRUEUP_LAB_ID (0..199, one per lab; the network is 10.211.ID.0/24; default 7),
# TRUEUP_LAB_CACHE (the shared root; default ~/.cache/trueup-lab), TRUEUP_LAB_MIRROR (default: this machine's apt's).
set -euo pipefail

SELF=$(readlink -f "${BASH_SOURCE[0]}")
HERE=${SELF%/*}
LABS=/var/tmp/trueup-lab
export TRUEUP_LAB_CACHE=${TRUEUP_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trueup-lab}
CACHE=$TRUEUP_LAB_CACHE
HOST_UP_SECS=60    # a boot takes 2-7 s; ten times that on a busy machine means that it will not come
ID_FIRST_CLAIMED=100 ID_LAST=199

say() { echo "lab: $*" >&2; }
die() { say "$*"; exit 1; }

[ "${1:-help}" != help ] || { sed -n '2,/^set -/p' "$SELF" | grep '^#' | cut -c3-; exit 0; }
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || die "needs root or sudo"
  exec sudo -n --preserve-env=TRUEUP_LAB_ID,TRUEUP_LAB_CACHE,TRUEUP_LAB_MIRROR,TRUEUP_LAB_OWNER "$SELF" "$@"
fi

use_lab() { # ID
  [[ $1 =~ ^(0|[1-9][0-9]{0,2})$ ]] && [ "$1" -le $ID_LAST ] || die "TRUEUP_LAB_ID must be 0..$ID_LAST, not '$1'"
  ID=$1 LAB=$LABS/$1 NET=10.211.$1 BRIDGE=tulab$1
}
use_lab "${TRUEUP_LAB_ID:-7}"
# shellcheck source=base.sh
. "$HERE/base.sh"
# shellcheck source=host.sh
. "$HERE/host.sh"
# shellcheck source=grub.sh
. "$HERE/grub.sh"

# ------------------------------------------------------------------------------------------------ names and places
host_name() { # NAME or NUMBER
  [[ $1 =~ ^[0-9]+$ ]] && { echo "h$1"; return; }
  [[ $1 =~ ^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$ ]] || die "'$1' is no host name (a DNS label of at most 32 letters)"
  echo "$1"
}
known() { [ -d "$LAB/hosts/$1" ] || die "no host '$1' in lab $ID; there are: $(ls "$LAB/hosts" 2>/dev/null | tr '\n' ' ')"; }
number() { cat "$LAB/hosts/$1/number"; }
address() { echo "$NET.$(number "$1")"; }
netns() { echo "tulab$ID-$1"; }
link() { echo "tv$ID-$(number "$1")"; }

# A process named so that a recycled pid is not taken for it: pid and start time.
stamp_of() { local s; s=$(cat "/proc/$1/stat" 2>/dev/null) && s=${s##*) } && echo "$1 $(echo "$s" | cut -d' ' -f20)"; }
self_stamp() { stamp_of $BASHPID; }
stamp_lives() { local p _; { read -r p _ < "$1"; } 2>/dev/null && [ "$(stamp_of "$p")" = "$(cat "$1" 2>/dev/null)" ]; }
alive() { stamp_lives "$LAB/hosts/$1/supervisor"; }

# hN is .(10+N); any other name gets a free number from 130 up, kept in its folder
allot() { # NAME
  local f=$LAB/hosts/$1/number n
  [ -s "$f" ] && return
  case $1 in
    h[1-9] | h[1-9][0-9]) n=$((10 + ${1#h})) ;;
    *) n=130; while grep -qsx $n "$LAB"/hosts/*/number; do n=$((n + 1)); done ;;
  esac
  [ "$n" -le 250 ] || die "more hosts than the lab's network has addresses"
  mkdir -p "${f%/*}"; echo "$n" > "$f"
}

ssh_options() {
  echo "-F /dev/null -i $LAB/id -o IdentitiesOnly=yes -o UserKnownHostsFile=$LAB/known_hosts" \
    "-o StrictHostKeyChecking=yes -o BatchMode=yes -o ConnectTimeout=5 -o LogLevel=ERROR"
}
# shellcheck disable=SC2046
ssh_to() { local n=$1; shift; ssh $(ssh_options) "root@$(address "$n")" "$@"; }

# ------------------------------------------------------------------------------------------------ what it needs
need_tools() {
  local missing=() pair
  for pair in mmdebstrap:mmdebstrap ip:iproute2 ssh:openssh-client ssh-keygen:openssh-client unshare:util-linux \
    setpriv:util-linux flock:util-linux journalctl:systemd; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ -f /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
  # a machine that has never fetched its package lists does not say which mirror it uses (base.sh asks)
  if [ ! -f "$BASE/.done" ] && [ ${#missing[@]} = 0 ] && [ -z "$(debian_source)" ] && command -v apt-get >/dev/null; then
    apt-get update -q >&2 || :
  fi
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "missing: ${missing[*]} (and no apt-get to install them)"
  say "installing ${missing[*]}"
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"; } >&2
}

# Exit 3 and the reason where hosts cannot run: no Linux, no namespaces, no writable cgroup2, no overlay.
check() {
  [ "$(uname -sm)" = "Linux x86_64" ] || { say "lab hosts need x86-64 Linux"; exit 3; }
  unshare -m -u -i -n -p -C --fork true 2>/dev/null || { say "namespaces are not allowed here (in a container without privileges?)"; exit 3; }
  local probe; probe=$(cgroup_root)/trueup-lab-check.$$
  { mkdir "$probe" && rmdir "$probe"; } 2>/dev/null || { say "no writable cgroup2 here"; exit 3; }
  grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null || { say "this kernel has no overlay file system"; exit 3; }
}
cgroup_root() { if [ -d /sys/fs/cgroup/unified ]; then echo /sys/fs/cgroup/unified; else echo /sys/fs/cgroup; fi; }
cgroup_lab() { echo "$(cgroup_root)/trueup-lab/$ID"; }

# Never half-written: who reads it meanwhile would take the lab for one without an owner, and destroy it.
own() { # PID
  local stamp; stamp=$(stamp_of "$1") && echo "$stamp" > "$LAB/owner.$BASHPID" && mv "$LAB/owner.$BASHPID" "$LAB/owner"
}

prepare() {
  need_tools; make_base
  mkdir -p "$LAB"
  [ -z "${TRUEUP_LAB_OWNER:-}" ] || own "$TRUEUP_LAB_OWNER"
  # one kernel for all hosts: systemd needs inotify instances, and 128 are too few for a dozen
  [ "$(cat /proc/sys/fs/inotify/max_user_instances)" -ge 4096 ] || echo 4096 > /proc/sys/fs/inotify/max_user_instances 2>/dev/null || :
  # an overlay's upper folder cannot lie on an overlay (inside Docker, say): memory then
  [ "$(stat -f -c %T "$LAB")" != overlayfs ] || mount -t tmpfs -o mode=711 tmpfs "$LAB"
  mkdir -p "$LAB/hosts"; chmod 711 "$LAB"
  [ -f "$LAB/id" ] || ssh-keygen -q -t ed25519 -N '' -C "trueup-lab-$ID" -f "$LAB/id"
  [ -f "$LAB/known_hosts" ] || : > "$LAB/known_hosts"
  local nix=$BASE/usr/lib/trueup-lab/nix/bin/nix
  if [ ! -s "$LAB/cache-key.pub" ]; then
    ( umask 077; "$nix" --extra-experimental-features nix-command key generate-secret --key-name trueup-lab-1 > "$LAB/cache-key.sec" 2>/dev/null )
    "$nix" --extra-experimental-features nix-command key convert-secret-to-public < "$LAB/cache-key.sec" > "$LAB/cache-key.pub" 2>/dev/null
  fi
  # with sudo the person's own ssh and nix read these
  [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID:$SUDO_GID" "$LAB/id" "$LAB/known_hosts" "$LAB/cache-key.sec"
  ip link show "$BRIDGE" >/dev/null 2>&1 ||
    { ip link add "$BRIDGE" type bridge; ip addr add "$NET.1/24" dev "$BRIDGE"; ip link set "$BRIDGE" up; }
}

# ------------------------------------------------------------------------------------------------ starting
new_disk() { # NAME: an empty overlay, with the identity that the host has already or a new one
  local n=$1 dir=$LAB/hosts/$1 up=$LAB/hosts/$1/upper id=$LAB/hosts/$1/identity
  if [ ! -f "$id/machine-id" ]; then
    rm -rf "$id"; mkdir -p "$id"
    ssh-keygen -q -t ed25519 -N '' -C "$n" -f "$id/ssh_host_ed25519_key"
    tr -d - < /proc/sys/kernel/random/uuid > "$id/machine-id"
  fi
  rm -rf "$dir/nvram" "$dir/grub"
  mkdir -p "$up"/{etc/ssh,etc/nix,root/.ssh,usr/bin}; chmod 700 "$up/root" "$up/root/.ssh"
  install -m 755 "$HERE/bootctl.sh" "$up/usr/bin/bootctl"
  cp "$LAB/id.pub" "$up/root/.ssh/authorized_keys"
  cp -p "$id"/ssh_host_* "$up/etc/ssh/"; cp "$id/machine-id" "$up/etc/"
  printf '127.0.0.1 localhost %s\n%s.1 controller\n' "$n" "$NET" > "$up/etc/hosts"
  : > "$up/etc/resolv.conf"
  echo "trusted-public-keys = $(cat "$LAB/cache-key.pub")" > "$up/etc/nix/lab.conf"
  chown -R 0:0 "$up"
  grep -qs "^$(address "$n") " "$LAB/known_hosts" ||
    echo "$(address "$n") $(cut -d' ' -f1,2 "$id/ssh_host_ed25519_key.pub")" >> "$LAB/known_hosts"
  echo "$n" > "$up/etc/hostname" # last: it says that the disk is whole
}

cable() { # NAME: its network namespace, and one link into the bridge
  local n=$1 ns l i; ns=$(netns "$n") l=$(link "$n") i=$(number "$n")
  [ -e "/run/netns/$ns" ] && ip link show "$l" >/dev/null 2>&1 && return
  ip link del "$l" 2>/dev/null || :; ip netns del "$ns" 2>/dev/null || :
  ip netns add "$ns"
  # a fixed address: after `down` and `up` no stale ARP entry sends packets nowhere
  ip link add "$l" type veth peer name eth0 address "$(printf '02:74:75:00:%02x:%02x' "$ID" "$i")" netns "$ns"
  ip link set "$l" master "$BRIDGE" up
  ip -n "$ns" link set lo up; ip -n "$ns" addr add "$NET.$i/24" dev eth0; ip -n "$ns" link set eth0 up # no default route
}

start() { # NAME
  local n=$1 dir=$LAB/hosts/$1 cg c i
  alive "$n" && return
  kill_host "$n" # a supervisor that was killed may have left its host running
  [ -f "$dir/upper/etc/hostname" ] || { discard_disk "$n"; new_disk "$n"; }
  cable "$n"
  cg=$(cgroup_lab); mkdir -p "$cg"
  # a machine with cgroup2 only: hand the controllers down
  if [ "$(cgroup_root)" = /sys/fs/cgroup ]; then
    for i in /sys/fs/cgroup /sys/fs/cgroup/trueup-lab "$cg"; do
      for c in cpu memory pids io; do echo "+$c" > $i/cgroup.subtree_control 2>/dev/null || :; done
    done
  fi
  echo "$cg" > "$dir/cgroup-parent"; rm -f "$dir/power-returns"
  TRUEUP_LAB_ID=$ID setsid bash "$SELF" __supervise "$n" </dev/null >>"$dir/log" 2>&1 8>&- 9>&- &
  disown
}

wait_ssh() { # NAME: until root ssh answers
  local n=$1 deadline=$((SECONDS + HOST_UP_SECS))
  # the port first, it is cheap; then one login
  until timeout 1 bash -c 'exec 3<>"/dev/tcp/$0/22"' "$(address "$n")" 2>/dev/null && ssh_to "$n" true </dev/null 2>/dev/null; do
    [ $SECONDS -lt $deadline ] || { tail -5 "$LAB/hosts/$n/log" >&2; die "$n: no root ssh after $HOST_UP_SECS s"; }
    sleep 0.05
  done
}

# ------------------------------------------------------------------------------------------------ stopping
kill_host() { # NAME: every process of it at once, of this boot and of any before
  local cg p
  for cg in "$(cgroup_lab)/$1".*.*; do
    [ -d "$cg" ] || continue
    if [ -f "$cg/cgroup.kill" ]; then echo 1 > "$cg/cgroup.kill" || :
    else find "$cg" -name cgroup.procs -exec cat {} + 2>/dev/null | while read -r p; do kill -9 "$p" 2>/dev/null || :; done; fi
  done
}
clear_cgroups() { # PREFIX
  local cg try
  for try in $(seq 100); do
    for cg in "$1"*; do [ -d "$cg" ] && find "$cg" -depth -type d -exec rmdir {} + 2>/dev/null || :; done
    compgen -G "$1*" >/dev/null || return 0
    sleep 0.02
  done
}
stop_host() { # NAME
  local n=$1 _
  rm -f "$LAB/hosts/$n/power-returns"; kill_host "$n"
  for _ in $(seq 250); do alive "$n" || break; sleep 0.02; done
  alive "$n" && die "$n: its supervisor does not end"
  clear_cgroups "$(cgroup_lab)/$n."
}
discard_disk() { # NAME: set aside first, since removing takes longer than booting a new one
  local dir=$LAB/hosts/$1 d
  mkdir -p "$LAB/trash"
  for d in upper work; do [ ! -e "$dir/$d" ] || mv "$dir/$d" "$(mktemp -d "$LAB/trash/XXXXXX")"; done
  ( rm -rf --one-file-system "$LAB/trash" 2>/dev/null & ) </dev/null >/dev/null 2>&1 8>&- 9>&-
}
destroy() { # NAME
  local n=$1
  stop_host "$n"
  [ ! -s "$LAB/hosts/$n/number" ] || {
    ip link del "$(link "$n")" 2>/dev/null || :
    sed -i "/^$(address "$n") /d" "$LAB/known_hosts"
  }
  ip netns del "$(netns "$n")" 2>/dev/null || :
  rm -rf --one-file-system "${LAB:?}/hosts/$n"
}
down_all() { # also what a killed `up` or a removed state folder left behind
  local d l cg
  for d in "$LAB"/hosts/*/; do [ ! -d "$d" ] || destroy "$(basename "$d")"; done
  cg=$(cgroup_lab)
  for d in "$cg"/*/; do [ ! -f "$d/cgroup.kill" ] || echo 1 > "$d/cgroup.kill" || :; done
  for l in $(ip -o link show type veth 2>/dev/null | grep -o " tv$ID-[0-9]*"); do ip link del "$l" 2>/dev/null || :; done
  for d in /run/netns/tulab"$ID"-*; do [ ! -e "$d" ] || ip netns del "${d##*/}" 2>/dev/null || :; done
  ip link del "$BRIDGE" 2>/dev/null || :
  clear_cgroups "$cg"; rmdir "${cg%/*}" 2>/dev/null || :
  umount "$LAB" 2>/dev/null || :
  for l in 1 2 3; do rm -rf --one-file-system "$LAB" 2>/dev/null && break; sleep 0.1; done # beside the trash's own removal
  rmdir "$LABS" 2>/dev/null || :
}

# ------------------------------------------------------------------------------------------------ commands
up() {
  check; prepare
  if [[ ${1:-2} =~ ^[0-9]+$ ]]; then
    [ "${1:-2}" -ge 1 ] && [ "${1:-2}" -le 99 ] || die "up N: 1 to 99"
    # shellcheck disable=SC2046
    set -- $(seq -f h%g 1 "${1:-2}")
  fi
  local n pids=() p names=()
  for n; do names+=("$(host_name "$n")"); done
  set -- "${names[@]}"
  # the lock is held over what is shared (numbers, bridge, known_hosts); then all boot at once
  for n; do allot "$n"; start "$n"; done
  exec 8>&- 9>&-
  for n; do wait_ssh "$n" & pids+=($!); done
  for p in "${pids[@]}"; do wait "$p" || exit 1; done
  for n; do echo "$n $(address "$n")"; done
}
reset() {
  local n
  for n; do known "$n"; stop_host "$n"; discard_disk "$n"; ip link set "$(link "$n")" up 2>/dev/null || :; start "$n"; done
  exec 8>&- 9>&-
  for n; do wait_ssh "$n"; done
}
crash() { # NAME
  local n=$1 dir=$LAB/hosts/$1 boots _
  known "$n"; alive "$n" || die "$n is not running"
  boots=$(wc -l < "$dir/boots"); touch "$dir/power-returns"; kill_host "$n"
  for _ in $(seq 250); do [ "$(wc -l < "$dir/boots")" -gt "$boots" ] && break; sleep 0.02; done
  wait_ssh "$n"
}
list() {
  local d n sep='' state
  [ "${1:-} ${2:-}" != "-o json" ] || {
    printf '['
    for d in "$LAB"/hosts/*/; do
      [ -s "$d/number" ] || continue
      n=$(basename "$d"); state=down; ! alive "$n" || state=up
      printf '%s\n {"name":"%s","address":"%s","port":22,"user":"root","key":"%s","hostKey":"%s","known_hosts":"%s","state":"%s","bootId":"%s","boots":%s}' \
        "$sep" "$n" "$(address "$n")" "$LAB/id" "$(cut -d' ' -f1,2 "$d/identity/ssh_host_ed25519_key.pub" 2>/dev/null)" \
        "$LAB/known_hosts" "$state" "$(cat "$d/boot_id" 2>/dev/null)" "$(cat "$d/boots" 2>/dev/null | wc -l)"
      sep=,
    done
    printf '\n]\n'; return
  }
  for d in "$LAB"/hosts/*/; do
    [ -s "$d/number" ] || continue
    n=$(basename "$d"); state=down; ! alive "$n" || state=up
    printf '%-16s %-16s %s\n' "$n" "$(address "$n")" "$state"
  done
}
lab_env() { # [-o json]
  local tools=$BASE/usr/lib/trueup-lab name sep=''
  local -A env=(
    [TRUEUP_LAB_ID]=$ID [TRUEUP_LAB_STATE]=$LAB [TRUEUP_LAB_NET]=$NET
    [TRUEUP_LAB_NIX]=$tools/nix/bin [TRUEUP_LAB_BUSYBOX]=$tools/busybox
    [NIX_SSHOPTS]=$(ssh_options)
    [NIX_CONFIG]="experimental-features = nix-command flakes
build-users-group =
substituters =
sandbox-fallback = false
sandbox-paths = /bin/sh=$tools/nix/bin/bash-static
secret-key-files = $LAB/cache-key.sec"
  )
  if [ "${1:-} ${2:-}" = "-o json" ]; then # no value has a quote or a backslash in it
    for name in "${!env[@]}"; do printf '%s"%s":"%s"' "${sep:-{}" "$name" "${env[$name]//$'\n'/\\n}"; sep=,; done
    printf '}\n'; return
  fi
  for name in "${!env[@]}"; do echo "export $name='${env[$name]}'"; done
  echo "export PATH='$tools/nix/bin':\"\$PATH\""
}
seed() { # STORE
  local nix=$BASE/usr/lib/trueup-lab/nix/bin/nix tree=$BASE/usr/lib/trueup-lab/busybox
  [ -f "$BASE/.done" ] || { need_tools; make_base; }
  eval "$(lab_env)"
  "$nix" --store "$1" store add --mode nar --name busybox "$tree" >&2
  echo "{ \"name\": \"busybox\", \"sri\": \"$("$nix" hash path "$tree")\" }"
}
claim() { # PID
  local i
  for i in $(seq $ID_FIRST_CLAIMED $ID_LAST); do
    mkdir "$LABS/$i" 2>/dev/null || continue
    use_lab "$i"; own "$1" || { rm -r "${LABS:?}/$i"; die "no process $1"; }
    # When the owner is gone, also by kill -9, the lab goes too; `reap` is for when this guard was killed as well.
    ( setsid bash "$SELF" __guard "$1" & ) </dev/null >/dev/null 2>&1 8>&- 9>&-
    echo "$i"; return
  done
  die "no lab id is free; 'lab reap' destroys those whose owner is gone"
}
reap() {
  local d
  for d in "$LABS"/*/; do
    [ -s "$d/owner" ] && ! stamp_lives "$d/owner" || continue
    use_lab "$(basename "$d")"
    # What its owner's last command is doing to it comes first.
    exec 8>"/run/lock/trueup-lab-$ID.lock"; flock 8
    stamp_lives "$d/owner" || { say "lab $ID has lost its owner"; down_all; }
    exec 8>&-
  done
}

cmd=$1; shift
# What changes the lab holds its lock; what boots or waits lets go of it. It lies outside of what `down` removes.
case $cmd in up | down | reset | halt | claim | reap)
  mkdir -p "$LABS" /run/lock
  case $cmd in claim | reap) exec 9>/run/lock/trueup-lab.lock ;; *) exec 9>"/run/lock/trueup-lab-$ID.lock" ;; esac
  flock 9 ;;
esac
case $cmd in
  up) up "$@" ;;
  down) if [ $# -gt 0 ]; then for n; do n=$(host_name "$n"); known "$n"; destroy "$n"; done; else down_all; fi ;;
  ssh) n=$(host_name "${1:?ssh NAME [CMD]}"); shift; known "$n"; ssh_to "$n" "$@" ;;
  crash) crash "$(host_name "${1:?crash NAME}")" ;;
  halt) n=$(host_name "${1:?halt NAME}"); known "$n"; stop_host "$n" ;;
  reset) reset "$@" ;;
  net) n=$(host_name "${1:?net NAME on|off}"); known "$n"
    case ${2:-} in on) ip link set "$(link "$n")" up ;; off) ip link set "$(link "$n")" down ;; *) die "net NAME on|off" ;; esac ;;
  grub) n=$(host_name "${1:?grub NAME}"); known "$n"; host_grub "$n" ;;
  list) list "$@" ;;
  logs) n=$(host_name "${1:?logs NAME}"); shift; known "$n"; journalctl -D "$LAB/hosts/$n/upper/var/log/journal" --no-pager "$@" ;;
  env) lab_env "$@" ;;
  seed) seed "${1:?seed STORE}" ;;
  base) need_tools; make_base; echo "$BASE" ;;
  check) check ;;
  claim) claim "${1:?claim PID}" ;;
  reap) reap ;;
  __supervise) supervise "$@" ;;
  __boot) boot "$@" ;;
  # Not `down`: by then the lab's id may be somebody else's, and only a reap asks whose it is, under the claims' lock.
  __guard) tail -s 0.3 -f /dev/null --pid="$1"; exec "$SELF" reap ;;
  *) die "no command '$cmd'; 'lab help' lists them" ;;
esac
