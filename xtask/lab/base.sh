# The recipe of the root that all lab hosts share, sourced by lab.sh. The base is cached under the hash of this
# file: whatever changes here makes a new one, and what lab.sh itself does needs none.
# It makes a root and the controller's own Nix; it starts nothing.
# shellcheck shell=bash

SUITE=trixie
BASE_KEY=$(cat "${BASH_SOURCE[0]}" | sha256sum | cut -c1-12)
BASE=$CACHE/base-$BASE_KEY
PACKAGES=systemd,systemd-sysv,dbus,libpam-systemd,openssh-server,nix-bin,nix-setup-systemd,iproute2,nftables
PACKAGES+=,ca-certificates,git,curl,procps,busybox-static,bash-static,patchelf

# The mirror that this machine's apt uses. On anything but Debian mmdebstrap's own default is right.
debian_source() {
  local id mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  # shellcheck disable=SC1091
  id=$(. /etc/os-release; echo "${ID:-}")
  mirror=${TRUEUP_LAB_MIRROR:-}
  if [ -z "$mirror" ] && [ "$id" = debian ]; then
    # several may be configured (security, third parties): the one with most package lists is the archive
    mirror=$(apt-get indextargets --format '$(SITE) $(ORIGIN) $(LABEL)' 'Created-By: Packages' 2>/dev/null |
      awk '$2=="Debian" && $3=="Debian"{n[$1]++} END{for(m in n) print n[m], m}' | sort -rn | awk 'NR==1{print $2}')
  fi
  [ -n "$mirror" ] || return 0
  if [ -f "$keyring" ]; then echo "deb [signed-by=$keyring] $mirror $SUITE main"; else echo "deb $mirror $SUITE main"; fi
}

make_base() {
  [ -f "$BASE/.done" ] && return
  mkdir -p "$CACHE/archives"
  local lock; exec {lock}>"$CACHE/lock"; flock "$lock"
  if [ -f "$BASE/.done" ]; then exec {lock}>&-; return; fi
  say "making the base $BASE (about a minute, some 100 MB of packages)"
  local new=$BASE.new src=() line
  rm -rf --one-file-system "$new" "$BASE"
  line=$(debian_source); [ -z "$line" ] || src=("$line")
  # A mount namespace of its own: a `kill -9` in the middle leaves no mount behind that a later rm could follow.
  # The hooks keep the packages, so that the next recipe needs the network only for the package list.
  unshare --mount --propagation private \
    mmdebstrap --mode=root --variant=minbase --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --skip=essential/unlink \
    --setup-hook="mkdir -p \"\$1\"/var/cache/apt/archives; cp -a '$CACHE'/archives/*.deb \"\$1\"/var/cache/apt/archives/ 2>/dev/null || :" \
    --customize-hook="cp -an \"\$1\"/var/cache/apt/archives/*.deb '$CACHE'/archives/ || :" \
    --include="$PACKAGES" "$SUITE" "$new" ${src[@]+"${src[@]}"} >"$CACHE/base.log" 2>&1 8>&- 9>&- ||
    { tail -20 "$CACHE/base.log" >&2; die "mmdebstrap failed; all of it in $CACHE/base.log"; }
  base_identity "$new"; base_units "$new"; base_nixos "$new"; base_nix "$new"
  touch "$new/.done"; mv "$new" "$BASE"; exec {lock}>&-
  say "made $BASE: $(du -sh "$BASE" | cut -f1)"
}

# One image, many machines: nothing in it may be shared identity.
base_identity() { # ROOT
  rm -f "$1"/etc/ssh/ssh_host_* "$1"/var/lib/dbus/machine-id
  : > "$1/etc/machine-id"; : > "$1/etc/hostname"; : > "$1/etc/default/locale"
  chroot "$1" systemd-sysusers >/dev/null 2>&1 || :
}

base_units() { # ROOT
  local u etc=$1/etc/systemd/system usr=$1/usr/lib/systemd/system
  # What waits for devices that will not come, or is done already because the image is complete.
  for u in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    getty.target console-getty.service systemd-networkd-wait-online.service dev-hugepages.mount sys-fs-fuse-connections.mount \
    ldconfig.service systemd-journal-catalog-update.service systemd-sysusers.service systemd-update-done.service \
    systemd-firstboot.service systemd-hwdb-update.service systemd-binfmt.service systemd-random-seed.service \
    systemd-boot-random-seed.service systemd-pcrmachine.service kmod-static-nodes.service modprobe@.service \
    user@0.service; do # a root session needs no user manager, and on a busy machine it fails now and then
    ln -sfn /dev/null "$etc/$u"
  done
  # sshd as NixOS has it: one `sshd.service`. It lies below /usr, so that a closure's own in /etc takes its place.
  rm -f "$etc"/sshd.service "$etc"/ssh.service "$etc"/multi-user.target.wants/ssh.service \
    "$etc"/sockets.target.wants/ssh.socket "$usr"/ssh.service "$usr"/ssh.socket "$usr"/ssh@.service \
    "$1/etc/init.d/ssh" "$1"/etc/rc?.d/*ssh
  rm -rf "$etc"/ssh.service.wants "$etc"/ssh.socket.wants "$etc"/sshd.service.wants "$etc"/sshd@.service.wants
  cat > "$usr/sshd.service" <<'E'
[Unit]
Description=SSH Daemon
After=network.target
[Service]
Type=notify
ExecStart=/usr/sbin/sshd -D
KillMode=process
Restart=always
RuntimeDirectory=sshd
E
  mkdir -p "$usr/multi-user.target.wants"; ln -sfn ../sshd.service "$usr/multi-user.target.wants/sshd.service"
  # keys only, no name look-ups, many sessions at once (Nix opens several)
  cat > "$1/etc/ssh/sshd_config.d/lab.conf" <<'E'
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
MaxStartups 100:30:200
MaxSessions 100
PrintMotd no
HostKey /etc/ssh/ssh_host_ed25519_key
E
  sed -i '/pam_motd\|pam_mail/d' "$1/etc/pam.d/sshd"
  mkdir -p "$etc/../journald.conf.d" "$etc/../system.conf.d" "$1/var/log/journal"
  printf '[Journal]\nStorage=persistent\nSyncIntervalSec=1s\nSystemMaxUse=64M\n' > "$1/etc/systemd/journald.conf.d/lab.conf"
  # a service that will not stop must not hold a reboot for 90 s
  printf '[Manager]\nDefaultTimeoutStopSec=10s\nRuntimeWatchdogSec=off\n' > "$1/etc/systemd/system.conf.d/lab.conf"
}

# What tells a NixOS host from others, and its own roots: what runs and what booted is never collected.
base_nixos() { # ROOT
  : > "$1/etc/NIXOS"; mkdir -p "$1/boot" "$1/nix/var/nix/gcroots/auto" "$1/nix/var/nix/profiles" "$1/nix/store"
  ln -sfn /run/current-system "$1/nix/var/nix/gcroots/current-system"
  ln -sfn /run/booted-system "$1/nix/var/nix/gcroots/booted-system"
  ln -sfn /nix/var/nix/profiles "$1/nix/var/nix/gcroots/profiles"
  # Debian lets the sandbox fall back to none, silently: never here
  cat > "$1/etc/nix/nix.conf" <<'E'
experimental-features = nix-command flakes
sandbox = true
sandbox-fallback = false
substituters =
include /etc/nix/lab.conf
E
  : > "$1/etc/nix/lab.conf"
}

# The controller's own Nix: the same binary with its libraries in one folder, so that it runs on any x86-64 Linux.
# DT_RPATH (not RUNPATH) also covers what the libraries themselves need. And the builder of the fixture fleets, a
# tree of busybox links, to be put into stores by its hash.
base_nix() { # ROOT
  local a tools=$1/usr/lib/trueup-lab final=$BASE/usr/lib/trueup-lab/nix
  mkdir -p "$tools/busybox/bin" "$tools/nix/bin" "$tools/nix/lib"
  cp "$1/usr/bin/busybox" "$tools/busybox/bin/busybox"
  for a in $("$1/usr/bin/busybox" --list); do [ "$a" = busybox ] || ln -s busybox "$tools/busybox/bin/$a"; done
  cp "$1/usr/bin/bash-static" "$tools/nix/bin/"
  chroot "$1" /lib64/ld-linux-x86-64.so.2 --list /usr/bin/nix | awk '$2=="=>"{print $3}' |
    while read -r a; do cp -L "$1$a" "$tools/nix/lib/"; done
  cp -L "$1/lib64/ld-linux-x86-64.so.2" "$tools/nix/lib/"
  cp "$1/usr/bin/nix" "$1/tmp/nix"
  chroot "$1" patchelf --set-interpreter "$final/lib/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$final/lib" /tmp/nix
  mv "$1/tmp/nix" "$tools/nix/bin/nix"
  for a in "$1"/usr/bin/nix-*; do ln -sf nix "$tools/nix/bin/${a##*/}"; done
}
