//! Whole trees: who leaves the group with `setsid` belongs to the run under `Containment::Tree`, by cgroup and by walk.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::Resource;
use nix::sys::signal::{Signal as Raw, kill};
use nix::unistd::Pid;
use pkit::{
    Backoff, Builder, Containment, ContainmentLevel, EventKind, Process, Ready, Restart, Signal, State, Stdio, Stop,
    Survivors,
};

use crate::forked::in_a_raw_fork;
use crate::program::{Program, role, say, stay};
use crate::support::{
    LONG, children, eventually, is_alive, limited, pid_said_by, python, sh, skipped, tests, without_descriptors,
};

const SHORT: Duration = Duration::from_millis(300);

/// A leader, one in its group, and one that left it with `setsid` and ignores SIGTERM, which says its pid.
const TREE: &str = "setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1000; done' & sleep 1000";
/// One that left the group twice over: its parent is gone too.
/// (The leader waits for that parent: as a zombie that no walk had seen before, it could not be told from a stranger's child.)
const DAEMON: &str = "setsid sh -c 'setsid sh -c \"trap \\\"\\\" TERM HUP; echo \\$\\$; while :; do sleep 1000; done\" & exit'; sleep 1000";

/// A tree of which forty have left the group, and of which all end at SIGTERM.
fn forty_beyond_the_group() -> Builder {
    let script = "for i in 1 2 3 4 5 6 7 8; do for j in 1 2 3 4 5; do setsid sh -c 'echo up; exec sleep 1000' & done; done; exec sleep 1000";
    Process::builder(sh(script)).contain(Containment::Tree).capture(1000).stop(Stop::signal(Signal::TERM, LONG))
}

fn start_with_its_members(process: &Process) {
    process.start(true).unwrap();
    eventually("all have left", || process.output().stdout_text().matches("up").count() == 40);
}

fn next_descriptor() -> u64 {
    fs::File::open("/dev/null").unwrap().as_raw_fd() as u64
}

fn all_are_reached_with_few_descriptors() {
    let process = forty_beyond_the_group().build().unwrap();
    start_with_its_members(&process);
    limited(Resource::RLIMIT_NOFILE, next_descriptor() + 8, || process.terminate(true)).unwrap();
    assert!(!process.join().unwrap().forced());
    start_with_its_members(&process);
    limited(Resource::RLIMIT_NOFILE, next_descriptor() + 8, || process.kill(true)).unwrap();
}

tests! {
    fn a_cgroup_is_reached_with_few_descriptors() {
        all_are_reached_with_few_descriptors();
    }

    fn a_cgroup_without_cgroup_kill_is_reached_with_few_descriptors() {
        pkit::testing::pretend_no_cgroup_kill();
        all_are_reached_with_few_descriptors();
    }

    fn a_tree_is_reached_with_few_descriptors_by_walking() {
        pkit::testing::pretend_no_cgroups();
        all_are_reached_with_few_descriptors();
    }

    fn a_tree_is_ended_by_its_cgroup() {
        if has_cgroups() {
            a_tree_is_ended(ContainmentLevel::Cgroup);
        }
    }

    fn a_tree_is_ended_by_walking() {
        pkit::testing::pretend_no_cgroups();
        a_tree_is_ended(ContainmentLevel::Walk);
    }

    fn a_tree_is_killed_by_its_cgroup() {
        if has_cgroups() {
            a_tree_is_killed(ContainmentLevel::Cgroup);
        }
    }

    fn a_tree_is_killed_by_its_cgroup_on_kernels_without_cgroup_kill() {
        if has_cgroups() {
            pkit::testing::pretend_no_cgroup_kill();
            a_tree_is_killed(ContainmentLevel::Cgroup);
            // The ladder ends in SIGKILL as well.
            a_tree_is_ended(ContainmentLevel::Cgroup);
            assert_eq!(own_cgroups(std::process::id()), Vec::<PathBuf>::new());
        }
    }

    fn a_tree_is_killed_by_walking() {
        pkit::testing::pretend_no_cgroups();
        a_tree_is_killed(ContainmentLevel::Walk);
    }

    fn who_left_the_tree_and_ended_unseen_is_no_zombie_of_ours() {
        pkit::testing::pretend_no_cgroups();
        // Nobody looks at it before its stop; its parent never waits for it, and ends first.
        let script = r"
if os.fork() == 0:
    os.setsid()
    os._exit(0)
print('left', flush=True)
signal.pause()";
        type End = fn(&Process);
        let ends: [End; 4] = [
            |process| {
                process.signal(Signal::KILL).unwrap();
                process.join().unwrap();
            },
            |process| process.terminate(true).unwrap(),
            |process| process.kill(true).unwrap(),
            |process| {
                let events = process.subscribe();
                process.terminate(false).unwrap();
                drop(events.into_iter().find(|event| matches!(event.kind, EventKind::Exited(_))));
            },
        ];
        for end in ends {
            let builder = Process::builder(python(script)).capture(1000);
            let process = builder.contain(Containment::Tree).build().unwrap();
            let pid = process.start(true).unwrap();
            process.wait_for_line(LONG, |line| line == "left").unwrap();
            eventually("it is a zombie", || {
                let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
                let mut children = children.split_whitespace().map(|child| child.parse().unwrap());
                children.next().is_some_and(|child| !is_alive(child))
            });
            end(&process);
            assert_eq!(children(), []);
        }
    }

    fn a_name_that_is_no_text_hides_nobody() {
        pkit::testing::pretend_no_cgroups();
        let script = r"
if os.fork() == 0:
    os.setsid()
    open('/proc/self/comm', 'wb').write(b'\xff\xfe')
    print(os.getpid(), flush=True)
signal.pause()";
        let process = Process::builder(python(script));
        let process = process.capture(1000).contain(Containment::Tree).build().unwrap();
        process.start(true).unwrap();
        let left = pid_said_by(&process);
        process.terminate(true).unwrap();
        assert!(!is_alive(left));
    }

    fn what_a_crash_left_of_a_tree_is_gone_before_its_successor_by_cgroup() {
        if has_cgroups() {
            no_successor_beside_the_old_tree(ContainmentLevel::Cgroup);
        }
    }

    fn what_a_crash_left_of_a_tree_is_gone_before_its_successor_by_walking() {
        pkit::testing::pretend_no_cgroups();
        no_successor_beside_the_old_tree(ContainmentLevel::Walk);
    }

    fn a_leader_that_left_its_cgroup_is_ended_all_the_same() {
        if !has_cgroups() {
            return;
        }
        let script = "trap '' TERM; echo $$ > ${0%/*}/cgroup.procs; echo $$; while :; do sleep 1000; done";
        let mount = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mount.lines().find(|line| line.contains(" cgroup2 ")).unwrap().split(' ').nth(1).unwrap().to_owned();
        let mut command = sh(script);
        command.arg(format!("{mount}/program"));
        let process = Process::builder(command).contain(Containment::Tree).stop(Stop::signal(Signal::TERM, SHORT));
        let process = process.capture(1024).build().unwrap();
        process.start(true).unwrap();
        let pid = pid_said_by(&process);
        process.terminate(LONG).unwrap();
        assert!(!is_alive(pid));
        assert_eq!(own_cgroups(std::process::id()), Vec::<PathBuf>::new());
    }

    fn a_threaded_cgroup_hides_nobody() {
        if has_cgroups() {
            a_tree_with_a_threaded_cgroup_is_ended();
            pkit::testing::pretend_no_cgroup_kill();
            a_tree_with_a_threaded_cgroup_is_ended();
        }
    }

    fn a_leader_that_left_its_group_is_told_once_by_cgroup() {
        if has_cgroups() {
            a_leader_that_left_its_group_is_told_once();
        }
    }

    fn a_leader_that_left_its_group_is_told_once_by_walking() {
        pkit::testing::pretend_no_cgroups();
        a_leader_that_left_its_group_is_told_once();
    }

    fn the_status_of_a_leader_that_left_its_group_is_its_own() {
        pkit::testing::pretend_no_cgroups();
        let script = "os.setpgid(0, os.getpgid(os.getppid()))
print('up', flush=True)
os.read(0, 1)
os._exit(7)";
        for _ in 0..20 {
            let process = Process::builder(python(script)).contain(Containment::Tree).stdin(Stdio::piped());
            let process = process.ready(Ready::line("up")).build().unwrap();
            process.start(true).unwrap();
            // It is looked at, and so known.
            process.signal(Signal::CONT).unwrap();
            drop(process.stdin());
            let exit = process.join().unwrap();
            assert!(exit.code() == Some(7) && exit.usage().max_rss() > 0, "{exit:?}");
        }
    }

    fn a_daemon_made_by_the_book_leaves_no_zombie() {
        pkit::testing::pretend_no_cgroups();
        // Whose first child leads a session, has the daemon, and ends: before the leader, or after it.
        for wait in ["os.wait()", "signal.sigtimedwait([signal.SIGCHLD], 0.05)", "0"] {
            let script = format!(
                "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: os.execvp('sleep', ['sleep', '1000'])
    os._exit(0)
{wait}"
            );
            for _ in 0..3 {
                let process = Process::builder(python(&script)).contain(Containment::Tree).build().unwrap();
                process.start(true).unwrap();
                assert!(process.join().unwrap().success());
                assert_eq!(children(), [], "{wait}");
            }
        }
    }

    fn who_is_stopped_outside_of_the_group_takes_the_ladder_by_cgroup() {
        if has_cgroups() {
            who_is_stopped_outside_of_the_group_takes_the_ladder(ContainmentLevel::Cgroup);
        }
    }

    fn who_is_stopped_outside_of_the_group_takes_the_ladder_by_walking() {
        pkit::testing::pretend_no_cgroups();
        who_is_stopped_outside_of_the_group_takes_the_ladder(ContainmentLevel::Walk);
    }

    fn signals_reach_a_tree_in_order_by_cgroup() {
        if has_cgroups() {
            signals_arrive_in_order(ContainmentLevel::Cgroup);
        }
    }

    fn signals_reach_a_tree_in_order_by_walking() {
        pkit::testing::pretend_no_cgroups();
        signals_arrive_in_order(ContainmentLevel::Walk);
    }

    fn without_descriptors_nothing_is_taken_for_gone_by_cgroup() {
        if has_cgroups() {
            nothing_is_taken_for_gone();
        }
    }

    fn without_descriptors_nothing_is_taken_for_gone_by_walking() {
        pkit::testing::pretend_no_cgroups();
        nothing_is_taken_for_gone();
    }

    fn a_tree_is_ended_where_the_processes_of_others_are_hidden() {
        if role().is_some() {
            // Of those that are hidden every look into /proc is refused, which is no lack of anything.
            fs::read("/proc/1/stat").unwrap_err();
            pkit::testing::pretend_no_cgroups();
            a_tree_is_ended(ContainmentLevel::Walk);
            say("ended");
            return;
        }
        let hide = "mount -t proc -o hidepid=1 proc /proc && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
        let program = Program::start_by(&["unshare", "--mount", "sh", "-c", hide, "sh"], "hidden");
        let (status, said) = program.finish();
        match status.code() {
            Some(0) => assert_eq!(said, ["ended"]),
            // Those of mount(8), unshare(1), and what cannot be executed by everybody.
            Some(1 | 32 | 126 | 127) if said.is_empty() => skipped("this program may not hide processes, or be another user"),
            _ => panic!("{status}: {said:?}"),
        }
    }

    fn who_executes_something_after_a_walk_has_seen_it_belongs_to_its_tree() {
        pkit::testing::pretend_no_cgroups();
        // A fork has the environment of this program, until it executes something with the one that it was given.
        let forked = crate::forked::forked(|| {
            use std::os::unix::process::CommandExt;
            crate::forked::in_a_daemon(|| {
                std::io::stdin().read_line(&mut String::new()).unwrap();
                crate::forked::tell(&format!("{}\n", std::process::id()));
                panic!("{}", std::process::Command::new("sleep").arg("1000").exec());
            });
            loop {
                std::thread::park();
            }
        });
        let process = Process::builder(forked).contain(Containment::Tree).stdin(Stdio::piped()).capture(1024);
        let process = process.build().unwrap();
        process.start(true).unwrap();
        // A walk.
        process.signal(Signal::CONT).unwrap();
        crate::support::say(&mut process.stdin().unwrap(), "go on");
        let daemon = pid_said_by(&process);
        eventually("it executes", || {
            fs::read_to_string(format!("/proc/{daemon}/comm")).is_ok_and(|name| name == "sleep\n")
        });
        process.kill(true).unwrap();
        assert!(!is_alive(daemon));
    }

    fn what_a_tree_within_a_tree_left_is_ended_with_the_outer_one() {
        pkit::testing::pretend_no_cgroups();
        let inner = crate::forked::forked(|| {
            let inner = tree(TREE).stdout(Stdio::inherit()).build().unwrap();
            inner.start(true).unwrap();
            loop {
                std::thread::park();
            }
        });
        let outer = Process::builder(inner).contain(Containment::Tree).capture(1024).build().unwrap();
        let leader = outer.start(true).unwrap();
        let escaped = pid_said_by(&outer);
        kill(Pid::from_raw(leader as i32), Raw::SIGKILL).unwrap();
        outer.join_timeout(LONG).unwrap().unwrap();
        assert!(!is_alive(escaped));
        // What died with the inner program, before any walk had seen it, cannot be told from a stranger's zombie.
        while nix::sys::wait::wait().is_ok() {}
    }

    fn who_may_live_on_is_not_swept_away() {
        if role().is_some() {
            // Another program that makes a cgroup beside ours.
            let process = tree("exit 0").build().unwrap();
            process.start(true).unwrap();
            process.join().unwrap();
            return;
        }
        if !has_cgroups() {
            return;
        }
        let script = "setsid sleep 1000 >&- 2>&- & echo $!";
        let process = tree(script).survivors(Survivors::leave()).build().unwrap();
        process.start(true).unwrap();
        let left = pid_said_by(&process);
        process.join().unwrap();
        let other = || assert!(Program::start("other").finish().0.success());
        other();
        assert!(is_alive(left) && own_cgroups(std::process::id()).len() == 1);
        kill(Pid::from_raw(left as i32), Raw::SIGKILL).unwrap();
        eventually("it is gone", || !is_alive(left));
        eventually("its cgroup is empty, and removed by the next", || {
            other();
            own_cgroups(std::process::id()).is_empty()
        });
    }

    fn a_tree_is_walked_where_something_covers_the_cgroups() {
        // In a process none of whose threads has another mount namespace.
        in_a_raw_fork(a_tree_beneath_a_cover);
    }

    fn no_cgroup_is_left_behind() {
        if !has_cgroups() {
            return;
        }
        for _ in 0..20 {
            let process = tree("exit 0").build().unwrap();
            process.start(true).unwrap();
            process.join().unwrap();
            assert_eq!(own_cgroups(std::process::id()), Vec::<PathBuf>::new());
        }
        let process = tree("exec sleep 1000").build().unwrap();
        process.start(true).unwrap();
        assert_eq!(own_cgroups(std::process::id()).len(), 1);
        process.kill(LONG).unwrap();
        assert_eq!(own_cgroups(std::process::id()), Vec::<PathBuf>::new());
        // A start that fails leaves none either.
        let missing = Process::builder(pkit::Command::new("no-such-program")).contain(Containment::Tree).build().unwrap();
        missing.start(true).unwrap_err();
        assert_eq!(own_cgroups(std::process::id()), Vec::<PathBuf>::new());
    }

    fn the_cgroup_of_a_killed_program_is_swept_by_the_next() {
        match role().as_deref() {
            Some("owner") => {
                let process = tree(TREE).build().unwrap();
                process.start(true).unwrap();
                say(std::process::id());
                say(pid_said_by(&process));
                stay();
            }
            // A program sweeps once, so this must not be the test itself, which uses cgroups before.
            Some(_) => {
                has_cgroups();
                return;
            }
            None => {}
        }
        if !has_cgroups() {
            return;
        }
        let mut program = Program::start("owner");
        let (owner, escaped) = (program.number(), program.number());
        assert_eq!(own_cgroups(owner).len(), 1);
        program.kill();
        // Another may run the same tests beside us, and its sweep find it first.
        let (status, _) = Program::start("next").finish();
        assert!(status.success(), "{status}");
        eventually("it was ended", || !is_alive(escaped));
        eventually("its cgroup was removed", || own_cgroups(owner).is_empty());
    }

    fn the_level_in_force_is_in_the_status() {
        let group = Process::new(sh("exit 0"));
        assert_eq!(group.status().containment, None);
        group.start(true).unwrap();
        assert_eq!(group.status().containment, Some(ContainmentLevel::Group));
        group.join().unwrap();
        let inherited = Process::builder(sh("exit 0")).group(pkit::Group::Inherit).build().unwrap();
        inherited.start(true).unwrap();
        assert_eq!(inherited.status().containment, Some(ContainmentLevel::Leader));
        inherited.join().unwrap();
        pkit::testing::pretend_no_cgroups();
        let walk = tree("exit 0").build().unwrap();
        walk.start(true).unwrap();
        assert_eq!(walk.status().containment, Some(ContainmentLevel::Walk));
        walk.join().unwrap();
    }
}

fn tree(script: &str) -> Builder {
    Process::builder(sh(script)).contain(Containment::Tree).stop(Stop::signal(Signal::TERM, SHORT)).capture(1024)
}

/// The pid of the one that left the group.
fn start_tree(process: &Process, level: ContainmentLevel) -> u32 {
    process.start(true).unwrap();
    assert_eq!(process.status().containment, Some(level));
    pid_said_by(process)
}

fn a_tree_is_ended(level: ContainmentLevel) {
    for script in [TREE, DAEMON] {
        let process = tree(script).build().unwrap();
        let escaped = start_tree(&process, level);
        process.terminate(LONG).unwrap();
        assert!(!is_alive(escaped), "{script}");
        let exit = process.join().unwrap();
        assert!(exit.forced() && !exit.output_leaked(), "{exit:?}");
        // The leader obeys, however long that takes on a loaded machine. The other one never does.
        let process = tree(script).stop(Stop::signal(Signal::TERM, LONG)).build().unwrap();
        let escaped = start_tree(&process, level);
        process.terminate(false).unwrap();
        process.wait_until(LONG, |status| status.pid.is_none()).unwrap();
        assert!(is_alive(escaped), "{script}");
        process.kill(LONG).unwrap();
        assert!(!is_alive(escaped), "{script}");
        let exit = process.join().unwrap();
        assert!(exit.forced() && exit.signal() == Some(Signal::TERM), "{exit:?}");
    }
}

fn a_leader_that_left_its_group_is_told_once() {
    let script = "signals = [signal.SIGUSR1, signal.SIGUSR2]
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
who = 'helper' if os.fork() == 0 else 'leader'
if who == 'helper': os.setsid()
else: os.setpgid(0, os.getpgid(os.getppid()))
say = lambda what: os.write(1, f'{who} {what}\\n'.encode())
say('up')
while True: say(signal.sigwait(signals).name)";
    let process = Process::builder(python(script)).contain(Containment::Tree).capture(1 << 16).build().unwrap();
    process.start(true).unwrap();
    let said = |line: &str| process.output().stdout_text().lines().filter(|said| *said == line).count();
    eventually("both are up", || said("leader up") + said("helper up") == 2);
    process.signal(Signal::USR1).unwrap();
    // Who is beyond the group hears of it in order, and later: and so would the leader, of what it has by then.
    eventually("the helper has it", || said("helper SIGUSR1") == 1);
    for times in 1..=2 {
        process.signal(Signal::USR2).unwrap();
        eventually("both have it", || said("helper SIGUSR2") == times && said("leader SIGUSR2") >= times);
    }
    assert_eq!((said("leader SIGUSR1"), said("leader SIGUSR2")), (1, 2));
    process.kill(LONG).unwrap();
}

/// The leader and its group are gone by then: the ladder is for that one alone.
fn who_is_stopped_outside_of_the_group_takes_the_ladder(level: ContainmentLevel) {
    let survivor = "trap 'exit 0' TERM; echo $$; kill -STOP $$; while :; do sleep 0.01; done";
    let process = tree("setsid sh -c \"$SURVIVOR\" & read go").env("SURVIVOR", survivor).stdin(Stdio::piped());
    let process = process.survivors(Survivors::stop(Stop::signal(Signal::TERM, LONG))).build().unwrap();
    let events = process.subscribe();
    let survivor = start_tree(&process, level);
    eventually("it stopped itself", || fs::read_to_string(format!("/proc/{survivor}/stat")).unwrap().contains(") T "));
    drop(process.stdin());
    let exit = process.join().unwrap();
    assert!(!is_alive(survivor) && !exit.forced(), "{exit:?}");
    drop(process);
    let sent = events.into_iter().filter_map(|event| match event.kind {
        EventKind::SignalSent(signal) => Some(signal),
        _ => None,
    });
    assert_eq!(sent.collect::<Vec<_>>(), [Signal::TERM]);
}

fn signals_arrive_in_order(level: ContainmentLevel) {
    // The one that left the group answers.
    let script = "sigs = {signal.SIGUSR1, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, sigs)
if os.fork():
    os.wait()
else:
    os.setsid()
    print(os.getpid(), flush=True)
    heard = 0
    while signal.sigwait(sigs) == signal.SIGUSR1: heard += 1; print('heard', heard, flush=True)";
    let process = Process::builder(python(script)).contain(Containment::Tree).capture(1024).build().unwrap();
    start_tree(&process, level);
    for round in 1..=100 {
        // Were it stopped after it was told to go on, it would say nothing any more.
        for signal in [Signal::STOP, Signal::CONT, Signal::USR1] {
            process.signal(signal).unwrap();
        }
        process.wait_for_line(LONG, |line| line == format!("heard {round}")).unwrap();
    }
    process.terminate(LONG).unwrap();
}

fn a_tree_is_killed(level: ContainmentLevel) {
    for script in [TREE, DAEMON] {
        let process = tree(script).build().unwrap();
        let escaped = start_tree(&process, level);
        process.kill(LONG).unwrap();
        assert!(!is_alive(escaped), "{script}");
        assert!(!process.join().unwrap().output_leaked());
    }
}

fn nothing_is_taken_for_gone() {
    type End = fn(&Process, Duration) -> pkit::Result<()>;
    let ends: [End; 2] = [|process, limit| process.kill(limit), |process, limit| process.terminate(limit)];
    for end in ends {
        let process = tree(TREE).stop(Stop::signal(Signal::TERM, SHORT)).build().unwrap();
        process.start(true).unwrap();
        let escaped = pid_said_by(&process);
        let ended = without_descriptors(|| end(&process, 3 * SHORT));
        assert!(ended.is_err() || !is_alive(escaped));
        end(&process, LONG).unwrap();
        assert!(!is_alive(escaped));
    }
}

fn no_successor_beside_the_old_tree(level: ContainmentLevel) {
    let process = tree(TREE)
        .restart(Restart::always().backoff(Backoff::none()).unlimited())
        .survivors(Survivors::stop(Stop::signal(Signal::TERM, SHORT)))
        .build()
        .unwrap();
    process.start(true).unwrap();
    for _ in 0..3 {
        let escaped = pid_said_by(&process);
        let status = process.status();
        assert_eq!(status.containment, Some(level));
        kill(Pid::from_raw(status.pid.unwrap() as i32), Raw::SIGKILL).unwrap();
        let next = |now: &pkit::Status| now.generation > status.generation && now.state == State::Ready;
        process.wait_until(LONG, next).unwrap();
        assert!(!is_alive(escaped));
    }
    process.kill(LONG).unwrap();
}

/// Of a threaded cgroup no processes can be read (EOPNOTSUPP): all are listed in that above it.
fn a_tree_with_a_threaded_cgroup_is_ended() {
    for end in [Signal::TERM, Signal::KILL] {
        let builder = tree("setsid sh -c 'echo $$; exec sleep 1000' & exec sleep 1000");
        let process = builder.stop(Stop::signal(Signal::TERM, LONG)).build().unwrap();
        process.start(true).unwrap();
        let left = pid_said_by(&process);
        let [own] = &own_cgroups(std::process::id())[..] else { panic!("it has a cgroup of its own") };
        let threads = own.join("threads");
        fs::create_dir(&threads).unwrap();
        fs::write(threads.join("cgroup.type"), "threaded").unwrap();
        fs::read_to_string(threads.join("cgroup.procs")).unwrap_err();
        if end == Signal::KILL { process.kill(true) } else { process.terminate(true) }.unwrap();
        assert_eq!((process.join().unwrap().forced(), is_alive(left)), (end == Signal::KILL, false));
        assert_eq!(own_cgroups(std::process::id()), Vec::<PathBuf>::new());
    }
}

/// Whether this program may make a cgroup below its own.
fn has_cgroups() -> bool {
    let process = tree("exit 0").build().unwrap();
    process.start(true).unwrap();
    process.join().unwrap();
    let has = process.status().containment == Some(ContainmentLevel::Cgroup);
    if !has {
        skipped("this program may not make a cgroup");
    }
    has
}

/// The cgroups that belong to runs of the program `pid`, wherever cgroup v2 is mounted.
fn a_tree_beneath_a_cover() {
    let none = None::<&str>;
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let cgroups = mounts.lines().find(|line| line.contains(" cgroup2 ")).and_then(|line| line.split(' ').nth(1));
    let (Some(cgroups), Ok(())) = (cgroups, unshare(CloneFlags::CLONE_NEWNS)) else {
        return skipped("there are no cgroups, or no mount namespace may be made");
    };
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("none"), cgroups, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let process = tree("exec sleep 1000").build().unwrap();
    process.start(true).unwrap();
    assert_eq!(process.status().containment, Some(ContainmentLevel::Walk));
    process.terminate(LONG).unwrap();
    assert_eq!(fs::read_dir(cgroups).unwrap().count(), 0);
}

fn own_cgroups(pid: u32) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let below = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    let directory = Path::new(mount.unwrap()[1]).join(below);
    let entries = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let prefix = format!("pkit-{pid}-");
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix)).collect()
}
