# A lab host that GRUB boots, sourced by lab.sh: GRUB's own tools, in a layer of their own beside the base, and the part of
# GRUB that reads grub.cfg and grubenv and chooses. Its script language it does not know: it looks for what NixOS writes.
# shellcheck shell=bash

GRUB_FILES=(usr/sbin/grub-reboot usr/sbin/grub-set-default usr/sbin/grub-probe usr/bin/grub-editenv usr/bin/grub-script-check
  usr/share/grub/grub-mkconfig_lib)
grub_layer() { echo "$CACHE/grub-$BASE_KEY"; }

# Only what the base does not have: the layer must not bring another libc.
make_grub() {
  local layer new lock src=() line f lib; layer=$(grub_layer)
  [ -f "$layer/.done" ] && return
  mkdir -p "$CACHE/archives"
  exec {lock}>"$CACHE/grub.lock"; flock "$lock"
  if [ -f "$layer/.done" ]; then exec {lock}>&-; return; fi
  say "making $layer: GRUB's tools"
  new=$layer.new; rm -rf --one-file-system "$new" "$layer" "$layer.all"
  line=$(debian_source); [ -z "$line" ] || src=("$line")
  unshare --mount --propagation private \
    mmdebstrap --mode=root --variant=extract --aptopt='APT::Install-Recommends "false"' --skip=essential/unlink \
    --setup-hook="mkdir -p \"\$1\"/var/cache/apt/archives; cp -a '$CACHE'/archives/*.deb \"\$1\"/var/cache/apt/archives/ 2>/dev/null || :" \
    --customize-hook="cp -an \"\$1\"/var/cache/apt/archives/*.deb '$CACHE'/archives/ || :" \
    --include=grub-common,grub2-common "$SUITE" "$layer.all" ${src[@]+"${src[@]}"} >"$CACHE/grub.log" 2>&1 8>&- 9>&- ||
    { tail -20 "$CACHE/grub.log" >&2; die "mmdebstrap failed; all of it in $CACHE/grub.log"; }
  for f in "${GRUB_FILES[@]}"; do install -D -p "$layer.all/$f" "$new/$f"; done
  for lib in "$layer.all"/usr/lib/x86_64-linux-gnu/lib{devmapper,lzma,selinux,udev}.so*; do
    f=usr/lib/x86_64-linux-gnu/${lib##*/}
    [ -e "$BASE/$f" ] || { mkdir -p "$new/${f%/*}"; cp -a "$lib" "$new/$f"; }
  done
  rm -rf --one-file-system "$layer.all"
  touch "$new/.done"; mv "$new" "$layer"; exec {lock}>&-
}

# Makes a running host one that GRUB boots: its tools are there and systemd-boot's are not, and from the next boot on
# nothing speaks of systemd-boot. Its menu comes with the closure's own script.
host_grub() { # NAME
  local n=$1
  make_grub
  touch "$LAB/hosts/$n/grub"
  tar -C "$(grub_layer)" --exclude=./.done -c . | ssh_to "$n" \
    'tar -C / -x --no-same-owner --keep-directory-symlink && rm -f /usr/bin/bootctl && /sbin/ldconfig && rm -f /sys/firmware/efi/efivars/*'
}

# ------------------------------------------------------------------------------------------------ what GRUB does at a boot
# The rest runs as pid 1 of a host, with the host's own awk and coreutils.
GRUB_CFG=/boot/grub/grub.cfg GRUB_ENV=/boot/grub/grubenv GRUB_ENV_SIZE=1024

grub_value() { # NAME: from the environment, if that is one
  [ "$(head -n 1 $GRUB_ENV 2>/dev/null)" = "# GRUB Environment Block" ] || return 0
  sed -n "s/^$1=//p" $GRUB_ENV | head -n 1
}

# `save_env` of an empty variable: in place, padded to the size that the block has.
grub_empty() { # NAME
  local text; text=$(grep -v '^#*$' $GRUB_ENV | sed "s/^$1=.*/$1=/")
  { printf '%s\n' "$text"; head -c $GRUB_ENV_SIZE /dev/zero | tr '\000' '#' || :; } | head -c $GRUB_ENV_SIZE > $GRUB_ENV.as-read
  dd if=$GRUB_ENV.as-read of=$GRUB_ENV conv=notrunc status=none; rm -f $GRUB_ENV.as-read; sync
}

# Prints what is booted: the kernel's file and the `init=` of its entry. What is to be booted once is forgotten before.
grub_choose() {
  local spec; spec=$(grub_value next_entry)
  if [ -n "$spec" ] && grep -q 'save_env next_entry' $GRUB_CFG; then
    grub_empty next_entry
  else
    spec=$(sed -n '/^ *\(menuentry\|submenu\) /q; s/^ *set default=//p' $GRUB_CFG | grep -v next_entry | tail -n 1 | sed 's/^"//; s/"$//' || :)
    # shellcheck disable=SC2016
    [ "$spec" != '${saved_entry}' ] || spec=$(grub_value saved_entry)
  fi
  grub_entry "${spec:-0}"
}

# The entry at `menu>entry`, by numbers or titles; the first one where there is no such.
grub_entry() { # SPEC
  awk -v spec="$1" '
    # node 0 is the whole menu; kid[n, i] its children in order
    BEGIN { depth = 0; at[0] = 0; nodes = 0 }
    /^[ \t]*(menuentry|submenu) / {
      n = ++nodes; parent = at[depth]; kid[parent, count[parent]++] = n
      title[n] = $0; sub(/^[^"]*"/, "", title[n]); sub(/".*/, "", title[n])
      menu[n] = ($1 == "submenu"); at[++depth] = n; next
    }
    /[{][ \t]*$/ { depth++; at[depth] = at[depth - 1]; next }
    /^[ \t]*}[ \t]*$/ { depth--; next }
    $1 == "linux" { kernel[at[depth]] = $2; for (i = 3; i <= NF; i++) if ($i ~ /^init=/) init[at[depth]] = $i }
    END {
      n = 0
      do {
        word = ""
        while (spec != "") {
          two = substr(spec, 1, 2); one = substr(spec, 1, 1)
          if (two == ">>") { word = word ">"; spec = substr(spec, 3); continue }
          spec = substr(spec, 2)
          if (one == ">") break
          word = word one
        }
        found = kid[n, 0]
        if (word ~ /^[0-9]+$/) { if (word + 0 < count[n]) found = kid[n, word + 0] }
        else for (i = 0; i < count[n]; i++) if (title[kid[n, i]] == word) { found = kid[n, i]; break }
        n = found
      } while (menu[n])
      sub(/^\([^)]*\)/, "", kernel[n]); sub(/^init=/, "", init[n])
      print kernel[n], init[n]
    }' $GRUB_CFG
}
