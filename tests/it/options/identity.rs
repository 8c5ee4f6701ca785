//! Who the child is: user and groups.

use nix::unistd::{User, getgrouplist};
use pkit::{Command, Process};

use super::{both_read, both_refused, field};
use crate::forked::forked;
use crate::support::{eventually, is_root, skipped, tests};

fn quadruple(id: u32) -> String {
    [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join("\t")
}

tests! {
    fn user_and_groups_are_inherited() {
        let own = super::own_status();
        for seen in both_read("/proc/self/status", |b| b) {
            for name in ["Uid", "Gid", "Groups"] {
                assert_eq!(field(&seen, name), field(&own, name));
            }
        }
    }

    fn this_program_may_change_its_user() {
        if !is_root() {
            skipped("only root may become another user");
            return;
        }
        // The C library has every thread take part in it, those of pkit too.
        let process = Process::builder(Command::new("true")).on_exit(|_, _| ()).build().unwrap();
        std::thread::scope(|scope| _ = scope.spawn(|| process.start(true).unwrap()));
        process.join().unwrap();
        nix::unistd::setgid(65534.into()).unwrap();
        nix::unistd::setuid(65534.into()).unwrap();
        // A thread that ended a moment ago is there for another, as it was.
        eventually("every thread is of that user", || {
            let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            let statuses = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
            statuses.collect::<Vec<_>>().iter().all(|status| field(status, "Uid") == quadruple(65534))
        });
        process.start(true).unwrap();
        assert!(process.join().unwrap().success());
    }

    fn the_childs_user_leaves_this_program_dumpable() {
        if !is_root() {
            skipped("only root may become another user");
            return;
        }
        let dumpable = || nix::sys::prctl::get_dumpable().unwrap();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    let process = Process::builder(Command::new("true")).uid(12345).gid(12345).build().unwrap();
                    for _ in 0..20 {
                        process.start(true).unwrap();
                        process.join().unwrap();
                    }
                })
            })
            .collect();
        // Nor a closure, forked while they start.
        let closure = Process::new(forked(|| std::process::ExitCode::from(u8::from(!nix::sys::prctl::get_dumpable().unwrap()))));
        while !threads.iter().all(std::thread::JoinHandle::is_finished) {
            closure.start(true).unwrap();
            assert!(closure.join().unwrap().success());
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(dumpable());
    }

    fn user_and_group_are_set() {
        if !is_root() {
            let text = "cannot start `it`: become user 12345: Operation not permitted (os error 1)";
            assert_eq!(both_refused(|b| b.uid(12345)), [text; 2]);
            skipped("only root may become another user");
            return;
        }
        for seen in both_read("/proc/self/status", |b| b.uid(12345).gid(23456).groups([7, 8, 99])) {
            assert_eq!(field(&seen, "Uid"), quadruple(12345));
            assert_eq!(field(&seen, "Gid"), quadruple(23456));
            assert_eq!(field(&seen, "Groups"), "7 8 99");
            assert_eq!(field(&seen, "CapEff"), "0000000000000000");
        }
        for seen in both_read("/proc/self/status", |b| b.groups([])) {
            assert_eq!((field(&seen, "Groups"), field(&seen, "Uid")), ("", &*quadruple(0)));
        }
        // The threads of the parent are who they were.
        for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap();
            assert_eq!(field(&status, "Uid"), quadruple(0));
        }
    }

    fn a_user_is_looked_up_by_name() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        if !is_root() {
            assert!(both_refused(|b| b.user("nobody")).iter().all(|text| text.contains("Operation not permitted")));
            skipped("only root may become another user");
            return;
        }
        let mut groups: Vec<u32> = getgrouplist(c"nobody", nobody.gid).unwrap().iter().map(|gid| gid.as_raw()).collect();
        groups.sort_unstable();
        let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
        for seen in both_read("/proc/self/status", |b| b.user("nobody")) {
            assert_eq!(field(&seen, "Uid"), quadruple(nobody.uid.as_raw()));
            assert_eq!(field(&seen, "Gid"), quadruple(nobody.gid.as_raw()));
            assert_eq!(field(&seen, "Groups"), groups.join(" "));
        }
        for seen in both_read("/proc/self/status", |b| b.user("nobody").gid(23456).groups([5])) {
            assert_eq!(field(&seen, "Uid"), quadruple(nobody.uid.as_raw()));
            assert_eq!((field(&seen, "Gid"), field(&seen, "Groups")), (&*quadruple(23456), "5"));
        }
    }
}
