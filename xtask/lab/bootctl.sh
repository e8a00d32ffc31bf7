#!/bin/sh
# Stands in for systemd's bootctl on a lab host: `set-oneshot ID` (empty: none) writes the same EFI variable as the real
# one, which the lab's firmware reads and deletes (host.sh). The real one refuses to run in a container.
set -e
dir=/sys/firmware/efi/efivars
loader=4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
[ "${1:-}" = set-oneshot ] && [ $# = 2 ] || { echo "bootctl: the lab's knows set-oneshot ID alone" >&2; exit 1; }
[ -e "$dir/LoaderInfo-$loader" ] || { echo "Not booted with a supported boot loader." >&2; exit 1; }
file=$dir/LoaderEntryOneShot-$loader
if [ -z "$2" ]; then
  rm -f "$file"
else
  # attributes (non-volatile, boot service, runtime), then UTF-16LE with its end
  { printf '\007\000\000\000'; printf '%s' "$2" | sed 's/./&\n/g' | tr '\n' '\000'; printf '\000\000'; } >"$file.new"
  mv "$file.new" "$file"
fi
sync
