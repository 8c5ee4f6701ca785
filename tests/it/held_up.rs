//! What holds up one process, or one thread, holds up no other.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
use nix::unistd::Pid;
use pkit::{Backoff, Command, Containment, Process, Ready, Restart, Signal, State, Stdio};

use crate::support::{
    LINGERING, LONG, cpu_time, eventually, is_alive, open_descriptors, python, say, sh, skipped, tests,
    without_descriptors,
};

/// Sockets that neither end takes any more from.
const CLIENTS: &str = "
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
clients = [lingering(0.3) for _ in range(3)]
tell('READY=1')
sys.stdin.readline()
";

fn connect_on_a_file_system_that_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let none = None::<&str>;
    let fuse = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    let (Ok(fuse), Ok(())) = (fuse, nix::sched::unshare(CloneFlags::CLONE_NEWNS)) else {
        return skipped("there is no FUSE, or no mount namespace may be made");
    };
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let ready = Ready::unix(directory.path().join("socket"));
    let service = Process::builder(sh("exec sleep 1000")).ready(ready).build().unwrap();
    service.start(false).unwrap();
    // Nobody serves it: whoever looks a path up in it waits.
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
    mount(Some("none"), directory.path(), Some("fuse"), MsFlags::empty(), Some(&*options)).unwrap();
    let connecting = format!("{} ", libc::SYS_connect);
    eventually("somebody connects", || {
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        threads.flatten().any(|thread| {
            std::fs::read_to_string(thread.path().join("syscall")).is_ok_and(|call| call.starts_with(&connecting))
        })
    });
    let other = Process::new(Command::new("true"));
    other.start(true).unwrap();
    assert!(other.join_timeout(Duration::from_secs(20)).unwrap().is_some());
    assert_eq!(service.state(), State::Running);
    service.kill(true).unwrap();
    // What waits for it fails then.
    drop(fuse);
    umount2(directory.path(), MntFlags::MNT_DETACH).unwrap();
}

type Way = fn(&Process);

static HELD: AtomicBool = AtomicBool::new(true);

/// A thread that joins, and is in a signal handler from now on, until `HELD` is false.
fn joins_and_is_held_up(process: &Process) -> std::thread::JoinHandle<Option<i32>> {
    static ENTERED: AtomicBool = AtomicBool::new(false);
    ENTERED.store(false, Ordering::SeqCst);
    HELD.store(true, Ordering::SeqCst);
    extern "C" fn stay(_: i32) {
        ENTERED.store(true, Ordering::SeqCst);
        while HELD.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
    }
    let action = SigAction::new(SigHandler::Handler(stay), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: it reads and writes atomics, and nothing else.
    #[allow(unsafe_code)]
    unsafe { sigaction(nix::sys::signal::Signal::SIGUSR1, &action) }.unwrap();
    let joined = process.clone();
    let (tell, told) = mpsc::channel();
    let joiner = std::thread::Builder::new().name("joiner".to_owned());
    let joiner = joiner.spawn(move || {
        tell.send(nix::sys::pthread::pthread_self()).unwrap();
        joined.join().unwrap().code()
    });
    let thread = told.recv().unwrap();
    eventually("it waits", || thread_state("joiner") == Some('S'));
    nix::sys::pthread::pthread_kill(thread, nix::sys::signal::Signal::SIGUSR1).unwrap();
    eventually("it is held up", || ENTERED.load(Ordering::SeqCst));
    joiner.unwrap()
}

fn thread_state(name: &str) -> Option<char> {
    std::fs::read_dir("/proc/self/task").unwrap().flatten().find_map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).ok()?;
        let (begin, end) = stat.rsplit_once(") ")?;
        begin.ends_with(&format!("({name}")).then(|| end.chars().next())?
    })
}

tests! {
    fn who_joins_and_is_held_up_holds_up_no_restart() {
        let always = Restart::always().backoff(Backoff::none());
        let process = Process::builder(sh("exec sleep 1000")).restart(always).build().unwrap();
        process.start(true).unwrap();
        let joiner = joins_and_is_held_up(&process);
        process.signal(Signal::KILL).unwrap();
        process.wait_until(LONG, |status| status.restarts == 1 && status.state == State::Ready).unwrap();
        HELD.store(false, Ordering::SeqCst);
        process.kill(true).unwrap();
        assert_eq!(joiner.join().unwrap(), None);
    }

    fn nor_anybody_else_who_wants_to_know_of_the_end() {
        let process = Process::builder(sh("read line; exit 3")).stdin(Stdio::piped()).build().unwrap();
        process.start(true).unwrap();
        let stdin = process.stdin().unwrap();
        let joiner = joins_and_is_held_up(&process);
        // None of these was there when it took over the watch.
        let mut events = process.subscribe();
        drop(stdin);
        let exited = |event: &pkit::Event| matches!(event.kind, pkit::EventKind::Exited(_));
        while !exited(&events.next_timeout(LONG).expect("it is told")) {}
        assert_eq!(process.join_timeout(LONG).unwrap().unwrap().code(), Some(3));
        HELD.store(false, Ordering::SeqCst);
        assert_eq!(joiner.join().unwrap(), Some(3));
    }

    fn whoever_comes_finds_the_end_that_a_joiner_has_yet_to_see() {
        let ways: [(&str, Way); 9] = [
            ("is_alive", |process| eventually("it is not", || !process.is_alive())),
            ("pid", |process| eventually("it has none", || process.pid().is_none())),
            ("status", |process| eventually("it is idle", || process.status().state == State::Idle)),
            ("exit", |process| eventually("it is there", || process.exit().is_some())),
            ("wait_until", |process| _ = process.wait_until(LONG, |status| status.pid.is_none()).unwrap()),
            ("exited", |process| _ = smol::future::block_on(process.exited()).unwrap()),
            ("signal", |process| assert!(process.signal(Signal::TERM).unwrap_err().is_not_running())),
            ("kill", |process| process.kill(false).unwrap()),
            ("start", |process| eventually("it starts", || process.start(true).is_ok())),
        ];
        for (name, way) in ways {
            println!("{name}");
            let process = Process::builder(sh("read line; exit 3")).stdin(Stdio::piped()).build().unwrap();
            let pid = process.start(true).unwrap();
            let stdin = process.stdin().unwrap();
            let joiner = joins_and_is_held_up(&process);
            drop(stdin);
            eventually("it ended", || !is_alive(pid));
            way(&process);
            let exit = process.wait_until(LONG, |status| status.exit.is_some()).unwrap().exit.unwrap();
            assert_eq!((exit.code(), exit.requested()), (Some(3), false));
            // Older kernels take a while to tell whether anything is left, and SIGKILL goes to that.
            assert!(!exit.forced() || crate::OLD_KERNEL);
            HELD.store(false, Ordering::SeqCst);
            assert_eq!(joiner.join().unwrap(), Some(3));
            process.kill(true).unwrap();
        }
    }

    fn a_tracer_that_keeps_the_end_to_itself_has_nobody_spin() {
        let process = Process::builder(sh("read line")).stdin(Stdio::piped()).build().unwrap();
        let pid = process.start(true).unwrap();
        let trace = format!(
            "import ctypes, sys
SEIZE, NONE = 0x4206, 0
assert ctypes.CDLL(None).ptrace(SEIZE, {pid}, NONE, NONE) == 0
print('traces', flush=True)
sys.stdin.readline()"
        );
        let tracer = Process::builder(python(&trace)).ready(Ready::line("traces")).stdin(Stdio::piped()).build().unwrap();
        tracer.start(LONG).unwrap();
        let stdin = process.stdin().unwrap();
        std::thread::scope(|scope| {
            let joiner = std::thread::Builder::new().name("joiner".to_owned());
            let joiner = joiner.spawn_scoped(scope, || process.join().unwrap()).unwrap();
            eventually("it waits", || thread_state("joiner") == Some('S'));
            drop(stdin);
            eventually("it ended", || !is_alive(pid));
            let before = cpu_time();
            assert!(process.join_timeout(Duration::from_millis(500)).unwrap().is_none());
            let spent = cpu_time() - before;
            assert!(spent < Duration::from_millis(100), "{spent:?} of CPU time in half a second");
            tracer.kill(LONG).unwrap();
            assert_eq!(joiner.join().unwrap().code(), Some(1));
        });
    }

    fn a_processor_that_others_are_busy_on_holds_no_start_up_elsewhere() {
        let ours = nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
        let processors: Vec<usize> = (0..nix::sched::CpuSet::count()).filter(|n| ours.is_set(*n).unwrap()).collect();
        if processors.len() < 2 {
            return skipped("there is one processor");
        }
        let spawners = || {
            let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            let spawners = threads.filter(|thread| {
                std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "pkit-spawn\n")
            });
            let status = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("status")).unwrap();
            spawners.map(status).collect::<Vec<_>>()
        };
        for processor in [processors[0], processors[1], processors[0]] {
            let start = || {
                let mut only = nix::sched::CpuSet::new();
                only.set(processor).unwrap();
                nix::sched::sched_setaffinity(Pid::from_raw(0), &only).unwrap();
                let process = Process::new(Command::new("true"));
                process.start(true).unwrap();
                process.join().unwrap();
            };
            // The next one that finds it asleep.
            eventually("it goes where its caller is", || {
                std::thread::scope(|scope| drop(scope.spawn(start)));
                let [spawner] = &spawners()[..] else { panic!("there are more, or none") };
                spawner.contains(&format!("\nCpus_allowed_list:\t{processor}\n"))
            });
        }
    }

    fn callbacks_that_block_hold_up_nothing_that_is_ours() {
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let blocked: Vec<Process> = (0..40)
            .map(|_| {
                let gate = Arc::clone(&gate);
                let builder = Process::builder(sh("exec sleep 1000")).on_start(move |_| _ = gate.lock().unwrap().recv());
                builder.build().unwrap()
            })
            .collect();
        for process in &blocked {
            process.start(true).unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        for n in 0..20 {
            let file = directory.path().join(n.to_string());
            let ready = Ready::file(&file);
            let script = format!("echo > {}; sleep 1000 & wait", file.display());
            let builder = Process::builder(sh(&script)).contain(Containment::Tree).ready(ready);
            let free = builder.ready_within(LONG).build().unwrap();
            free.start(true).unwrap();
            free.kill(LONG).unwrap();
        }
        drop(release);
        for process in blocked {
            process.kill(LONG).unwrap();
        }
    }

    fn restarts_that_block_hold_no_other_start_up() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let count = std::thread::available_parallelism().unwrap().get() + 1;
        let service = || {
            let always = Restart::always().backoff(Backoff::none()).unlimited();
            Process::builder(sh("exec sleep 1000")).restart(always)
        };
        let held: Vec<Process> = (0..count).map(|_| service().stdin(Stdio::file(&fifo)).build().unwrap()).collect();
        let other = service().build().unwrap();
        // Opened for both it waits for nobody, and nobody for it.
        let first = std::fs::File::options().read(true).write(true).open(&fifo).unwrap();
        for process in held.iter().chain([&other]) {
            process.start(true).unwrap();
        }
        drop(first);
        for process in &held {
            process.signal(Signal::SEGV).unwrap();
            process.wait_until(LONG, |status| status.state == State::Starting).unwrap();
        }
        for restarts in 1..3 {
            other.signal(Signal::SEGV).unwrap();
            let again = |status: &pkit::Status| status.restarts == restarts && status.state == State::Ready;
            other.wait_until(Duration::from_secs(5), again).unwrap();
        }
        // Somebody writes to it: they go on.
        let _writer = std::fs::File::options().write(true).open(&fifo).unwrap();
        for process in held.iter().chain([&other]) {
            process.wait_until(LONG, |status| status.state == State::Ready).unwrap();
            process.kill(true).unwrap();
        }
    }

    fn what_is_passed_to_the_socket_and_finds_no_place_holds_nobody_up() {
        let script = format!("{LINGERING}{CLIENTS}socket.send_fds(s, [b'STATUS=take these'], [c.fileno() for c in clients])
del clients
tell('STATUS=sent')
signal.pause()");
        let process = Process::builder(python(&script)).ready(Ready::notify()).stdin(Stdio::piped()).build().unwrap();
        process.start(true).unwrap();
        let other = Process::new(Command::new("sleep").arg("1000"));
        other.start(true).unwrap();
        let mut stdin = process.stdin().unwrap();
        without_descriptors(|| {
            say(&mut stdin, "go on");
            // The one message is held, and those behind it; its process is not, and no other.
            process.wait_until(Duration::from_millis(300), |status| status.text.as_deref() == Some("sent")).unwrap_err();
            // (That nothing else of its run is left cannot be told without descriptors, on old kernels.)
            other.kill(false).unwrap();
            other.wait_until(LONG, |status| status.pid.is_none()).unwrap();
            assert_eq!(process.status().state, State::Ready);
        });
        process.kill(LONG).unwrap();
        other.join().unwrap();
    }

    fn what_nobody_has_taken_from_the_socket_holds_nobody_up() {
        // Descriptors in the queue when the run is over are closed with it.
        let script = format!("{LINGERING}{CLIENTS}for _ in range(3):
    socket.send_fds(s, [b'STATUS=take these'], [c.fileno() for c in clients])
os.kill(os.getpid(), signal.SIGKILL)");
        for _ in 0..3 {
            let process = Process::builder(python(&script)).ready(Ready::notify()).stdin(Stdio::piped()).build().unwrap();
            process.start(true).unwrap();
            say(&mut process.stdin().unwrap(), "go on");
            assert_eq!(process.join_timeout(LONG).unwrap().unwrap().signal(), Some(Signal::KILL));
            let other = Process::new(Command::new("true"));
            other.start(true).unwrap();
            assert!(other.join_timeout(LONG).unwrap().unwrap().success());
        }
        eventually("all are closed", || {
            !open_descriptors().iter().any(|(_, name)| name.starts_with("socket:"))
        });
    }

    fn descriptors_that_take_long_to_close_hold_nobody_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        while ours.write(&[0; 1 << 16]).is_ok() {}
        let linger = libc::linger { l_onoff: 1, l_linger: 100 };
        nix::sys::socket::setsockopt(&ours, nix::sys::socket::sockopt::Linger, &linger).unwrap();
        let number = ours.as_raw_fd();
        let is_open = |name: &str| open_descriptors().iter().any(|(_, open)| open == name);
        let (_, name) = open_descriptors().into_iter().find(|(open, _)| *open == number).unwrap();
        let process = Process::builder(sh("exec sleep 1000")).stdout(Stdio::from(OwnedFd::from(ours)));
        let process = process.build().unwrap();
        let pid = process.start(true).unwrap();
        // The last handle, which stops it: what the process owns is let go by who sees its end.
        drop(process);
        eventually("it has ended", || !is_alive(pid));
        // Not before: a child has copies of all descriptors until its exec, and one that closes this one last waits itself.
        eventually("it is being closed", || !is_open(&name));
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for _ in 0..20 {
                let other = Process::new(Command::new("true"));
                other.start(true).unwrap();
                assert!(other.join_timeout(LONG).unwrap().is_some());
            }
            sender.send(()).unwrap();
        });
        // Not that long.
        receiver.recv_timeout(Duration::from_secs(40)).unwrap();
        // What was not read is not waited for when the reader is gone.
        drop((theirs, listener));
        eventually("it is closed", || !open_descriptors().iter().any(|(_, name)| name.starts_with("socket:")));
    }

    fn a_socket_on_a_file_system_that_does_not_answer_holds_nobody_up() {
        // In a process none of whose threads has another mount namespace.
        crate::forked::in_a_raw_fork(connect_on_a_file_system_that_does_not_answer);
    }

    fn who_stops_it_in_a_callback_waits_for_no_callback() {
        type Act = fn(&Process) -> pkit::Result<()>;
        let acts: [Act; 2] = [|process| process.kill(LONG), |process| process.terminate(LONG)];
        for act in acts {
            let own: Arc<Mutex<Option<Process>>> = Arc::default();
            let (reached, (sender, receiver)) = (Arc::clone(&own), mpsc::channel());
            // Far more than is kept: the child waits for the callback, and that for the child.
            let builder = Process::builder(sh("echo FATAL; exec yes 'and so on'")).capture(1).on_line(move |line| {
                if line.text() == "FATAL" {
                    let process = reached.lock().unwrap().take().unwrap();
                    sender.send(act(&process)).unwrap();
                }
            });
            let process = builder.build().unwrap();
            *own.lock().unwrap() = Some(process.clone());
            process.start(true).unwrap();
            receiver.recv_timeout(LONG).unwrap().unwrap();
            assert!(process.join_timeout(LONG).unwrap().unwrap().requested());
        }
    }

    fn who_stops_it_while_it_looks_at_a_line_does_not_wait_for_itself() {
        let process = Process::builder(sh("exec yes 'and so on'")).capture(1).build().unwrap();
        process.start(true).unwrap();
        let mut killed = false;
        let error = process.wait_for_line(LONG, |_| {
            if !std::mem::replace(&mut killed, true) {
                process.kill(LONG).unwrap();
            }
            false
        });
        let error = error.unwrap_err();
        assert!(error.is_ended(), "{error}");
    }

    fn what_is_left_in_the_pipe_of_a_run_that_is_over_is_delivered() {
        let (sender, receiver) = mpsc::channel();
        let (go_on, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        // The callback takes the first line and waits, until the run is over.
        let process = Process::builder(sh("seq 1 15000")).capture(1).on_line(move |line| {
            if line.text() == "1" {
                _ = held.lock().unwrap().recv();
            }
            sender.send(line.text().parse::<u32>().unwrap()).unwrap();
        });
        let process = process.build().unwrap();
        process.start(true).unwrap();
        process.wait_until(LONG, |status| status.pid.is_none()).unwrap();
        process.wait_until(LONG, |status| status.exit.is_some()).unwrap();
        assert!(!process.exit().unwrap().output_leaked());
        drop(go_on);
        assert!(receiver.iter().take(15_000).eq(1..=15_000));
    }
}
