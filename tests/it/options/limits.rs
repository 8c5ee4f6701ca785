//! Resource limits.

use std::process::ExitCode;

use pkit::{Command, Process, Resource, Signal};

use super::{both_read, both_refused, field, own_status};
use crate::forked::forked;
use crate::support::{skipped, tests};

/// capabilities(7)
const CAP_SYS_RESOURCE: u32 = 24;

/// Soft and hard limit in `/proc/PID/limits`.
fn limit<'a>(limits: &'a str, name: &str) -> (&'a str, &'a str) {
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {limits}"));
    let mut words = line.split_whitespace();
    (words.next().unwrap(), words.next().unwrap())
}

tests! {
    fn limits_are_inherited_or_set_one_by_one() {
        let own = std::fs::read_to_string("/proc/self/limits").unwrap();
        assert_eq!(both_read("/proc/self/limits", |b| b), [own.clone(), own.clone()]);
        let kinds = [
            (Resource::AddressSpace, "Max address space", 1 << 40),
            (Resource::Core, "Max core file size", 0),
            (Resource::CpuTime, "Max cpu time", 300),
            (Resource::Data, "Max data size", 1 << 40),
            (Resource::FileSize, "Max file size", 1 << 30),
            (Resource::LockedMemory, "Max locked memory", 4096),
            (Resource::Nice, "Max nice priority", 0),
            (Resource::OpenFiles, "Max open files", 50),
            (Resource::Processes, "Max processes", 1000),
            (Resource::RealTimePriority, "Max realtime priority", 0),
            (Resource::PendingSignals, "Max pending signals", 10),
            (Resource::Stack, "Max stack size", 1 << 20),
        ];
        for (resource, name, value) in kinds {
            for seen in both_read("/proc/self/limits", |b| b.rlimit(resource, value, value)) {
                assert_eq!(limit(&seen, name), (&*value.to_string(), &*value.to_string()));
                let others = kinds.iter().filter(|(other, ..)| *other != resource);
                others.for_each(|(_, other, _)| assert_eq!(limit(&seen, other), limit(&own, other)));
            }
        }
        for seen in both_read("/proc/self/limits", |b| b.rlimit(Resource::CpuTime, 5, 9).rlimit(Resource::CpuTime, 6, u64::MAX)) {
            assert_eq!(limit(&seen, "Max cpu time"), ("6", "unlimited"));
        }
    }

    fn memory_is_limited() {
        for seen in both_read("/proc/self/limits", |b| b.memory_limit(1 << 34)) {
            assert_eq!(limit(&seen, "Max address space"), ("17179869184", "17179869184"));
        }
        // A hungry child meets the limit, and the parent does not.
        let hungry = Process::builder(forked(|| ExitCode::from(40 + u8::from(Vec::<u8>::new().try_reserve_exact(1 << 36).is_err()))));
        let hungry = hungry.memory_limit(1 << 35).build().unwrap();
        hungry.start(true).unwrap();
        assert_eq!(hungry.join().unwrap().code(), Some(41));
    }

    fn a_program_that_does_not_fit_is_killed_and_that_is_its_exit() {
        let process = Process::builder(Command::new("true")).memory_limit(4096).build().unwrap();
        // execve(2) has thrown the old image away when it finds out: no error can be returned any more.
        process.start(true).unwrap();
        let exit = process.join().unwrap();
        assert!(matches!(exit.signal(), Some(Signal::SEGV | Signal::KILL)), "{exit}");
    }

    fn a_limit_above_the_hard_one_is_refused_without_the_right() {
        let raise = |b: pkit::Builder| b.rlimit(Resource::Nice, u64::MAX, u64::MAX);
        let capabilities = u64::from_str_radix(field(&own_status(), "CapEff"), 16).unwrap();
        if capabilities & 1 << CAP_SYS_RESOURCE == 0 {
            let text = "cannot start `it`: limit Nice: Operation not permitted (os error 1)";
            assert_eq!(both_refused(raise), [text; 2]);
            skipped("a hard limit may not be raised without CAP_SYS_RESOURCE");
            return;
        }
        // Limits come before the uid, while we still may.
        for seen in both_read("/proc/self/limits", |b| raise(b).uid(12345)) {
            assert_eq!(limit(&seen, "Max nice priority"), ("unlimited", "unlimited"));
        }
    }
}
