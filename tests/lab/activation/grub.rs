//! The same by GRUB: a host with GRUB's own `grub-reboot` and `grub-editenv`, a menu as NixOS writes it, and a firmware that
//! reads both as GRUB does. What a power cycle boots is told by power cycles, never by a link of the lab.

use super::*;

const ONCE: &str = "NixOS - Profile 'trueup'>NixOS - Configuration 1";

fn by_reboot() -> Ask {
    Ask {
        may_reboot: true,
        ..Ask::default()
    }
}

/// A base that GRUB boots, and whose next boot goes on with an attempt as the agent's module has it.
fn closure(c: &Controller, host: &Host, args: &[(&str, &str)]) -> StorePath {
    c.variant(
        "grub",
        "{ base, agent, kernel ? \"6.12.60\", before ? \"\", default ? \"0\", ... }: base // {\n  inherit kernel;\n  \
         loader = \"grub\";\n  grubBefore = before;\n  grubDefault = default;\n  units = base.units // {\n    \
         \"trueup-resume.service\" = ''\n      [Unit]\n      After=local-fs.target\n      X-RestartIfChanged=false\n      \
         [Service]\n      Type=oneshot\n      RemainAfterExit=yes\n      ExecStart=${agent}/bin/trueup-agent resume\n    '';\n  };\n}\n",
    );
    let mut all = vec![("agent", c.agent.as_str())];
    all.extend(args);
    c.closure(host, "grub", &all)
}

/// A host of GRUB that runs a first closure as an installer leaves it.
fn ready_with(args: &[(&str, &str)]) -> Option<(Lab, Controller, StorePath)> {
    let (lab, c) = ready()?;
    let host = lab.host("h1");
    host.grub();
    c.copy(host, &c.agent);
    let first = closure(&c, host, args);
    let installed = host.ssh(&[&format!("{first}/bin/lab-install")]);
    assert_eq!(installed.code, 0, "{installed:?}");
    // The lab's menu is one that GRUB's own parser takes.
    host.read(&["grub-script-check", "/boot/grub/grub.cfg"]);
    Some((lab, c, first))
}

/// What runs and what the profile is; and what the agent says that the loader boots.
fn is(c: &Controller, host: &Host, running: &StorePath, profile: &StorePath, boot: &StorePath) {
    let links = [CURRENT, PROFILE].map(|l| host.link(l));
    assert_eq!(links, [running, profile].map(|p| Some(p.to_string())));
    let told = c.report(host).unwrap().running;
    assert_eq!(
        (told.loader.as_str(), told.boot_default.as_ref()),
        ("grub", Some(boot))
    );
}

/// And what a power cycle boots.
fn boots(c: &Controller, host: &Host, all: &StorePath) {
    is(c, host, all, all, all);
    host.crash();
    assert_eq!(host.link("/run/booted-system"), Some(all.to_string()));
    is(c, host, all, all, all);
}

fn next_entry(host: &Host) -> String {
    let listed = host.read(&["grub-editenv", "/boot/grub/grubenv", "list"]);
    let value = listed.lines().find_map(|l| l.strip_prefix("next_entry="));
    value.unwrap_or_default().to_owned()
}

#[test]
fn a_new_kernel_is_booted_once_by_grub_and_stays_only_when_it_was_confirmed() {
    let Some((lab, c, first)) = ready_with(&[]) else {
        return;
    };
    let host = lab.host("h1");
    let before = host.boot_id();
    let new = closure(&c, host, &[("kernel", "6.18.1")]);
    let order = c.begin(host, &new, &by_reboot());
    host.wait_other_boot(&before);
    let attempt = c.until(host, order, AttemptState::AwaitingConfirmation);
    assert_eq!(host.link("/run/booted-system"), Some(new.to_string()));
    is(&c, host, &new, &first, &first);
    assert_eq!(next_entry(host), "", "GRUB forgot it");
    let boot = attempt.boot.clone().expect("a reboot");
    assert_eq!((boot.from, boot.came_up), (before, true));
    assert_eq!(c.confirm(host, &attempt).code, 0);
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    boots(&c, host, &new);
    let menu = host.read(&["cat", "/boot/grub/grub.cfg"]);
    assert!(!menu.contains("trueup"), "{menu}");

    // Nobody confirms what came up: the host goes back by itself, into what was booted before.
    let second = host.boot_id();
    let next = closure(&c, host, &[("kernel", "6.18.2")]);
    let ask = Ask {
        confirm_secs: SOON,
        ..by_reboot()
    };
    let order = c.begin(host, &next, &ask);
    let third = host.wait_other_boot(&second);
    host.wait_other_boot(&third);
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    is_not_blamed(&end);
    boots(&c, host, &new);
}

#[test]
fn a_kernel_that_does_not_boot_is_forgotten_by_grub_with_the_power() {
    // With an entry before those of NixOS, which has another number then.
    let before = [
        (
            "before",
            "echo 'menuentry \"Memory test\" {'; echo '  linux16 /memtest.bin'; echo '}'",
        ),
        ("default", "1"),
    ];
    let Some((lab, c, first)) = ready_with(&before) else {
        return;
    };
    let host = lab.host("h1");
    is(&c, host, &first, &first, &first);
    let dead = closure(
        &c,
        host,
        &[&before[..], &[("kernel", "6.18-does-not-boot")]].concat(),
    );
    let order = c.begin(host, &dead, &by_reboot());
    wait(PATIENCE, || (host.ssh(&["true"]).code != 0).then_some(())).expect("it went down");
    host.wait_one_shot_taken();
    // It hangs: nothing but somebody at the switch helps.
    host.crash();
    let end = c.until(host, order, AttemptState::Ended);
    assert_eq!(end.outcome, Some(Outcome::RolledBack), "{end:?}");
    assert!(end.evidence, "{end:?}");
    let why = end.message.clone().unwrap_or_default();
    assert!(why.contains("did not come up"), "{end:?}");
    boots(&c, host, &first);
    let (_, again) = c.offer(host, &dead, &by_reboot());
    assert!(
        matches!(&again, OfferReply::Refused { reason, .. } if reason == "Quarantined"),
        "{again:?}"
    );
    let good = closure(&c, host, &[&before[..], &[("note", "after")]].concat());
    let end = c.deliver(host, &good, &by_reboot());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    boots(&c, host, &good);
}

#[test]
fn a_boot_that_somebody_has_to_make_is_named_in_the_menu_and_survives_another_menu() {
    let Some((lab, c, first)) = ready_with(&[]) else {
        return;
    };
    let host = lab.host("h1");
    let new = closure(&c, host, &[("kernel", "6.18.1")]);
    let ask = Ask {
        mode: Mode::Boot,
        ..Ask::default()
    };
    let end = c.leave(host, &new, &ask);
    assert_eq!(end.outcome, Some(Outcome::RebootRequired), "{end:?}");
    assert!(next_entry(host).starts_with(ONCE), "{}", next_entry(host));
    is(&c, host, &first, &first, &first);
    // Somebody writes the menu anew, with another entry before all others: numbers mean other entries now.
    let moved = host.sh(&format!(
        "{first}/bin/switch-to-configuration boot >/dev/null && \
         sed -i '0,/^menuentry/s//menuentry \"Memory test\" {{\\n  true\\n}}\\nmenuentry/; s/set default=0/set default=1/' /boot/grub/grub.cfg && \
         grub-script-check /boot/grub/grub.cfg && grep -c 'Memory test' /boot/grub/grub.cfg"
    ));
    assert_eq!((moved.code, moved.stdout.trim()), (0, "1"), "{moved:?}");
    let before = host.boot_id();
    host.ssh(&["systemctl", "reboot"]);
    host.wait_other_boot(&before);
    assert_eq!(host.link("/run/booted-system"), Some(new.to_string()));
    let end = c.deliver(host, &new, &ask);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    boots(&c, host, &new);
}

#[test]
fn where_grub_could_not_forget_the_entry_the_reboot_is_refused_by_name_or_allowed_by_name() {
    let Some((lab, c, first)) = ready_with(&[]) else {
        return;
    };
    let host = lab.host("h1");
    let new = closure(&c, host, &[("kernel", "6.18.1")]);
    let before = host.boot_id();
    let run = |script: &str| {
        let out = host.sh(script);
        assert_eq!(out.code, 0, "{out:?}");
    };
    let refused = |why: &str| {
        let end = c.leave(host, &new, &by_reboot());
        assert_eq!(end.outcome, Some(Outcome::RebootRequired), "{end:?}");
        let told = end.message.clone().unwrap_or_default();
        assert!(
            told.starts_with("NoOneShot: ")
                && told.contains(why)
                && told.contains("unconfirmedBoot: allow"),
            "{why}: {told}"
        );
        is_not_blamed(&end);
        is(&c, host, &first, &first, &first);
        assert_eq!(next_entry(host), "");
        assert_eq!(host.boot_id(), before);
    };
    // On LVM GRUB reads its environment and can't write it.
    run(
        "mkdir /root/boot && cp -a /boot/. /root/boot && mount -t tmpfs /dev/mapper/vg-boot /boot && cp -a /root/boot/. /boot",
    );
    refused("GRUB can't write its environment on /dev/mapper/vg-boot");
    run("umount /boot");
    // A menu by somebody else.
    run("sed -i.bak '/save_env next_entry/d' /boot/grub/grub.cfg");
    refused("this grub.cfg does not look at `next_entry`");
    run("mv /boot/grub/grub.cfg.bak /boot/grub/grub.cfg");
    // No tool that could tell it.
    run("rm /usr/sbin/grub-reboot");
    refused("there is no `grub-reboot` here");

    let allowed = Ask {
        unconfirmed_boot: true,
        ..by_reboot()
    };
    let order = c.begin(host, &new, &allowed);
    host.wait_other_boot(&before);
    let end = c.complete(host, order);
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    boots(&c, host, &new);
}

#[test]
fn a_default_that_somebody_saved_in_grub_is_what_boots_and_is_told_where_a_switch_does_not_move_it()
{
    let saved = [("default", "\"${saved_entry}\"")];
    let Some((lab, c, first)) = ready_with(&saved) else {
        return;
    };
    let host = lab.host("h1");
    let second = closure(&c, host, &[&saved[..], &[("note", "two")]].concat());
    let end = c.deliver(host, &second, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::Succeeded), "{end:?}");
    boots(&c, host, &second);

    // Somebody wants the first generation to boot, whatever is switched to.
    let title = host.read(&["sh", "-c", "sed -n 's/^menuentry \"\\(NixOS - Configuration 1 [^\"]*\\)\".*/\\1/p' /boot/grub/grub.cfg"]);
    let entry = format!("NixOS - All configurations>{title}");
    host.read(&["grub-set-default", &entry]);
    is(&c, host, &second, &second, &first);
    let third = closure(&c, host, &[&saved[..], &[("note", "three")]].concat());
    let end = c.deliver(host, &third, &Ask::default());
    assert_eq!(end.outcome, Some(Outcome::BootNotCommitted), "{end:?}");
    is_not_blamed(&end);
    host.crash();
    assert_eq!(host.link("/run/booted-system"), Some(first.to_string()));
}
