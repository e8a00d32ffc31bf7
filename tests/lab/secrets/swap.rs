//! What a process leaves behind that holds plain text: cores, environments, swap. Swap is the whole machine's, so a small
//! one is turned on for a test and off again, and searched as it lies on the disk.

use std::fs;
use std::path::{Path, PathBuf};

use super::{AGENT, on_disk};
use crate::harness::{Host, command};

/// Enough for what is pushed out on purpose.
const MIB: &str = "count=64";

/// A file that is swapped to until this goes.
pub struct Swap(PathBuf);

impl Swap {
    /// `None`, and said: not allowed here.
    pub fn on(dir: &Path) -> Option<Self> {
        let file = dir.join("swap");
        let name = file.to_str()?;
        let of = format!("of={name}");
        // Written, not reserved: a block that nothing was written to reads as zeros, whatever was swapped to it.
        let steps: [&[&str]; 4] = [
            &[
                "dd",
                "if=/dev/zero",
                &of,
                "bs=1M",
                MIB,
                "status=none",
                "conv=fsync",
            ],
            &["chmod", "600", name],
            &["mkswap", name],
            &["swapon", name],
        ];
        for step in steps {
            let out = command(step[0]).args(&step[1..]).output().ok();
            if !out.as_ref().is_some_and(|out| out.status.success()) {
                eprintln!(
                    "SKIPPED: no swap can be turned on here ({step:?}: {out:?}), so swap is not searched"
                );
                return None;
            }
        }
        Some(Self(file))
    }

    /// Whether it is there, past what the kernel remembers of the file.
    pub fn has(&self, words: &[String]) -> bool {
        let from = format!("if={}", self.0.display());
        let out = command("dd")
            .args([&from, "iflag=direct", "bs=1M", "status=none"])
            .output()
            .unwrap();
        assert!(
            out.status.success() && out.stdout.len() == 64 << 20,
            "{:?}",
            out.stderr
        );
        words
            .iter()
            .any(|w| out.stdout.windows(w.len()).any(|b| b == w.as_bytes()))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let off = command("swapoff").arg(&self.0).status();
        if !off.is_ok_and(|s| s.success()) {
            eprintln!("swapoff {} failed: turn it off by hand", self.0.display());
        }
        let _gone = fs::remove_file(&self.0);
    }
}

/// Of the host's shell: everything of a process that may go, goes to swap (`process_madvise`, `MADV_PAGEOUT`).
const PAGE_OUT: &str = r#"
    page_out() { perl -e '
        my $fd = syscall(434, $ARGV[0] + 0, 0); open(my $maps, "<", "/proc/$ARGV[0]/maps") or die; my $all = 0;
        while (<$maps>) { next unless /^([0-9a-f]+)-([0-9a-f]+) r/ && !/\[v/;
            my ($from, $to) = (hex $1, hex $2); my $range = pack("QQ", $from, $to - $from);
            my $done = syscall(440, $fd, $range, 1, 21, 0); $all += $done if $done > 0 }
        print "paged-out $all\n"' $1; }
"#;

/// What a process has that takes no care of it.
pub const CARELESS: &str = "planted-8c1f-value-of-a-careless-process";

/// The agent is stopped in the middle of its work, every value open: they are in its memory, and nowhere that outlives
/// it. `getent`, which it asks for an owner that is not in `/etc/passwd`, takes its time here.
pub fn a_process_with_plain_text_leaves_nothing(host: &Host, value: &str) {
    let page_out = PAGE_OUT;
    let script = format!(
        r#"
        exec 2>&1
        mkdir -p /var/tmp/cores && cd /var/tmp/cores && rm -f *
        ulimit -c unlimited
        mv /usr/bin/getent /usr/bin/getent.real
        printf '#!/bin/sh\nsleep 8\nexec /usr/bin/getent.real "$@"\n' >/usr/bin/getent
        chmod +x /usr/bin/getent
        sed -i /^secretary:/d /etc/passwd
        rm /run/trueup/secrets
        {AGENT} secrets restore & pid=$!
        for n in $(seq 100); do pgrep -P $pid >/dev/null && break; sleep 0.1; done
        pgrep -P $pid >/dev/null && echo it-asks
        # Its memory, piece by piece.
        grep rw /proc/$pid/maps | while IFS=' -' read -r from to rest; do
          from=$((0x$from / 4096)) to=$((0x$to / 4096))
          [ $((to - from)) -lt 65536 ] || continue
          dd if=/proc/$pid/mem bs=4096 skip=$from count=$((to - from)) 2>/dev/null
        done | grep -qaF -e {value} && echo in-memory
        grep -qaF -e {value} /proc/$pid/environ && echo in-environment
        {page_out}
        sh -c 'careless={CARELESS}; sleep 5; :' & other=$!
        sleep 0.2; page_out $other; kill $other
        page_out $pid
        grep VmSwap /proc/$pid/status
        grep VmLck /proc/$pid/status
        kill -ABRT $pid; wait $pid; echo ended-with $?
        ls -A /var/tmp/cores | grep . && echo a-core
        # The same end of a process that takes no care is a core with the value in it.
        sh -c 'careless={value}; kill -ABRT $$'
        grep -laF -e {value} /var/tmp/cores/* | grep -c . | sed 's/^/careless-cores /'
        rm -rf /var/tmp/cores
        mv /usr/bin/getent.real /usr/bin/getent
        cat /proc/swaps
        "#
    );
    let said = host.sh(&script).stdout;
    let has = |word: &str| said.lines().any(|line| line.trim() == word);
    assert!(
        has("it-asks") && has("in-memory"),
        "the value was in reach:\n{said}"
    );
    assert!(has("ended-with 134"), "{said}");
    assert!(has("careless-cores 1"), "the search finds cores:\n{said}");
    assert!(!has("in-environment") && !has("a-core"), "{said}");
    let swapped = said.lines().find_map(|l| l.strip_prefix("VmSwap:"));
    assert_eq!(swapped.map(str::trim), Some("0 kB"), "{said}");
    let locked = said.lines().find_map(|l| l.strip_prefix("VmLck:"));
    assert_ne!(locked.map(str::trim), Some("0 kB"), "{said}");
    assert_eq!(on_disk(host, &[value]), "");
    println!("{said}");
}
