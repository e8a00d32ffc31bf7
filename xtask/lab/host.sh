# One lab host, sourced by lab.sh: its firmware (`supervise`, outside) and its boot loader (`boot`, inside).
# Knows nothing of the other hosts, and of the network only the namespace that it was given.
# shellcheck shell=bash

# The firmware: starts the host's pid 1 and looks at how that ended. The kernel ends a pid namespace's init with
# SIGHUP for reboot(2) and with SIGINT for power-off.
supervise() { # NAME
  local name=$1 dir=$LAB/hosts/$1 parent cg rc n=0
  parent=$(cat "$dir/cgroup-parent")
  self_stamp > "$dir/supervisor"
  while :; do
    # A new cgroup for each boot: one that was killed (cgroup.kill) keeps killing what systemd starts in it.
    n=$((n + 1)); cg=$parent/$name.$n.$$; mkdir -p "$cg"; echo "$cg" > "$dir/cgroup"
    cat /proc/sys/kernel/random/uuid > "$dir/boot_id"
    cat "$dir/boot_id" >> "$dir/boots"
    rc=0
    ( echo "$BASHPID" > "$cg/cgroup.procs"
      exec ip netns exec "$(netns "$name")" unshare -m -u -i -p -C --fork --kill-child --propagation private \
        bash "$SELF" __boot "$name" ) 2>/dev/null || rc=$?
    # whatever was left of the old boot died with its pid namespace
    find "$cg" -depth -type d -exec rmdir {} + 2>/dev/null || :
    echo "boot $n ended: $rc" >> "$dir/log"
    [ "$rc" = 129 ] && continue                                          # 128 + SIGHUP: reboot
    [ "$rc" = 42 ] && continue                                           # a kernel that panics resets the machine
    [ -f "$dir/power-returns" ] && { rm -f "$dir/power-returns"; continue; } # a power cut, and power is back
    break                                                                # power-off, or `halt`
  done
  rm -f "$dir/supervisor"
}

# Runs as pid 1 of the new namespaces: builds the host's root and becomes its systemd.
boot() { # NAME
  local name=$1 dir=$LAB/hosts/$1 r=$LAB/hosts/$1/root p
  mkdir -p "$r" "$dir/upper" "$dir/work"
  mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$dir/upper,workdir=$dir/work" "$r"
  mount -t proc -o nosuid,nodev,noexec proc "$r/proc"
  # kernel-wide knobs are read-only; those of the host's own network are its own
  for p in sys sysrq-trigger irq bus; do
    [ -e "$r/proc/$p" ] || continue
    mount --bind "$r/proc/$p" "$r/proc/$p"; mount -o remount,bind,ro,nosuid,nodev,noexec "$r/proc/$p"
  done
  mount --bind "$dir/boot_id" "$r/proc/sys/kernel/random/boot_id" # the kernel's own is that of the machine below
  mount --bind "$r/proc/sys/net" "$r/proc/sys/net"; mount -o remount,bind,rw,nosuid,nodev,noexec "$r/proc/sys/net"
  mount -t sysfs -o nosuid,nodev,noexec sysfs "$r/sys"; mount -o remount,bind,ro,nosuid,nodev,noexec "$r/sys"
  nvram "$dir/nvram" "$dir/grub"; mount --bind "$dir/nvram" "$r/sys/firmware"
  mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$r/sys/fs/cgroup"
  boot_dev "$r" "$dir"
  mount -t tmpfs -o mode=755,nosuid,nodev,size=256m tmpfs "$r/run"; mount -t tmpfs -o mode=1777 tmpfs "$r/tmp"
  echo "$name" > /proc/sys/kernel/hostname
  cd "$r"; mkdir -p run/.old; pivot_root . run/.old; umount -l run/.old; rmdir run/.old
  stage2
  exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LANG=C.UTF-8 \
    setpriv --bounding-set -sys_module,-sys_time,-sys_rawio,-syslog,-mac_admin,-mac_override \
    /lib/systemd/systemd --system --log-target=journal </dev/null >/dev/null 2>&1
}

boot_dev() { # ROOT DIR
  local r=$1 p
  mount -t tmpfs -o mode=755,nosuid,size=4m tmpfs "$r/dev"
  mkdir -p "$r"/dev/{pts,shm,mqueue,net}
  for p in null zero full random urandom tty fuse net/tun; do
    [ -e "/dev/$p" ] || continue
    touch "$r/dev/$p"; mount --bind "/dev/$p" "$r/dev/$p"
  done
  mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$r/dev/pts"
  mount -t tmpfs -o mode=1777 tmpfs "$r/dev/shm"; mount -t mqueue mqueue "$r/dev/mqueue"
  ln -s pts/ptmx "$r/dev/ptmx"; ln -s /proc/self/fd "$r/dev/fd"
  for p in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${p%%:*}" "$r/dev/${p#*:}"; done
  touch "$r/dev/console" "$2/console"; mount --bind "$2/console" "$r/dev/console"
  # The kernel lets a user namespace mount its own /proc only where a fully visible one exists, and Nix's build
  # sandbox needs that: keep an unmasked pair where only root looks.
  mkdir -p "$r"/dev/.host/{proc,sys}; chmod 700 "$r/dev/.host"
  mount -t proc proc "$r/dev/.host/proc"; mount -t sysfs sysfs "$r/dev/.host/sys"
}

# What systemd-boot keeps beside the disk: EFI variables, as the real ones lie in efivarfs. A power cut keeps them.
LOADER_GUID=4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
efi_text() { # FOLDER NAME: a variable's text
  [ ! -f "$1/$2-$LOADER_GUID" ] || tail -c +5 "$1/$2-$LOADER_GUID" | tr -d '\000'
}
efi_put() { # FOLDER NAME TEXT
  { printf '\007\000\000\000'; printf '%s' "$3" | sed 's/./&\n/g' | tr '\n' '\000'; printf '\000\000'; } > "$1/$2-$LOADER_GUID"
}
nvram() { # FOLDER, a file that is there on a host of GRUB
  mkdir -p "$1/efi/efivars"
  if [ -e "$2" ]; then rm -f "$1/efi/efivars/"*; else efi_put "$1/efi/efivars" LoaderInfo "systemd-boot 257 (lab)"; fi
}

# As systemd-boot does: the entry that is to be booted once (and no more after this), else the default by variable, else
# the default by loader.conf. Prints the entry's name; nothing where no loader is installed.
loader_choose() {
  local vars=/sys/firmware/efi/efivars entries=/boot/loader/entries id
  id=$(efi_text $vars LoaderEntryOneShot); rm -f "$vars/LoaderEntryOneShot-$LOADER_GUID"
  [ -n "$id" ] && [ -f "$entries/$id" ] || id=$(efi_text $vars LoaderEntryDefault)
  [ -n "$id" ] && [ -f "$entries/$id" ] || id=$(sed -n 's/^default  *//p' /boot/loader/loader.conf 2>/dev/null)
  [ -n "$id" ] && [ -f "$entries/$id" ] || return 0
  efi_put $vars LoaderEntrySelected "$id"
  echo "$id"
}

# As NixOS does before systemd: the system that the loader chose is activated, and is what was booted. A kernel whose file
# has `does-not-boot` in it hangs until the power goes; one with `panics` resets the machine.
stage2() {
  local id kernel='' top=/boot/default; id=$(loader_choose)
  if [ -n "$id" ]; then
    top=$(sed -n 's,^options .*init=\(/nix/store/[^ ]*\)/init.*,\1,p' "/boot/loader/entries/$id")
    kernel=$(sed -n 's/^linux  *//p' "/boot/loader/entries/$id")
  elif [ ! -e "$top" ] && [ -f "$GRUB_CFG" ]; then
    id=$(grub_choose); kernel=${id%% *} top=${id#* } top=${top%/init}
  fi
  if [ -n "$kernel" ]; then
    # PID 1 of a namespace hears no signal but its end
    grep -qs does-not-boot "$kernel" && exec sleep infinity
    grep -qs panics "$kernel" && exit 42
  fi
  top=$(readlink -e "$top") || return 0
  ln -sfn "$top" /run/booted-system
  [ -x "$top/bin/switch-to-configuration" ] || return 0
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$top/bin/switch-to-configuration" boot-activate >/run/stage2.log 2>&1 9>&- || :
}
