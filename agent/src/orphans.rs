//! What is left of an activation that was stopped. It looks only into the control group of this process.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::files;

/// Kills all but this process in its control group: an orphaned `activate` would undo the way back later.
pub(crate) fn stop_rest_of_group() {
    const ROUNDS: usize = 50;
    let group = |pid: &str| files::text(format!("/proc/{pid}/cgroup"));
    let line = |text: String| {
        let systemd = text
            .lines()
            .find(|l| l.contains(":name=systemd:") && !l.ends_with(":/"));
        let unified = text.lines().find(|l| l.starts_with("0::") && *l != "0::/");
        systemd.or(unified).map(str::to_owned)
    };
    let own = std::process::id().to_string();
    let Some(mine) = line(group(&own)) else {
        return;
    };
    if !mine.contains("/trueup-") {
        return; // not in a unit of ours: nobody else's processes are touched
    }
    for _ in 0..ROUNDS {
        let mut killed = false;
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == own
                || !name.bytes().all(|b| b.is_ascii_digit())
                || line(group(&name)).as_ref() != Some(&mine)
            {
                continue;
            }
            // A dead child that nobody waited for keeps its group for a moment.
            if files::text(format!("/proc/{name}/stat")).contains(") Z ") {
                continue;
            }
            if let Some(pid) = name.parse().ok().and_then(rustix::process::Pid::from_raw) {
                killed |= rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok();
            }
        }
        if !killed {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
