//! Swap is the whole machine's, so a small one is turned on for a test and off again, and searched as it lies on the disk.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::command;

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
pub const PAGE_OUT: &str = r#"
    page_out() { perl -e '
        my $fd = syscall(434, $ARGV[0] + 0, 0); open(my $maps, "<", "/proc/$ARGV[0]/maps") or die; my $all = 0;
        while (<$maps>) { next unless /^([0-9a-f]+)-([0-9a-f]+) r/ && !/\[v/;
            my ($from, $to) = (hex $1, hex $2); my $range = pack("QQ", $from, $to - $from);
            my $done = syscall(440, $fd, $range, 1, 21, 0); $all += $done if $done > 0 }
        print "paged-out $all\n"' $1; }
"#;
