//! Every way to say that one is ready, except `notify`.

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use pkit::{Backoff, EventKind, Fault, Process, Ready, Restart, Signal, State, Stdio};

use crate::support::{LONG, is_alive, python, say, sh, skipped, tests, wait_for};

/// A port where nobody listens.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts it, sees that it is not ready, lets it go on, and sees that it is.
fn ready_when_told(builder: pkit::Builder, not_yet: &str) {
    let process = builder.stdin(Stdio::piped()).capture(4096).build().unwrap();
    for _ in 0..2 {
        process.start(false).unwrap();
        let mut stdin = process.stdin().unwrap();
        process.wait_for_line(LONG, |line| line == not_yet).unwrap();
        assert_eq!(process.state(), State::Running);
        say(&mut stdin, "go on");
        wait_for(&process, State::Ready);
        process.terminate(true).unwrap();
    }
}

/// In a process none of whose threads has another mount namespace: what it knows of hosts, and no server for names.
fn hosts_of_its_own() -> Option<tempfile::NamedTempFile> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).ok()?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let (hosts, servers) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    fs::write(servers.path(), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
    for (file, over) in [(&hosts, "/etc/hosts"), (&servers, "/etc/resolv.conf")] {
        mount(Some(file.path()), over, none, MsFlags::MS_BIND, none).unwrap();
    }
    Some(hosts)
}

/// It listens at that address, and is ready when `host` answers at that port.
fn listens(address: &str, host: &str) -> pkit::Builder {
    let port = free_port();
    let script = format!(
        "
server = socket.create_server(('{address}', {port}))
while True: server.accept()[0].close()"
    );
    Process::builder(python(&script)).ready(Ready::tcp(format!("{host}:{port}")))
}

tests! {
    fn a_line_that_came_in_time_counts_however_slow_the_consumers_are() {
        // More than is kept for them, and all of it fits into the pipe.
        let script = "i=0; while [ $i -lt 1200 ]; do
            echo 'a line of log that is about eighty bytes long, give or take some, as logs are.'; i=$((i + 1))
        done; echo listening; exec sleep 1000";
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = std::sync::Mutex::new(released);
        let process = Process::builder(sh(script)).stdout(Stdio::captured()).ready(Ready::line("listening"));
        let process = process.on_line(move |_| _ = released.lock().unwrap().recv());
        let process = process.ready_within(Duration::from_secs(3)).build().unwrap();
        process.start(true).unwrap();
        drop(release);
        process.kill(true).unwrap();
    }

    fn spawned_is_ready_at_once() {
        let process = Process::new(sh("exec sleep 1000"));
        process.start(false).unwrap();
        assert_eq!(process.state(), State::Ready);
    }

    fn who_ends_before_its_line_is_over_though_others_go_on_writing() {
        // The other one fills everything that is kept, while nobody looks for the line any more.
        let script = "trap '' TERM; (exec 9>&1; while :; do echo and more of the same; done) & exec sleep 0";
        let process = Process::builder(sh(script)).ready(Ready::line("ready")).capture(1);
        let process = process.survivors(pkit::Survivors::stop(pkit::Stop::signal(Signal::TERM, Duration::from_millis(200))));
        let process = process.build().unwrap();
        let error = process.start(LONG).unwrap_err();
        assert!(error.is_ended(), "{error}");
        assert!(process.join_timeout(LONG).unwrap().unwrap().forced());
    }

    fn a_check_that_does_not_come_back_costs_one_thread() {
        let (never, end) = std::sync::mpsc::channel::<()>();
        let never = Arc::new(std::sync::Mutex::new(Some(never)));
        let end = std::sync::Mutex::new(end);
        let begun = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&begun);
        let ready = Ready::check(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            _ = end.lock().unwrap().recv();
            true
        });
        let restart = Restart::always().backoff(Backoff::none()).unlimited();
        let process = Process::builder(sh("sleep 0.1")).ready(ready).restart(restart).build().unwrap();
        process.start(false).unwrap();
        process.wait_until(LONG, |status| status.restarts > 5).unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        process.kill(true).unwrap();
        drop(never.lock().unwrap().take());
    }

    fn a_newline_on_a_descriptor() {
        let script = "printf almost >&5; echo not yet; read x; echo >&5; exec sleep 1000";
        ready_when_told(Process::builder(sh(script)).ready(Ready::fd(5)), "not yet");
    }

    fn a_descriptor_closed_without_a_word() {
        let process = Process::builder(sh("exec 3>&-; exec sleep 1000"))
            .ready(Ready::fd(3))
            .ready_within(Duration::from_millis(100))
            .build()
            .unwrap();
        let error = process.start(true).unwrap_err();
        assert_eq!(error.exit().unwrap().signal(), Some(Signal::TERM));
        assert!(error.is_not_ready() && error.is_ended());
        assert!(error.to_string().ends_with("; stopped because it was not ready in time"), "{error}");
    }

    fn somebody_else_who_answers_is_not_taken_for_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tcp = Process::builder(sh("exec sleep 1000")).ready(Ready::tcp(&address)).build().unwrap();
        let error = tcp.start(true).unwrap_err();
        assert!(error.is_not_created() && error.raw_os_error() == Some(libc::EADDRINUSE), "{error}");
        assert!(error.to_string().contains(&format!("prepare Ready::tcp(\"{address}\"): ")), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let unix = Process::builder(sh("exec sleep 1000")).ready(Ready::unix(&path)).build().unwrap();
        assert_eq!(unix.start(true).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
        drop(other);
        // A socket that nobody listens on any more is no hindrance.
        unix.start(false).unwrap();
        // Who is given the listening socket will answer for it.
        let builder = Process::builder(sh("exec sleep 1000")).pass_fd(listener.into(), 3);
        let activated = builder.ready(Ready::tcp(address)).build().unwrap();
        activated.start(true).unwrap();
    }

    fn what_was_awaited_is_in_the_error() {
        let script = "echo booting; echo 'no database' >&2; exec sleep 1000";
        let builder = Process::builder(sh(script)).ready(Ready::line("up")).ready_within(Duration::from_millis(300));
        let process = builder.restart(Restart::on_failure().backoff(Backoff::fixed(LONG)).unlimited()).build().unwrap();
        let error = process.start(true).unwrap_err();
        assert!(error.is_not_ready() && error.is_ended(), "{error}");
        let text = error.to_string();
        assert!(text.contains(r#": it was not ready within 300 ms by Ready::line("up"): killed by SIGTERM after "#), "{text}");
        let end = r#"; its last line on stderr: "no database"; its restart policy goes on"#;
        assert!(text.ends_with(end), "{text}");
        process.terminate(true).unwrap();
        let patient = Process::builder(sh(script)).ready(Ready::line("up")).build().unwrap();
        patient.start(false).unwrap();
        patient.wait_for_line(LONG, |line| line == "no database").unwrap();
        let text = patient.wait_for_line(Duration::from_millis(10), |_| false).unwrap_err().to_string();
        let end = r#": no such line within 10 ms; it is left as it is, in state `running`; its last line on stderr: "no database""#;
        assert!(text.ends_with(end), "{text}");
    }

    fn a_line() {
        // In two writes, and on the other stream.
        let script = "echo listen; echo not yet; read x; printf 'now list' >&2; printf 'ening\\n' >&2; exec sleep 1000";
        ready_when_told(Process::builder(sh(script)).ready(Ready::line("listening")), "not yet");
    }

    fn a_line_as_last_word_counts() {
        for _ in 0..50 {
            let process = Process::builder(sh("echo ready")).ready(Ready::line("ready")).build().unwrap();
            process.start(true).unwrap();
            assert!(process.join().unwrap().success());
        }
    }

    fn a_port_opened_late() {
        let port = free_port();
        let script = format!("
print('not yet', flush=True)
sys.stdin.readline()
server = socket.create_server(('127.0.0.1', {port}))
while True: server.accept()[0].close()");
        let builder = || Process::builder(python(&script));
        ready_when_told(builder().ready(Ready::tcp(format!("127.0.0.1:{port}"))), "not yet");
        ready_when_told(builder().ready(Ready::tcp(format!("localhost:{port}"))), "not yet");
    }

    fn a_host_with_several_addresses() {
        crate::forked::in_a_raw_fork(|| {
            let Some(hosts) = hosts_of_its_own() else { return skipped("no mount namespace may be made") };
            fs::write(hosts.path(), "127.0.0.1 several\n127.0.0.2 several\n").unwrap();
            // It listens at one of them, whichever of them comes first.
            for address in ["127.0.0.1", "127.0.0.2"] {
                let process = listens(address, "several").build().unwrap();
                process.start(true).unwrap();
                assert_eq!(process.state(), State::Ready);
            }
        });
    }

    fn a_host_that_is_not_known_for_a_while() {
        crate::forked::in_a_raw_fork(|| {
            let Some(hosts) = hosts_of_its_own() else { return skipped("no mount namespace may be made") };
            let is_known = |known| fs::write(hosts.path(), if known { "127.0.0.1 backend\n" } else { "" }).unwrap();
            is_known(true);
            let builder = listens("127.0.0.1", "backend");
            let process = builder.restart(Restart::on_failure()).build().unwrap();
            process.start(true).unwrap();
            is_known(false);
            let events = process.subscribe();
            process.signal(Signal::KILL).unwrap();
            let told = events.map(|event| event.kind);
            for kind in told.skip_while(|kind| !matches!(kind, EventKind::StartFailed(_))) {
                is_known(true);
                if matches!(kind, EventKind::Ready | EventKind::Failed(_)) {
                    assert!(matches!(kind, EventKind::Ready), "{kind}");
                    break;
                }
            }
        });
    }

    fn a_host_that_is_not_known() {
        let builder = Process::builder(sh("exit 0")).ready(Ready::tcp("no-such-host.invalid:80"));
        let error = builder.build().unwrap().start(true).unwrap_err();
        assert!(error.is_not_created(), "{error}");
        let wrong = Process::builder(sh("exit 0")).ready(Ready::tcp("127.0.0.1")).build();
        assert!(wrong.is_err_and(|error| error.is_invalid()));
    }

    fn a_unix_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let script = format!("
path = '{}'
if os.path.exists(path): os.unlink(path)
print('not yet', flush=True)
sys.stdin.readline()
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.bind(path)
server.listen()
while True: server.accept()[0].close()", path.display());
        ready_when_told(Process::builder(python(&script)).ready(Ready::unix(&path)), "not yet");
    }

    fn a_file_that_is_new() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ready");
        let path = path.to_str().unwrap();
        // One from before does not count: the second run finds that of the first.
        let made = format!("echo not yet; read x; echo now > {path}; exec sleep 1000");
        ready_when_told(Process::builder(sh(&made)).ready(Ready::file(path)), "not yet");
        let replaced = format!("echo not yet; read x; echo now > {path}.new; mv {path}.new {path}; exec sleep 1000");
        ready_when_told(Process::builder(sh(&replaced)).ready(Ready::file(path)), "not yet");
        fs::remove_file(path).unwrap();
    }

    fn a_stale_file_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ready");
        fs::write(&path, "old").unwrap();
        let process = Process::builder(sh("exec sleep 1000"))
            .ready(Ready::file(&path))
            .ready_within(Duration::from_millis(300))
            .build()
            .unwrap();
        assert!(process.start(true).unwrap_err().is_ended());
    }

    fn a_check() {
        let (open, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (gate, count) = (Arc::clone(&open), Arc::clone(&asked));
        let check = move |process: &Process| {
            assert!(process.pid().is_some());
            count.fetch_add(1, Ordering::SeqCst);
            gate.load(Ordering::SeqCst)
        };
        let process = Process::builder(sh("exec sleep 1000")).ready(Ready::check(check)).build().unwrap();
        process.start(false).unwrap();
        crate::support::eventually("asked again", || asked.load(Ordering::SeqCst) > 3);
        assert_eq!(process.state(), State::Running);
        open.store(true, Ordering::SeqCst);
        wait_for(&process, State::Ready);
        let total = asked.load(Ordering::SeqCst);
        process.terminate(true).unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), total);
    }

    fn a_check_that_panics_is_asked_again() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let check = move |_: &Process| {
            assert!(count.fetch_add(1, Ordering::SeqCst) > 2, "on purpose");
            true
        };
        let process = Process::builder(sh("exec sleep 1000"))
            .ready(Ready::check(check))
            .ready_within(Duration::from_secs(5))
            .build()
            .unwrap();
        process.start(true).unwrap();
    }

    fn to_end_before_is_an_error_with_the_exit() {
        let path = "/nonexistent/ready";
        let kinds = [
            Ready::notify(),
            Ready::fd(3),
            Ready::line("never"),
            Ready::tcp(format!("127.0.0.1:{}", free_port())),
            Ready::unix(path),
            Ready::file(path),
            Ready::check(|_| false),
        ];
        for ready in kinds {
            let process = Process::builder(sh("exit 3")).ready(ready.clone()).build().unwrap();
            let error = process.start(true).unwrap_err();
            assert!(error.is_ended(), "{ready:?}: {error}");
            assert_eq!(error.exit().unwrap().code(), Some(3));
            assert_eq!((process.state(), process.join().unwrap().code()), (State::Idle, Some(3)));
        }
    }

    fn to_end_before_is_an_error_although_the_next_run_is_ready() {
        let directory = tempfile::tempdir().unwrap();
        let once = directory.path().join("once");
        let script = format!("mkdir {} 2>/dev/null && exit 3; echo ready; exec sleep 1000", once.display());
        let process = Process::builder(sh(&script))
            .ready(Ready::line("ready"))
            .restart(Restart::on_failure().backoff(Backoff::none()))
            .build()
            .unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // The caller is the last to be served: the policy's second run is ready before it looks.
            for _ in 0..2 * std::thread::available_parallelism().unwrap().get() {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let caller = scope.spawn(|| {
                let thread = fs::read_link("/proc/thread-self").unwrap();
                let thread = thread.file_name().unwrap();
                let idle = std::process::Command::new("chrt").args(["--idle", "--pid", "0"]).arg(thread).status();
                assert!(idle.unwrap().success());
                for _ in 0..10 {
                    let error = process.start(true).unwrap_err();
                    assert_eq!(error.exit().unwrap().code(), Some(3));
                    wait_for(&process, State::Ready);
                    process.kill(true).unwrap();
                    fs::remove_dir(&once).unwrap();
                }
            });
            let result = caller.join();
            done.store(true, Ordering::Relaxed);
            result.unwrap();
        });
    }

    fn the_callers_patience_leaves_it_as_it_is() {
        let builder = Process::builder(sh("echo not yet; read x; echo ready; exec sleep 1000")).stdin(Stdio::piped());
        let process = builder.ready(Ready::line("ready")).build().unwrap();
        let error = process.start(Duration::from_millis(50)).unwrap_err();
        assert!(error.is_timeout(), "{error}");
        let pid = process.pid().unwrap();
        assert_eq!(error.pid(), Some(pid));
        assert_eq!(process.state(), State::Running);
        say(&mut process.stdin().unwrap(), "go on");
        assert_eq!(wait_for(&process, State::Ready).pid, Some(pid));
    }

    fn not_ready_in_time_is_a_failed_run() {
        let process = Process::builder(sh("exec sleep 1000"))
            .ready(Ready::line("never"))
            .ready_within(Duration::from_millis(50))
            .restart(Restart::on_failure().backoff(Backoff::none()).limit(2, LONG))
            .build()
            .unwrap();
        let events = process.subscribe();
        let error = process.start(true).unwrap_err();
        assert_eq!(error.exit().unwrap().signal(), Some(Signal::TERM), "{error}");
        let exit = process.join().unwrap();
        assert!(!exit.requested(), "nobody asked: {exit}");
        assert_eq!((process.state(), process.restarts()), (State::Failed, 2));
        assert!(!is_alive(exit.pid()));
        drop(process);
        assert_eq!(events.filter(|event| matches!(event.kind, EventKind::Fault(Fault::NotReady))).count(), 3);
    }

    fn a_stop_while_it_gets_ready() {
        let process = Process::builder(sh("exec sleep 1000")).ready(Ready::line("never")).build().unwrap();
        let other = process.clone();
        let waiter = std::thread::spawn(move || other.start(true));
        process.wait_until(LONG, |status| status.pid.is_some()).unwrap();
        process.terminate(true).unwrap();
        let error = waiter.join().unwrap().unwrap_err();
        assert!(error.exit().unwrap().requested(), "{error}");
    }
}
