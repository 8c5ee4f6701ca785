//! Readiness by `sd_notify(3)`, and what else is said over its socket.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pkit::{
    Backoff, Command, Containment, ContainmentLevel, EventKind, Fault, Process, Ready, Restart, Signal, State, Stdio,
    Stop, Survivors,
};

use crate::support::{LINGERING, LONG, python, say, tests, wait_for, without_descriptors};

tests! {
    fn ready_status_and_stopping() {
        let script = "
tell('STATUS=loading')
sys.stdin.readline()
tell('READY=1\\nSTATUS=serving')
sys.stdin.readline()
tell('STOPPING=1')
sys.stdin.readline()";
        let process = Process::builder(python(script)).ready(Ready::notify()).stdin(Stdio::piped()).build().unwrap();
        let pid = process.start(false).unwrap();
        let mut stdin = process.stdin().unwrap();
        let status = process.wait_until(LONG, |status| status.text.as_deref() == Some("loading")).unwrap();
        assert_eq!((status.state, status.pid, status.main_pid), (State::Running, Some(pid), None));
        say(&mut stdin, "go on");
        let status = process.wait_until(LONG, |status| status.text.as_deref() == Some("serving")).unwrap();
        assert_eq!(status.state, State::Ready);
        say(&mut stdin, "stop");
        assert_eq!(wait_for(&process, State::Stopping).pid, Some(pid));
        say(&mut stdin, "end");
        let exit = process.join().unwrap();
        assert!(exit.success() && !exit.requested(), "{exit}");
    }

    fn the_watchdog_of_this_program_is_not_the_childs() {
        let script = "import os\nprint(os.environ.get('WATCHDOG_PID'), os.environ['WATCHDOG_USEC'], flush=True)\ntell('READY=1')\nsignal.pause()";
        let process = Process::builder(python(script)).env("WATCHDOG_PID", "1").env("WATCHDOG_USEC", "7");
        let process = process.ready(Ready::notify().watchdog(LONG)).capture(1024).build().unwrap();
        process.start(true).unwrap();
        let expected = format!("None {}", LONG.as_micros());
        process.wait_for_line(LONG, |line| line == expected).unwrap();
        process.terminate(true).unwrap();
    }

    fn a_start_waits_for_ready() {
        let process = Process::builder(python("tell('READY=1')\nsignal.pause()")).ready(Ready::notify()).build().unwrap();
        process.start(true).unwrap();
        assert_eq!(process.state(), State::Ready);
        process.terminate(true).unwrap();
        // The next run begins without what the last one said.
        process.start(true).unwrap();
        assert_eq!(process.status().text, None);
    }

    fn the_main_pid_is_one_of_the_run() {
        let script = "
child = os.fork()
if child == 0:
    signal.pause()
tell(f'MAINPID={child}')
tell('MAINPID=1\\nREADY=1\\nSTATUS=' + str(child))
signal.pause()";
        let process = Process::builder(python(script)).ready(Ready::notify()).build().unwrap();
        let pid = process.start(true).unwrap();
        let status = process.wait_until(LONG, |status| status.text.is_some()).unwrap();
        let main = status.main_pid.unwrap();
        assert_ne!(main, pid);
        assert_eq!(status.text.unwrap(), main.to_string());
        process.terminate(true).unwrap();
        assert_eq!(process.status().main_pid, None);
    }

    fn who_left_the_group_is_heard_and_may_be_the_main_process_under_a_walk() {
        pkit::testing::pretend_no_cgroups();
        // The child daemonises: its parent ends, and this program adopts it. It speaks first, the leader names it then.
        let script = "
ready, done = os.pipe(), os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.read(ready[0], 1)
        tell(f'STATUS={os.getpid()}\\nMAINPID={os.getpid()}\\nSTOPPING=1')
        os.write(done[1], str(os.getpid()).encode())
        signal.pause()
    os._exit(0)
os.wait()
os.write(ready[1], b'x')
daemon = os.read(done[0], 100).decode()
tell(f'MAINPID=1\\nMAINPID={daemon}\\nREADY=1')
signal.pause()";
        let process = Process::builder(python(script)).ready(Ready::notify()).contain(Containment::Tree);
        let process = process.stop(Stop::kill()).build().unwrap();
        let pid = process.start(true).unwrap();
        let status = process.status();
        assert_eq!((status.containment, status.state), (Some(ContainmentLevel::Walk), State::Ready));
        let main = status.main_pid.unwrap();
        assert_ne!(main, pid);
        assert_eq!(status.text, Some(main.to_string()));
        process.terminate(true).unwrap();
    }

    fn what_is_said_while_there_are_no_descriptors_is_heard_when_there_are() {
        let script = "
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    os.write(w, b'x')
    sys.stdin.readline()
    tell('READY=1')
    signal.pause()
os.read(r, 1)
tell('STATUS=up')
signal.pause()";
        for walk in [false, true] {
            if walk {
                pkit::testing::pretend_no_cgroups();
            }
            let process = Process::builder(python(script)).ready(Ready::notify()).contain(Containment::Tree);
            let process = process.stdin(Stdio::piped()).ready_within(LONG).build().unwrap();
            process.start(false).unwrap();
            let mut stdin = process.stdin().unwrap();
            process.wait_until(LONG, |status| status.text.is_some()).unwrap();
            without_descriptors(|| {
                say(&mut stdin, "go on");
                // Not heard, or heard by the group's number: as long as that lasts nothing is lost.
                let _ = process.wait_until(Duration::from_millis(100), |status| status.state == State::Ready);
            });
            wait_for(&process, State::Ready);
            process.kill(true).unwrap();
        }
    }

    fn a_stranger_is_not_heard_under_a_walk() {
        pkit::testing::pretend_no_cgroups();
        let script = "
tell('STATUS=' + os.environ['NOTIFY_SOCKET'][1:])
while True: signal.pause()";
        let process = Process::builder(python(script)).ready(Ready::notify()).contain(Containment::Tree);
        let process = process.stop(Stop::kill()).build().unwrap();
        process.start(false).unwrap();
        let status = process.wait_until(LONG, |status| status.text.is_some()).unwrap();
        let (name, stranger) = (status.text.unwrap(), UnixDatagram::unbound().unwrap());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        for _ in 0..1_000 {
            stranger.send_to_addr(b"READY=1\nSTATUS=theirs\nMAINPID=1", &address).unwrap();
        }
        process.signal(Signal::KILL).unwrap();
        process.join().unwrap();
        let status = process.status();
        assert!(status.text.is_none_or(|text| text != "theirs"));
    }

    fn the_main_pid_ends_with_its_process_and_who_waits_for_that_hears_of_it() {
        // It is a zombie. With the second nothing else happens that could wake who waits.
        for afterwards in ["tell('STATUS=killed')", ""] {
            let script = format!("
child = os.fork()
if child == 0:
    signal.pause()
tell(f'MAINPID={{child}}\\nREADY=1')
sys.stdin.readline()
os.kill(child, signal.SIGKILL)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
{afterwards}
sys.stdin.readline()");
            let process = Process::builder(python(&script)).ready(Ready::notify()).stdin(Stdio::piped()).build().unwrap();
            process.start(true).unwrap();
            let mut stdin = process.stdin().unwrap();
            let mut looks = 0;
            let has_ended = |status: &pkit::Status| {
                looks += 1;
                if looks == 1 {
                    assert!(status.main_pid.is_some());
                    say(&mut stdin, "kill it");
                }
                status.main_pid.is_none() && status.text.is_some() != afterwards.is_empty()
            };
            assert_eq!(process.wait_until(LONG, has_ended).unwrap().state, State::Ready);
        }
    }

    fn who_hangs_in_a_stop_that_it_announced_is_stopped() {
        for first in ["", "READY=1\\n"] {
            let script = format!("tell('{first}STOPPING=1')\nwhile True: signal.pause()");
            let process = Process::builder(python(&script))
                .ready(Ready::notify())
                .stop(Stop::signal(Signal::TERM, Duration::from_millis(100)))
                .restart(Restart::on_failure().backoff(Backoff::none()).limit(1, LONG))
                .build()
                .unwrap();
            process.start(false).unwrap();
            let exit = process.join().unwrap();
            assert_eq!((exit.signal(), exit.requested(), exit.fault()), (Some(Signal::TERM), false, None));
            // It was to end, and so it did.
            assert_eq!((process.state(), process.restarts()), (State::Idle, 0));
        }
    }

    fn a_helper_says_nothing_of_the_end_of_the_service() {
        let script = "
helper = os.fork()
if helper == 0:
    tell('STOPPING=1\\nWATCHDOG=trigger\\nREADY=1')
    os._exit(0)
os.waitpid(helper, 0)
tell('STATUS=on')
sys.stdin.readline()
tell(f'MAINPID={os.getpid()}\\nSTOPPING=1')
sys.stdin.readline()";
        let process = Process::builder(python(script)).ready(Ready::notify()).stdin(Stdio::piped()).build().unwrap();
        // Of the rest it may speak: it is a member of the run, unless it was reaped before its words were read.
        process.start(false).unwrap();
        let mut stdin = process.stdin().unwrap();
        let status = process.wait_until(LONG, |status| status.text.is_some()).unwrap();
        assert!(matches!(status.state, State::Ready | State::Running), "{status}");
        say(&mut stdin, "go on");
        wait_for(&process, State::Stopping);
        say(&mut stdin, "end");
        assert!(process.join().unwrap().success());
    }

    fn ready_counts_behind_any_number_of_descriptors() {
        let script = "
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
read, write = os.pipe()
for _ in range(4): socket.send_fds(s, [b'STATUS=take these'], [read] * 50)
s.send(b'READY=1')
os._exit(0)";
        for _ in 0..10 {
            let process = Process::builder(python(script)).ready(Ready::notify()).build().unwrap();
            process.start(true).unwrap();
            assert!(process.join().unwrap().success());
        }
    }

    fn a_main_pid_that_is_none_holds_nothing_up() {
        // The id of a thread, and one that nobody has.
        let script = "
import threading
threading.Thread(target=signal.pause, daemon=True).start()
thread = next(id for id in os.listdir('/proc/self/task') if int(id) != os.getpid())
tell('MAINPID=' + thread)
tell('MAINPID=99999999')
tell('READY=1')
signal.pause()";
        let process = Process::builder(python(script)).ready(Ready::notify()).build().unwrap();
        process.start(true).unwrap();
        assert_eq!(process.status().main_pid, None);
        process.kill(true).unwrap();
    }

    fn what_is_passed_to_the_socket_is_left_as_it_is() {
        let script = "
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(server.getsockname())
linger = b'\\1\\0\\0\\0\\0\\0\\0\\0'
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
reader, writer = os.pipe()
socket.send_fds(s, [b'STATUS=a copy'], [client.fileno(), writer])
os.close(writer)
os.read(reader, 1)
assert client.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == linger
tell('READY=1')
signal.pause()";
        let process = Process::builder(python(script)).ready(Ready::notify()).build().unwrap();
        process.start(true).unwrap();
        process.kill(true).unwrap();
    }

    fn a_leader_that_names_its_main_process_and_ends_was_ready() {
        let script = "
child = os.fork()
if child == 0:
    os.setsid()
    signal.pause()
tell(f'MAINPID={child}\\nREADY=1')";
        for walk in [false, true] {
            if walk {
                pkit::testing::pretend_no_cgroups();
            }
            for _ in 0..10 {
                let process = Process::builder(python(script)).ready(Ready::notify()).contain(Containment::Tree);
                let process = process.survivors(Survivors::stop(Stop::kill())).build().unwrap();
                process.start(true).unwrap();
                assert!(process.join().unwrap().success());
            }
        }
    }

    fn what_is_passed_to_the_socket_is_closed() {
        let script = "
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
for _ in range(30):
    clients = [lingering(0) for _ in range(3)]
    socket.send_fds(s, [b'STATUS=take these'], [client.fileno() for client in clients])
    del clients
tell('READY=1')
signal.pause()";
        let process = Process::builder(python(&format!("{LINGERING}{script}"))).ready(Ready::notify()).build().unwrap();
        process.start(true).unwrap();
        let callbacks = crate::support::thread_names().iter().filter(|name| *name == "pkit-callback").count();
        assert!(callbacks <= 3, "{callbacks} threads");
        // Their other ends are closed by that, so that nothing lingers any more.
        process.kill(true).unwrap();
        crate::support::eventually("all are closed", || {
            !crate::support::open_descriptors().iter().any(|(_, name)| name.starts_with("socket:"))
        });
    }

    fn a_flood_of_notifications_makes_nobody_else_wait() {
        let script = "
tell('READY=1')
while True: tell('STATUS=x')";
        let flood = Process::builder(python(script)).ready(Ready::notify()).build().unwrap();
        flood.start(true).unwrap();
        let other = Process::new(Command::new("true"));
        // Held by the flood, one of these would take as long as that lasts.
        for _ in 0..200 {
            assert_eq!(flood.status().state, State::Ready);
            other.start(true).unwrap();
            other.join().unwrap();
        }
        flood.kill(true).unwrap();
    }

    fn a_flood_from_those_left_behind_makes_nobody_else_wait() {
        let script = "
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork(): os._exit(0)
os.fork()
while True: tell('STATUS=x\\n' * 800)";
        let flood = Process::builder(python(script)).ready(Ready::notify());
        let flood = flood.survivors(Survivors::stop(Stop::signal(Signal::TERM, LONG))).build().unwrap();
        flood.start(false).unwrap();
        flood.wait_until(LONG, |status| status.state == State::Stopping).unwrap();
        let other = Process::new(Command::new("true"));
        // Held by the flood, each of these would take half a second.
        for _ in 0..200 {
            assert_eq!(flood.state(), State::Stopping);
            other.start(true).unwrap();
            other.join_timeout(LONG).unwrap().unwrap();
        }
        flood.kill(true).unwrap();
    }

    fn strangers_that_flood_are_told_of_once() {
        static WARNINGS: AtomicUsize = AtomicUsize::new(0);
        struct Counter;
        impl log::Log for Counter {
            fn enabled(&self, _: &log::Metadata<'_>) -> bool {
                true
            }
            fn log(&self, record: &log::Record<'_>) {
                if record.level() == log::Level::Warn {
                    WARNINGS.fetch_add(1, Ordering::SeqCst);
                }
            }
            fn flush(&self) {}
        }
        log::set_logger(&Counter).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
        let script = "print(os.environ['NOTIFY_SOCKET'], flush=True)\nsys.stdin.readline()\ntell('READY=1')\nsignal.pause()";
        let builder = Process::builder(python(script)).ready(Ready::notify()).stdin(Stdio::piped()).capture(4096);
        let process = builder.contain(Containment::Tree).build().unwrap();
        for runs in 1..=2 {
            process.start(false).unwrap();
            let mut stdin = process.stdin().unwrap();
            let name = process.wait_for_line(LONG, |line| line.starts_with('@')).unwrap();
            let address = SocketAddr::from_abstract_name(&name.bytes()[1..]).unwrap();
            let stranger = UnixDatagram::unbound().unwrap();
            for _ in 0..1000 {
                stranger.send_to_addr(b"READY=1", &address).unwrap();
            }
            say(&mut stdin, "your turn");
            wait_for(&process, State::Ready);
            process.kill(true).unwrap();
            crate::support::eventually("the warning", || WARNINGS.load(Ordering::SeqCst) == runs);
        }
    }

    fn a_watchdog_that_is_kept_is_no_matter() {
        // Longer than the interval before it is ready, and after.
        let script = "
assert os.environ['WATCHDOG_USEC'] == '1000000'
time.sleep(1.2)
tell('READY=1')
for _ in range(15):
    time.sleep(0.1)
    tell('WATCHDOG=1')";
        let watchdog = Ready::notify().watchdog(Duration::from_secs(1));
        let process = Process::builder(python(script)).ready(watchdog).build().unwrap();
        process.start(true).unwrap();
        let exit = process.join().unwrap();
        assert!(exit.success() && exit.runtime() > Duration::from_secs(2), "{exit}");
    }

    fn a_watchdog_that_is_missed_is_a_failure() {
        let watchdog = Ready::notify().watchdog(Duration::from_millis(50));
        let process = Process::builder(python("tell('READY=1')\nsignal.pause()"))
            .ready(watchdog)
            .restart(Restart::on_failure().backoff(Backoff::none()).limit(1, LONG))
            .build()
            .unwrap();
        let events = process.subscribe();
        process.start(true).unwrap();
        let exit = process.join().unwrap();
        assert_eq!((exit.signal(), exit.requested(), exit.forced()), (Some(Signal::TERM), false, false));
        assert_eq!(exit.fault(), Some(Fault::WatchdogMissed));
        assert_eq!((process.state(), process.restarts()), (State::Failed, 1));
        drop(process);
        assert_eq!(events.filter(|event| matches!(event.kind, EventKind::Fault(Fault::WatchdogMissed))).count(), 2);
    }

    fn a_watchdog_can_be_triggered() {
        let script = "
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
tell('READY=1')
tell('WATCHDOG=trigger')
signal.sigwait([signal.SIGTERM])";
        let process = Process::builder(python(script))
            .ready(Ready::notify())
            .restart(Restart::on_failure().limit(0, LONG))
            .build()
            .unwrap();
        let events = process.subscribe();
        process.start(true).unwrap();
        // A failure, although its exit says success.
        assert!(process.join().unwrap().success());
        assert_eq!(process.state(), State::Failed);
        drop(process);
        assert_eq!(events.filter(|event| matches!(event.kind, EventKind::Fault(Fault::WatchdogMissed))).count(), 1);
    }

    fn a_stranger_is_not_heard() {
        let script = "
print(os.environ['NOTIFY_SOCKET'], flush=True)
sys.stdin.readline()
tell('STATUS=mine')
sys.stdin.readline()
tell('READY=1')
signal.pause()";
        let builder = Process::builder(python(script)).ready(Ready::notify()).stdin(Stdio::piped());
        let process = builder.capture(4096).build().unwrap();
        let events = process.subscribe();
        process.start(false).unwrap();
        let mut stdin = process.stdin().unwrap();
        let name = process.wait_for_line(LONG, |line| line.starts_with('@')).unwrap();
        let address = SocketAddr::from_abstract_name(&name.bytes()[1..]).unwrap();
        let stranger = UnixDatagram::unbound().unwrap();
        for message in ["READY=1", "STATUS=theirs", "MAINPID=1", "WATCHDOG=trigger", "STOPPING=1"] {
            stranger.send_to_addr(message.as_bytes(), &address).unwrap();
        }
        say(&mut stdin, "your turn");
        // Messages are read in order: those of the stranger were.
        let status = process.wait_until(LONG, |status| status.text.is_some()).unwrap();
        assert_eq!((status.text.as_deref(), status.state, status.main_pid), (Some("mine"), State::Running, None));
        say(&mut stdin, "be ready");
        wait_for(&process, State::Ready);
        drop(process);
        let texts: Vec<String> = events.filter_map(|event| match event.kind {
            EventKind::Text(text) => Some(text),
            _ => None,
        }).collect();
        assert_eq!(texts, ["mine"]);
    }

    fn a_barrier_is_lifted() {
        let script = "
read, write = os.pipe()
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
socket.send_fds(s, [b'BARRIER=1'], [write])
os.close(write)
poll = select.poll()
poll.register(read, 0)
poll.poll()
s.send(b'READY=1')
signal.pause()";
        let process = Process::builder(python(script)).ready(Ready::notify()).build().unwrap();
        process.start(true).unwrap();
    }

    fn ready_as_a_last_word_counts() {
        for _ in 0..10 {
            let process = Process::builder(python("tell('READY=1')\nos._exit(0)")).ready(Ready::notify()).build().unwrap();
            process.start(true).unwrap();
            assert!(process.join().unwrap().success());
        }
    }

    fn ready_as_the_last_of_many_words_counts() {
        let script = "for _ in range(50): tell('STATUS=x')\ntell('READY=1')\nos._exit(0)";
        for _ in 0..10 {
            let process = Process::builder(python(script)).ready(Ready::notify()).build().unwrap();
            process.start(true).unwrap();
            assert!(process.join().unwrap().success());
        }
    }
}
