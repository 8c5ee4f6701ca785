//! Processes that lose their parent, and come to this program.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::sys::resource::Resource;
use nix::sys::signal::{Signal::SIGKILL, Signal::SIGUSR1, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use pkit::{Builder, Command, Containment, ContainmentLevel, Process, Signal, Stdio, Stop, Survivors};

use crate::support::{LONG, children, eventually, limited, pid_said_by, python, sh, skipped, tests, thread_names};

fn become_subreaper() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
}

fn tree(script: &str) -> Builder {
    Process::builder(sh(script)).contain(Containment::Tree).capture(1000)
}

/// Starts what leaves fifty of `orphan` behind, each of which ends at once, and says "up".
fn litters(builder: impl Fn(&str) -> Builder, orphan: &str) -> Process {
    let script = format!("i=0; while [ $i -lt 50 ]; do ({orphan} true &); i=$((i+1)); done; echo up; exec sleep 1000");
    let process = builder(&script).build().unwrap();
    process.start(true).unwrap();
    process.wait_for_line(LONG, |line| line == "up").unwrap();
    process
}

fn are_taken_while_it_runs(process: &Process) {
    eventually("nobody is left but the leader", || children() == [process.pid().unwrap()]);
    process.kill(true).unwrap();
}

fn a_tree_without_proc_is_ended() {
    let none = None::<&str>;
    if nix::sched::unshare(CloneFlags::CLONE_NEWNS).is_err() {
        return skipped("no mount namespace may be made");
    }
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("none"), "/proc", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    pkit::testing::pretend_no_cgroups();
    let process = tree("sleep 1000 >/dev/null & echo $!").build().unwrap();
    process.start(true).unwrap();
    process.join_timeout(LONG).unwrap().unwrap();
    assert_eq!(process.status().containment, Some(ContainmentLevel::Walk));
    let survivor = pid_said_by(&process);
    assert_eq!(kill(Pid::from_raw(survivor as i32), None), Err(Errno::ESRCH));
}

/// `survivor` says its pid, and ends when nobody can write to its descriptor 3 any more.
fn are_taken_when_they_were_left(contain: Containment, survivor: &str) {
    become_subreaper();
    are_taken_where_orphans_come_to_us(contain, survivor, || ());
}

fn are_taken_where_orphans_come_to_us(contain: Containment, survivor: &str, started: impl FnOnce()) {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let process = Process::builder(sh(survivor)).contain(contain).pass_fd(reader, 3).survivors(Survivors::leave());
    let process = process.stdin(Stdio::piped()).capture(1000).build().unwrap();
    process.start(true).unwrap();
    started();
    let left = pid_said_by(&process);
    drop(process.stdin());
    assert!(process.join().unwrap().success());
    assert_eq!(children(), [left]);
    // Nobody has a handle any more.
    drop((process, writer));
    eventually("it is taken", || children().is_empty());
}

/// So many descriptors that the runs of a test would have them all if each kept one.
const FEW: u64 = 64;

fn left_alone(contain: Containment, command: Command) -> Builder {
    Process::builder(command).contain(contain).survivors(Survivors::leave())
}

/// Runs that leave nobody are forgotten, however fast they come.
fn nobody_left_costs_nothing(contain: Containment) {
    become_subreaper();
    let process = left_alone(contain, Command::new("true")).build().unwrap();
    limited(Resource::RLIMIT_NOFILE, FEW, || {
        for _ in 0..5 * FEW {
            process.start(true).unwrap();
            process.join().unwrap();
        }
    });
}

/// What is left alone may take all descriptors there are. When it ends they are given back.
fn the_last_descriptor_comes_back(contain: Containment) {
    become_subreaper();
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let process = left_alone(contain, sh("sh -c 'read line <&3' & exit 0")).pass_fd(reader, 3).build().unwrap();
    limited(Resource::RLIMIT_NOFILE, FEW, || {
        let refused = (0..FEW).find_map(|_| process.start(true).and_then(|_| process.join()).err());
        assert!(refused.unwrap().to_string().contains("Too many open files"));
        drop(writer);
        eventually("all are taken", || !has_children());
        eventually("it starts again", || process.start(true).is_ok());
        process.join().unwrap();
    });
    drop(process);
    eventually("all descriptors are given back", || pidfds() == 0);
}

/// Alive or not, without a descriptor.
fn has_children() -> bool {
    waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) != Err(Errno::ECHILD)
}

fn end_children() {
    for left in children() {
        kill(Pid::from_raw(left as i32), SIGKILL).unwrap();
        waitpid(Pid::from_raw(left as i32), None).unwrap();
    }
}

fn pidfds() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file.to_string_lossy().contains("pidfd"))).count()
}

const IN_GROUP: &str = "sh -c 'echo $$; read line <&3' & read line; exit 0";
const BEYOND: &str = "setsid sh -c 'echo $$; read line <&3' & read line; exit 0";

tests! {
    fn that_were_left_of_a_group_are_taken() {
        // Before 6.9 nobody can tell whose a group was, once its leader was reaped.
        if pkit::testing::has_group_signal() {
            are_taken_when_they_were_left(Containment::Group, IN_GROUP);
        }
    }

    fn that_were_left_of_a_tree_are_taken_by_cgroup() {
        are_taken_when_they_were_left(Containment::Tree, BEYOND);
    }

    fn that_were_left_of_a_tree_are_taken_by_walking() {
        pkit::testing::pretend_no_cgroups();
        are_taken_when_they_were_left(Containment::Tree, BEYOND);
    }

    fn that_were_left_are_taken_if_they_come_to_us_since_a_moment_ago() {
        if pkit::testing::has_group_signal() {
            // It ends when it has been looked for once already.
            let survivor = "sh -c 'echo $$; read line <&3; exec sleep 2' & read line; exit 0";
            are_taken_where_orphans_come_to_us(Containment::Group, survivor, become_subreaper);
        }
    }

    fn that_were_left_are_taken_however_late_their_parent_ends() {
        if !pkit::testing::has_group_signal() {
            return;
        }
        become_subreaper();
        // Of the leader's group only the orphan is left, a zombie: its parent and grandparent are in sessions of their own.
        let script = "
done = os.pipe()
if os.fork() == 0:
    parent = os.fork()
    if parent == 0:
        orphan = os.fork()
        if orphan == 0: os._exit(0)
        os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
        os.setsid()
        os.write(done[1], str(orphan).encode())
        for fd in [0, 1, 2, *done]: os.close(fd)
        time.sleep(4)
        os._exit(0)
    os.setsid()
    for fd in [0, 1, 2, *done]: os.close(fd)
    os.waitpid(parent, 0)
    signal.pause()
os.close(done[1])
print(os.read(done[0], 10).decode(), flush=True)
os._exit(0)";
        let process = Process::builder(python(script)).survivors(Survivors::leave()).capture(1000).build().unwrap();
        process.start(true).unwrap();
        let orphan = pid_said_by(&process);
        assert!(process.join().unwrap().success());
        drop(process);
        let is_zombie = || std::fs::read_to_string(format!("/proc/{orphan}/stat")).is_ok_and(|stat| stat.contains(") Z"));
        assert!(is_zombie());
        eventually("it is taken", || !is_zombie());
        // The grandparent left its group, and is nobody's to end but ours.
        end_children();
    }

    fn that_were_not_left_by_a_group_cost_nothing() {
        nobody_left_costs_nothing(Containment::Group);
    }

    fn that_were_not_left_by_a_tree_cost_nothing_by_walking() {
        pkit::testing::pretend_no_cgroups();
        nobody_left_costs_nothing(Containment::Tree);
    }

    fn that_were_left_by_groups_give_the_last_descriptor_back() {
        if pkit::testing::has_group_signal() {
            the_last_descriptor_comes_back(Containment::Group);
        }
    }

    fn that_were_left_by_trees_give_the_last_descriptor_back() {
        // Before 6.9 what was never seen alive, for want of descriptors, cannot be told from strangers.
        if pkit::testing::has_group_signal() {
            pkit::testing::pretend_no_cgroups();
            the_last_descriptor_comes_back(Containment::Tree);
        }
    }

    fn that_were_left_and_are_waited_for_by_others_are_forgotten() {
        // Before 6.9 a group is not kept.
        if !pkit::testing::has_group_signal() {
            return;
        }
        become_subreaper();
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let script = "
moved = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.read(3, 1)
        os._exit(0)
    os.setpgid(0, 0)
    os.write(moved[1], b'x')
    os.wait()
    signal.pause()
os.read(moved[0], 1)
os._exit(0)";
        let process = left_alone(Containment::Group, python(script)).pass_fd(reader, 3).build().unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        drop((process, writer));
        eventually("its descriptor is given back", || pidfds() == 0);
        end_children();
    }

    fn of_the_same_program_before_it_executed_itself_are_no_members() {
        pkit::testing::pretend_no_cgroups();
        let Some(before) = std::env::var("BEFORE").ok().map(|pid| Pid::from_raw(pid.parse().unwrap())) else {
            let before = tree("exec sleep 1000").outlive_parent().build().unwrap();
            let pid = before.start(true).unwrap();
            before.detach();
            let mut again = std::process::Command::new(std::env::current_exe().unwrap());
            panic!("{}", again.args(std::env::args_os().skip(1)).env("BEFORE", pid.to_string()).exec());
        };
        // The first of this program, as that was the first of the program before.
        let process = tree("exec sleep 1000").build().unwrap();
        process.start(true).unwrap();
        process.terminate(true).unwrap();
        kill(before, SIGUSR1).unwrap();
        assert_eq!(waitpid(before, None).unwrap(), WaitStatus::Signaled(before, SIGUSR1, false));
    }

    fn of_a_group_are_taken_while_it_runs() {
        become_subreaper();
        let group = |script: &str| Process::builder(sh(script)).capture(1000);
        are_taken_while_it_runs(&litters(group, ""));
    }

    fn of_a_tree_are_taken_while_it_runs_by_walking() {
        pkit::testing::pretend_no_cgroups();
        are_taken_while_it_runs(&litters(tree, ""));
    }

    fn of_a_tree_are_taken_while_it_runs_by_its_cgroup() {
        become_subreaper();
        let process = litters(tree, "setsid");
        if process.status().containment == Some(ContainmentLevel::Cgroup) {
            are_taken_while_it_runs(&process);
        } else {
            skipped("this program may not make a cgroup");
            process.kill(true).unwrap();
        }
    }

    fn that_are_killed_with_their_cgroup_are_taken() {
        become_subreaper();
        for _ in 0..10 {
            let process = tree("setsid sh -c 'echo $$; sleep 1000 & sleep 1000' & sleep 1000").build().unwrap();
            process.start(true).unwrap();
            pid_said_by(&process);
            process.terminate(true).unwrap();
        }
        eventually("none is left", || children().is_empty());
    }

    fn of_other_code_are_its_own() {
        become_subreaper();
        let process = litters(tree, "");
        // Ends while the others are looked for, and is waited for by who started it.
        let mut other = std::process::Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        eventually("nobody is left but the leader and that one", || children().len() == 2);
        std::thread::scope(|scope| scope.spawn(|| litters(tree, "").kill(true)).join().unwrap()).unwrap();
        assert_eq!(other.wait().unwrap().code(), Some(3));
        process.kill(Duration::from_secs(60)).unwrap();
    }

    fn many_trees_that_are_stopped_at_once_share_what_is_seen() {
        pkit::testing::pretend_no_cgroups();
        // However long it takes on a loaded machine to see that they are gone.
        let tree = || tree("exec sleep 1000").stop(Stop::signal(Signal::TERM, LONG)).build().unwrap();
        let many: Vec<_> = (0..100).map(|_| tree()).collect();
        for process in &many {
            process.start(true).unwrap();
        }
        for process in &many {
            process.terminate(false).unwrap();
        }
        let mut most = 0;
        eventually("all are gone", || {
            most = most.max(thread_names().iter().filter(|name| *name == "pkit-callback").count());
            children().is_empty()
        });
        assert!(most <= 5, "{most} threads");
        for process in &many {
            assert!(!process.join().unwrap().forced());
        }
    }

    fn without_proc_a_tree_is_ended_as_a_group_is() {
        if pkit::testing::has_group_signal() {
            crate::forked::in_a_raw_fork(a_tree_without_proc_is_ended);
        }
    }
}
