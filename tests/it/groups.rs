//! What a run is besides its leader: its process group. A run is over when that is gone.

use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal as Raw, kill};
use nix::unistd::Pid;
use pkit::{Backoff, Command, Containment, EventKind, Process, Ready, Restart, Signal, State, Stop, Survivors};

use crate::support::{LONG, children, eventually, is_alive, pid_said_by, python, sh, tests};

const SHORT: Duration = Duration::from_millis(300);

/// A grandchild that ignores SIGTERM; the leader says its pid once it does.
const STUBBORN_GRANDCHILD: &str = "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1000; done' &";

tests! {
    fn what_other_code_puts_into_the_group_is_left_to_it() {
        let process = Process::new(sh("exec sleep 1000"));
        let pid = process.start(true).unwrap();
        let mut other = std::process::Command::new("sh");
        let mut other = other.args(["-c", "exit 7"]).process_group(pid as i32).spawn().unwrap();
        eventually("it has ended", || !is_alive(other.id()));
        process.terminate(true).unwrap();
        assert_eq!(other.wait().unwrap().code(), Some(7));
    }

    fn a_child_that_ignores_sigterm_climbs_the_whole_ladder() {
        let stop = Stop::signal(Signal::TERM, SHORT).then(Signal::INT, SHORT).then(Signal::QUIT, SHORT);
        let process = Process::builder(sh("trap '' TERM INT QUIT; echo up; while :; do sleep 1000; done"))
            .ready(Ready::line("up"))
            .stop(stop)
            .build()
            .unwrap();
        let mut events = process.subscribe();
        process.start(true).unwrap();
        let began = Instant::now();
        process.terminate(true).unwrap();
        let took = began.elapsed();
        assert!(took >= 3 * SHORT && took < LONG, "{took:?}");
        let exit = process.join().unwrap();
        assert!(exit.forced() && exit.requested() && exit.signal() == Some(Signal::KILL), "{exit}");
        let mut sent: Vec<Signal> = std::iter::from_fn(|| events.try_next())
            .filter_map(|event| if let EventKind::SignalSent(signal) = event.kind { Some(signal) } else { None })
            .collect();
        // SIGKILL is sent again to whoever forked meanwhile.
        sent.dedup();
        assert_eq!(sent, [Signal::TERM, Signal::INT, Signal::QUIT, Signal::KILL]);
    }

    fn a_leader_that_joined_another_group_is_reached_all_the_same() {
        for contain in [Containment::Group, Containment::Tree] {
            let script = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.setpgid(0, os.getpgid(os.getppid()))
print('moved', flush=True)
while signal.sigwait([signal.SIGUSR1]): print('heard', flush=True)";
            let process = Process::builder(python(script)).contain(contain).ready(Ready::line("moved")).build().unwrap();
            let pid = process.start(true).unwrap();
            process.signal(Signal::USR1).unwrap();
            process.wait_for_line(LONG, |line| line == "heard").unwrap();
            process.terminate(LONG).unwrap();
            let output = process.output();
            assert_eq!((process.join().unwrap().signal(), output.stdout_text().matches("heard").count()), (Some(Signal::TERM), 1));
            assert!(!is_alive(pid));
            process.start(true).unwrap();
            process.kill(LONG).unwrap();
            assert_eq!(process.join().unwrap().signal(), Some(Signal::KILL));
        }
    }

    fn a_stubborn_grandchild_is_ended_with_its_leader() {
        // The leader obeys; the grandchild, with the output pipe in its hands, does not.
        let process = Process::builder(sh(&format!("{STUBBORN_GRANDCHILD} wait")))
            .stop(Stop::signal(Signal::TERM, SHORT))
            .capture(1024)
            .build()
            .unwrap();
        process.start(true).unwrap();
        let grandchild = pid_said_by(&process);
        let began = Instant::now();
        process.terminate(LONG).unwrap();
        assert!(!is_alive(grandchild));
        let exit = process.join().unwrap();
        assert_eq!(exit.signal(), Some(Signal::TERM), "the leader obeyed");
        assert!(exit.requested() && exit.forced(), "{exit:?}");
        assert!(!exit.output_leaked(), "nobody is left to hold the pipe");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    fn one_that_left_the_group_does_not_hold_up_the_exit() {
        let process = Process::builder(sh("setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1000; done' & wait"))
            .capture(1024)
            .drain(SHORT)
            .build()
            .unwrap();
        process.start(true).unwrap();
        let stranger = pid_said_by(&process);
        let began = Instant::now();
        process.terminate(LONG).unwrap();
        let took = began.elapsed();
        let exit = process.join().unwrap();
        assert!(exit.output_leaked() && !exit.forced(), "{exit:?}");
        assert!(took < Duration::from_secs(5), "not delayed beyond the drain: {took:?}");
        assert!(is_alive(stranger), "without containment it is on its own");
        end_stranger(stranger);
    }

    fn a_zombie_is_not_left_behind() {
        // Its parent, in a session of its own, does not wait for it.
        let script = "
done = os.pipe()
if os.fork() == 0:
    zombie = os.fork()
    if zombie == 0: os._exit(0)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    os.setsid()
    for fd in [0, 1, 2, *done]: os.close(fd)
    os.read(3, 1)
    os._exit(0)
os.close(done[1])
os.read(done[0], 1)
os._exit(0)";
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let process = Process::builder(python(script)).pass_fd(reader, 3).survivors(Survivors::stop(Stop::kill()));
        let process = process.build().unwrap();
        let events = process.subscribe();
        process.start(true).unwrap();
        let exit = process.join().unwrap();
        assert!(exit.success() && !exit.forced(), "{exit}");
        drop((process, writer));
        let signalled = |kind: &EventKind| matches!(kind, EventKind::LeftBehind | EventKind::SignalSent(_));
        assert!(!events.map(|event| event.kind).any(|kind| signalled(&kind)));
    }

    fn survivors_are_stopped_by_their_ladder() {
        let process = Process::builder(sh(&format!("{STUBBORN_GRANDCHILD} read line; exit 4")))
            .stdin(pkit::Stdio::piped())
            .survivors(Survivors::stop(Stop::signal(Signal::USR1, LONG).then(Signal::TERM, SHORT)))
            .capture(1024)
            .build()
            .unwrap();
        // It ignores TERM only, so USR1 is its end.
        let events = process.subscribe();
        let exit = end_by_itself(&process);
        assert!(exit.code() == Some(4) && !exit.requested() && !exit.forced(), "{exit:?}");
        drop(process);
        let told = |kind: &EventKind| matches!(kind, EventKind::LeftBehind | EventKind::SignalSent(_) | EventKind::Exited(_));
        let told: Vec<EventKind> = events.map(|event| event.kind).filter(told).collect();
        let order = [EventKind::LeftBehind, EventKind::SignalSent(Signal::USR1), EventKind::Exited(exit)];
        assert_eq!(told.iter().map(ToString::to_string).collect::<Vec<_>>(), order.map(|kind| kind.to_string()));
    }

    fn stubborn_survivors_are_killed() {
        let process = Process::builder(sh(&format!("{STUBBORN_GRANDCHILD} read line; exit 4")))
            .stdin(pkit::Stdio::piped())
            .survivors(Survivors::stop(Stop::signal(Signal::TERM, SHORT)))
            .capture(1024)
            .build()
            .unwrap();
        let exit = end_by_itself(&process);
        assert!(exit.code() == Some(4) && !exit.requested(), "{exit:?}");
    }

    fn a_survivor_that_forks_and_ends_is_followed() {
        // It daemonises, but for the new session, at some moment when it is looked for.
        let script = "trap '' TERM; (sleep 0.0$0; sleep 1000 & exit 0) & exit 0";
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| for moment in 1..10 {
                    let mut command = sh(script);
                    command.arg(moment.to_string());
                    let survivors = Survivors::stop(Stop::signal(Signal::TERM, SHORT));
                    let process = Process::builder(command).survivors(survivors).build().unwrap();
                    let group = process.start(true).unwrap();
                    let exit = process.join().unwrap();
                    assert_eq!(living_in(group), [], "{exit}");
                    assert!(exit.forced(), "{exit}");
                });
            }
        });
    }

    fn survivors_may_be_left() {
        let process = Process::builder(sh(&format!("{STUBBORN_GRANDCHILD} read line; exit 4")))
            .stdin(pkit::Stdio::piped())
            .survivors(Survivors::leave())
            .drain(SHORT)
            .capture(1024)
            .build()
            .unwrap();
        process.start(true).unwrap();
        let grandchild = pid_said_by(&process);
        drop(process.stdin());
        let exit = process.join_timeout(LONG).unwrap().expect("its end is its leader's");
        assert!(exit.code() == Some(4) && exit.output_leaked(), "{exit:?}");
        assert!(is_alive(grandchild));
        end_stranger(grandchild);
    }

    fn a_leader_stays_a_zombie_only_where_its_number_is_needed() {
        reaped_before_its_group();
    }

    fn a_leader_stays_no_zombie_on_kernels_between() {
        pkit::testing::pretend_no_exit_info();
        reaped_before_its_group();
    }

    fn no_successor_beside_what_a_crash_left() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("grandchild");
        // A successor looks whether the grandchild of its predecessor lives, before it makes one.
        let script = "old=$(cat \"$1\" 2>/dev/null); case \"$(cut -d' ' -f3 /proc/${old:-none}/stat 2>/dev/null)\" in \
             ''|Z|X) ;; *) exit 9;; esac; \
             sh -c 'trap \"\" TERM; echo $$ > \"$1.new\"; mv \"$1.new\" \"$1\"; echo up; while :; do sleep 1000; done' sh \"$1\" & \
             read line < \"$1.never\"; wait";
        nix::unistd::mkfifo(&directory.path().join("grandchild.never"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let process = Process::builder(sh(script).arg("sh").arg(&pid_file))
            .ready(Ready::line("up"))
            .restart(Restart::always().backoff(Backoff::none()).unlimited())
            .survivors(Survivors::stop(Stop::signal(Signal::TERM, Duration::from_millis(30))))
            .build()
            .unwrap();
        process.start(true).unwrap();
        for _ in 0..5 {
            let status = process.status();
            let grandchild: u32 = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
            let generation = status.generation;
            assert!(is_alive(grandchild));
            // The leader alone.
            kill(Pid::from_raw(status.pid.unwrap() as i32), Raw::SIGSEGV).unwrap();
            let next = process
                .wait_until(LONG, |status| status.generation > generation && status.state == State::Ready)
                .unwrap();
            assert!(!is_alive(grandchild));
            assert_eq!(next.exit.unwrap().signal(), Some(Signal::SEGV));
        }
        process.kill(LONG).unwrap();
    }

    fn a_leader_lives_until_its_last_thread_ends() {
        let process = Process::builder(Command::new("python3").args(["-c", ZOMBIE_LEADER, "ignore"])).capture(1024);
        let process = process.stdin(pkit::Stdio::piped()).build().unwrap();
        let pid = process.start(true).unwrap();
        // A join closes a stdin that nobody took.
        let stdin = process.stdin();
        process.wait_for_line(LONG, |line| line == "alone").unwrap();
        eventually("its main thread has ended", || main_thread_is_gone(pid));
        assert!(process.is_alive() && process.pid() == Some(pid));
        assert_eq!(process.join_timeout(SHORT).unwrap(), None);
        // The other thread ends the process when it reads the end of its input.
        drop(stdin);
        assert_eq!(process.join_timeout(LONG).unwrap().expect("it ends").code(), Some(6));
    }

    fn terminate_ends_a_leader_whose_main_thread_is_gone() {
        for disposition in ["default", "ignore"] {
            // Who obeys gets the time to, on a busy machine.
            let grace = if disposition == "ignore" { SHORT } else { LONG };
            let process = Process::builder(Command::new("python3").args(["-c", ZOMBIE_LEADER, disposition]))
                .stdin(pkit::Stdio::piped())
                .stop(Stop::signal(Signal::TERM, grace))
                .capture(1024)
                .build()
                .unwrap();
            let pid = process.start(true).unwrap();
            let stdin = process.stdin();
            process.wait_for_line(LONG, |line| line == "alone").unwrap();
            eventually("its main thread has ended", || main_thread_is_gone(pid));
            process.terminate(LONG).unwrap();
            let exit = process.join().unwrap();
            let expected = if disposition == "ignore" { Signal::KILL } else { Signal::TERM };
            assert_eq!(exit.signal(), Some(expected), "{disposition}");
            assert_eq!(exit.forced(), disposition == "ignore");
            drop(stdin);
        }
    }

    fn a_stop_and_a_continue_show() {
        let process = Process::new(Command::new("sleep").arg("1000"));
        process.start(true).unwrap();
        for _ in 0..3 {
            process.signal(Signal::STOP).unwrap();
            process.wait_until(LONG, |status| status.state == State::Paused).unwrap();
            assert!(process.is_alive());
            process.signal(Signal::CONT).unwrap();
            process.wait_until(LONG, |status| status.state == State::Ready).unwrap();
        }
        process.terminate(LONG).unwrap();
        assert!(!process.join().unwrap().forced());
    }

    fn a_paused_process_can_be_ended() {
        let process = Process::new(Command::new("sleep").arg("1000"));
        for gently in [true, false] {
            process.start(true).unwrap();
            process.signal(Signal::STOP).unwrap();
            process.wait_until(LONG, |status| status.state == State::Paused).unwrap();
            if gently { process.terminate(LONG).unwrap() } else { process.kill(LONG).unwrap() }
            let exit = process.join().unwrap();
            assert_eq!(exit.signal(), Some(if gently { Signal::TERM } else { Signal::KILL }));
        }
    }
}

/// The main thread ends, and another goes on until its input ends.
const ZOMBIE_LEADER: &str = "
import ctypes, os, signal, sys, threading
if sys.argv[1] == 'ignore':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
def rest():
    os.write(1, b'alone\\n')
    os.read(0, 1)
    os._exit(6)
threading.Thread(target=rest).start()
# Not pthread_exit, which unwinds the interpreter: the system call ends this thread alone.
ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 0)
";

fn living_in(group: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let of_group =
        |pid: &u32| nix::unistd::getpgid(Some(Pid::from_raw(*pid as i32))) == Ok(Pid::from_raw(group as i32));
    pids.filter(|pid| of_group(pid) && is_alive(*pid)).collect()
}

fn main_thread_is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('Z')
}

/// The leader ends by itself; when the run is over, so is the grandchild.
fn end_by_itself(process: &Process) -> pkit::Exit {
    process.start(true).unwrap();
    let grandchild = pid_said_by(process);
    assert!(is_alive(grandchild));
    drop(process.stdin());
    let exit = process.join_timeout(LONG).unwrap().expect("it is over");
    assert!(!is_alive(grandchild));
    assert!(!exit.output_leaked(), "{exit:?}");
    exit
}

/// Where the pidfd reaches the group, the leader is reaped at once, though another of its group lives; elsewhere it keeps the
/// group's number until that is empty.
fn reaped_before_its_group() {
    let process = Process::builder(sh(&format!("{STUBBORN_GRANDCHILD} read line; exit 4")))
        .stdin(pkit::Stdio::piped())
        .survivors(Survivors::stop(Stop::signal(Signal::TERM, LONG)))
        .capture(1024)
        .build()
        .unwrap();
    let mut events = process.subscribe();
    let leader = process.start(true).unwrap();
    let grandchild = pid_said_by(&process);
    drop(process.stdin());
    let first = events.find(|event| matches!(event.kind, EventKind::SignalSent(_))).unwrap();
    assert_eq!(first.kind.to_string(), "sent SIGTERM", "to who is left of its group");
    assert_eq!(children().is_empty(), pkit::testing::has_group_signal());
    assert!(!is_alive(leader) && is_alive(grandchild));
    process.kill(LONG).unwrap();
    assert!(!is_alive(grandchild) && children().is_empty());
    let exit = process.join().unwrap();
    assert!(exit.code() == Some(4) && exit.pid() == leader && exit.forced(), "{exit:?}");
}

/// One that is not ours to reap.
fn end_stranger(pid: u32) {
    let pid_of = Pid::from_raw(pid as i32);
    // It leads a group or session of its own, or is the last of a group that its leader left.
    let group = nix::unistd::getpgid(Some(pid_of)).unwrap();
    nix::sys::signal::killpg(group, Raw::SIGKILL).unwrap();
    eventually("the stranger is gone", || !is_alive(pid));
}
