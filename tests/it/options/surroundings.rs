//! Group, session, umask, nice value, cores, privileges.

use nix::sys::stat::{Mode, umask};
use pkit::{Builder, Group, Resource, Signal};

use super::{both_read, both_refused, field, own_status};
use crate::support::{is_root, tests};

/// The child's status. It is the leader itself that reads.
fn status(options: impl Fn(Builder) -> Builder) -> [String; 2] {
    both_read("/proc/self/status", options)
}

fn nice(options: impl Fn(Builder) -> Builder) -> [i32; 2] {
    both_read("/proc/self/stat", options).map(|stat| nice_in(&stat))
}

fn nice_in(stat: &str) -> i32 {
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(16).unwrap().parse().unwrap()
}

/// The cores of a list such as `0-3,7`.
fn cores_in(list: &str) -> Vec<usize> {
    let ranges = list.split(',').map(|range| range.split_once('-').unwrap_or((range, range)));
    ranges.flat_map(|(first, last)| first.parse().unwrap()..=last.parse().unwrap()).collect()
}

tests! {
    fn it_leads_a_group_of_its_own_or_stays_in_ours() {
        let own = own_status();
        for seen in status(|b| b) {
            assert_eq!(field(&seen, "NSpgid"), field(&seen, "NSpid"));
            assert_eq!(field(&seen, "NSsid"), field(&own, "NSsid"));
        }
        for seen in status(|b| b.group(Group::Inherit)) {
            assert_eq!(field(&seen, "NSpgid"), field(&own, "NSpgid"));
        }
    }

    fn it_leads_a_session_of_its_own() {
        for seen in status(|b| b.session(true)) {
            assert_eq!(field(&seen, "NSsid"), field(&seen, "NSpid"));
            assert_eq!(field(&seen, "NSpgid"), field(&seen, "NSpid"));
        }
        for seen in status(|b| b.session(true).session(false)) {
            assert_ne!(field(&seen, "NSsid"), field(&seen, "NSpid"));
        }
    }

    fn the_umask_is_that_of_the_moment_or_set() {
        for mask in [0o27, 0o77] {
            umask(Mode::from_bits_truncate(mask));
            assert!(status(|b| b).iter().all(|seen| field(seen, "Umask") == format!("{mask:04o}")));
        }
        assert!(status(|b| b.umask(0o7)).iter().all(|seen| field(seen, "Umask") == "0007"));
        assert!(status(|b| b.umask(0)).iter().all(|seen| field(seen, "Umask") == "0000"));
        assert_eq!(field(&own_status(), "Umask"), "0077");
    }

    fn the_nice_value_is_set() {
        let own = nice_in(&std::fs::read_to_string("/proc/thread-self/stat").unwrap());
        assert_eq!(nice(|b| b), [own; 2]);
        assert_eq!(nice(|b| b.nice(19)), [19; 2]);
        if is_root() {
            assert_eq!(nice(|b| b.nice(-5).uid(12345)), [-5; 2]);
        } else {
            let text = "cannot start `it`: set the nice value -5: Permission denied (os error 13)";
            assert_eq!(both_refused(|b| b.nice(-5)), [text; 2]);
        }
        assert_eq!(nice_in(&std::fs::read_to_string("/proc/thread-self/stat").unwrap()), own);
    }

    fn it_is_bound_to_cores() {
        let own = own_status();
        let ours = cores_in(field(&own, "Cpus_allowed_list"));
        let list = |cores: Option<Vec<usize>>| {
            status(|b| if let Some(cores) = &cores { b.cores(cores.clone()) } else { b })
                .map(|seen| field(&seen, "Cpus_allowed_list").to_owned())
        };
        assert_eq!(list(None).map(|seen| cores_in(&seen)), [ours.clone(), ours.clone()]);
        for core in &ours {
            assert_eq!(list(Some(vec![*core])), [core.to_string(), core.to_string()]);
        }
        assert_eq!(list(Some(ours.clone())).map(|seen| cores_in(&seen)), [ours.clone(), ours]);
        assert_eq!(field(&own_status(), "Cpus_allowed_list"), field(&own, "Cpus_allowed_list"));
        for missing in [60_000, usize::MAX] {
            let text = format!("cannot start `it`: bind to cores [{missing}]: Invalid argument (os error 22)");
            assert_eq!(both_refused(|b| b.cores([missing])), [text.clone(), text]);
        }
    }

    fn privileges_can_be_given_up() {
        let flag = |on| status(|b| b.no_new_privs(on)).map(|seen| field(&seen, "NoNewPrivs").to_owned());
        assert_eq!(flag(true), ["1", "1"]);
        assert_eq!(flag(false), ["0", "0"]);
        assert_eq!(field(&own_status(), "NoNewPrivs"), "0");
    }

    fn everything_at_once() {
        let everything = |b: Builder| {
            b.session(true).umask(0o11).cores([0]).no_new_privs(true).rlimit(Resource::OpenFiles, 30, 40).nice(7)
                .signal_mask([Signal::USR1]).current_dir("/usr").env("ALL", "1").on_parent_death(Signal::TERM)
        };
        for seen in status(everything) {
            assert_eq!(field(&seen, "NSsid"), field(&seen, "NSpid"));
            assert_eq!(field(&seen, "Umask"), "0011");
            assert_eq!(field(&seen, "NoNewPrivs"), "1");
            assert_eq!(field(&seen, "Cpus_allowed_list"), "0");
            assert_eq!(field(&seen, "SigBlk"), "0000000000000200");
        }
        assert_eq!(nice(everything), [7; 2]);
    }
}
