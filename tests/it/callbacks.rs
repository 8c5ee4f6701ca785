//! `on_start`, `on_ready`, `on_line`, `on_exit`.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use pkit::{Backoff, Builder, Command, Process, Restart, RestartMode, State, Stdio};

use crate::support::{LONG, eventually, is_alive, sh, tests};

type Journal = Arc<Mutex<Vec<String>>>;

/// Every callback writes to the journal and then does `then`, with its name.
fn journal(command: Command, then: impl Fn(&str) + Send + Sync + 'static) -> (Builder, Journal) {
    let journal: Journal = Arc::default();
    let then = Arc::new(then);
    let entry = || {
        let (journal, then) = (Arc::clone(&journal), Arc::clone(&then));
        move |what: &str, detail: &str| {
            journal.lock().unwrap().push(format!("{what}{detail}"));
            then(what);
        }
    };
    let (start, ready, line, exit) = (entry(), entry(), entry(), entry());
    let builder = Process::builder(command)
        .on_start(move |_| start("start", ""))
        .on_ready(move |_| ready("ready", ""))
        .on_line(move |at| line("line", &format!(" {at}")))
        .on_exit(move |_, at| exit("exit", &format!(" {}", at.code().unwrap_or(-1))));
    (builder, journal)
}

fn entries(journal: &Journal) -> Vec<String> {
    journal.lock().unwrap().clone()
}

const ALL: [&str; 4] = ["start", "ready", "line", "exit"];

/// A handle that callbacks reach, without keeping the process alive for ever.
type Shared = Arc<Mutex<Option<Process>>>;

/// A process one of whose callbacks, `at`, calls `act` with the process; once.
fn acting(script: &str, at: &'static str, act: impl Fn(Process) + Send + Sync + 'static) -> (Shared, Journal) {
    let shared: Shared = Arc::default();
    let (reached, once) = (Arc::clone(&shared), AtomicU32::new(0));
    let (builder, journal) = journal(sh(script), move |what| {
        if what == at && once.fetch_add(1, Ordering::SeqCst) == 0 {
            let process = reached.lock().unwrap().clone();
            act(process.unwrap());
        }
    });
    *shared.lock().unwrap() = Some(builder.build().unwrap());
    (shared, journal)
}

fn process(shared: &Shared) -> Process {
    shared.lock().unwrap().clone().unwrap()
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("on `{}`, as it should in this test", std::thread::current().name().unwrap_or_default());
    }
}

tests! {
    fn what_nobody_holds_is_not_started_again() {
        let (result, tried) = mpsc::channel();
        let process = Process::builder(sh("exec sleep 1000"))
            .on_exit(move |process, _| result.send(process.start(false)).unwrap())
            .build()
            .unwrap();
        process.start(true).unwrap();
        drop(process);
        let error = tried.recv().unwrap().unwrap_err();
        assert!(error.is_dropped(), "{error}");
        assert_eq!(error.to_string(), "cannot start `sh`: its last handle was dropped, so nobody could stop it");
    }

    fn one_that_blocks_keeps_nothing_from_being_stopped() {
        let (entered, is_in) = mpsc::channel();
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Mutex::new(blocked);
        let process = Process::builder(sh("exec sleep 1000"))
            .on_start(move |_| {
                entered.send(()).unwrap();
                let _ = blocked.lock().unwrap().recv();
            })
            .build()
            .unwrap();
        let pid = process.start(true).unwrap();
        is_in.recv().unwrap();
        drop(process);
        eventually("it is stopped", || !is_alive(pid));
        drop(release);
    }

    fn a_panic_with_what_panics_when_it_is_dropped_stops_nothing() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("as it should in this test");
            }
        }
        let builder = Process::builder(Command::new("true")).on_exit(|_, _| std::panic::panic_any(Bomb));
        let process = builder.build().unwrap();
        for _ in 0..3 {
            process.start(true).unwrap();
            assert!(process.join_timeout(LONG).unwrap().expect("it is over").success());
        }
    }

    fn a_capture_whose_drop_panics_stops_nobody_else() {
        let captured = PanicsInDrop;
        let ready = pkit::Ready::check(move |_| {
            let _ = &captured;
            true
        });
        let process = Process::builder(sh("read x").stdin(Stdio::piped()).clone()).ready(ready).build().unwrap();
        process.start(true).unwrap();
        let (mut events, stdin) = (process.subscribe(), process.stdin());
        process.detach();
        drop(process);
        // The reaper sees the end, and then nobody has a handle any more.
        drop(stdin);
        while events.next().is_some() {}
        let other = Process::new(sh("exit 3"));
        other.start(true).unwrap();
        assert_eq!(other.join_timeout(LONG).unwrap().unwrap().code(), Some(3));
    }

    fn lines_without_end_do_not_keep_the_others_waiting() {
        let (told, ready) = mpsc::channel();
        let handled = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&handled);
        let process = Process::builder(sh("echo before; while :; do echo x; done & read go; echo >&3; wait"))
            .stdin(Stdio::piped())
            .ready(pkit::Ready::fd(3))
            .capture(1024)
            .on_line(move |_| {
                // Slower than they come.
                let slow = std::time::Instant::now();
                while slow.elapsed() < Duration::from_micros(50) {}
                count.fetch_add(1, Ordering::Relaxed);
            })
            .on_ready(move |_| told.send(()).unwrap())
            .build()
            .unwrap();
        process.start(false).unwrap();
        eventually("lines come", || handled.load(Ordering::Relaxed) > 100_000 / 50);
        crate::support::say(&mut process.stdin().unwrap(), "go");
        ready.recv_timeout(LONG).unwrap();
        process.kill(true).unwrap();
    }

    fn they_come_in_order_and_join_waits_for_them() {
        let (builder, journal) = journal(sh("echo one; echo two; exit 3"), |_| ());
        let process = builder.build().unwrap();
        for run in 1..=20 {
            process.start(true).unwrap();
            process.join().unwrap();
            let expected = ["start", "ready", "line one", "line two", "exit 3"].repeat(run);
            assert_eq!(entries(&journal), expected);
        }
    }

    fn exactly_once_for_each_run() {
        let (starts, exits) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, list) = (Arc::clone(&starts), Arc::clone(&exits));
        let process = Process::builder(Command::new("true"))
            .on_start(move |_| _ = count.fetch_add(1, Ordering::SeqCst))
            .on_exit(move |process, exit| list.lock().unwrap().push((process.status().generation, exit.pid())))
            .restart(Restart::always().backoff(Backoff::none()).unlimited())
            .build()
            .unwrap();
        process.start(true).unwrap();
        process.wait_until(LONG, |status| status.restarts >= 200).unwrap();
        process.terminate(true).unwrap();
        let exits = exits.lock().unwrap();
        assert_eq!(u64::from(starts.load(Ordering::SeqCst)), process.status().generation);
        // The next automatic start waits for it: the generation is still its own.
        assert!(exits.iter().map(|(generation, _)| *generation).eq(1..=process.status().generation));
        assert!(exits.windows(2).all(|two| two[0].1 != two[1].1));
    }

    fn not_on_the_reaper() {
        let names: Journal = Arc::default();
        let into = Arc::clone(&names);
        let (builder, _) = journal(sh("echo one"), move |_| {
            into.lock().unwrap().push(std::thread::current().name().unwrap_or_default().to_owned());
        });
        let process = builder.build().unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        assert_eq!(entries(&names), ["pkit-callback"; 4]);
    }

    fn one_that_panics_stops_nothing() {
        for at in ALL {
            let (builder, journal) = journal(sh("echo one; exit 3"), move |what| assert_ne!(what, at, "on purpose"));
            let process = builder.build().unwrap();
            for _ in 0..2 {
                process.start(true).unwrap();
                assert_eq!(process.join().unwrap().code(), Some(3));
            }
            assert_eq!(entries(&journal), ["start", "ready", "line one", "exit 3"].repeat(2));
        }
    }

    fn many_that_block_stop_no_other_process() {
        // More than the threads that come at once.
        const MANY: usize = 40;
        let (release, gate) = mpsc::channel::<()>();
        let (entered, inside) = mpsc::channel();
        let gate = Arc::new(Mutex::new(gate));
        let blocked: Vec<Process> = (0..MANY)
            .map(|_| {
                let (entered, gate) = (entered.clone(), Arc::clone(&gate));
                let builder = Process::builder(sh("exit 3")).on_start(move |_| {
                    entered.send(()).unwrap();
                    let _ = gate.lock().unwrap().recv();
                });
                builder.build().unwrap()
            })
            .collect();
        for process in &blocked {
            process.start(true).unwrap();
        }
        (0..MANY).for_each(|_| inside.recv_timeout(LONG).unwrap());
        let (builder, journal) = journal(sh("exit 4"), |_| ());
        let free = builder.build().unwrap();
        free.start(true).unwrap();
        free.join_timeout(LONG).unwrap().unwrap();
        assert_eq!(entries(&journal), ["start", "ready", "exit 4"]);
        drop(release);
        assert!(blocked.iter().all(|process| process.join().unwrap().code() == Some(3)));
    }

    fn one_that_blocks_stops_no_other_process() {
        for at in ALL {
            let (release, gate) = mpsc::channel::<()>();
            let (entered, inside) = mpsc::channel();
            let gate = Mutex::new(gate);
            let (builder, blocked_journal) = journal(sh("echo one; exit 3"), move |what| {
                if what == at {
                    entered.send(()).unwrap();
                    let _ = gate.lock().unwrap().recv();
                }
            });
            let blocked = builder.build().unwrap();
            blocked.start(true).unwrap();
            inside.recv().unwrap();
            let (builder, journal) = journal(sh("echo two"), |_| ());
            let free = builder.build().unwrap();
            for run in 1..=5 {
                free.start(true).unwrap();
                free.join().unwrap();
                assert_eq!(entries(&journal).len(), 4 * run);
            }
            // Its `on_exit` has not returned, whichever blocks.
            assert_eq!(blocked.join_timeout(Duration::from_millis(50)).unwrap(), None);
            drop(release);
            assert_eq!(blocked.join().unwrap().code(), Some(3));
            assert_eq!(entries(&blocked_journal), ["start", "ready", "line one", "exit 3"]);
        }
    }

    fn the_next_automatic_start_waits_for_on_exit() {
        let (release, gate) = mpsc::channel::<()>();
        let (entered, inside) = mpsc::channel();
        let gate = Mutex::new(gate);
        let process = Process::builder(sh("exit 1"))
            .on_exit(move |_, _| {
                let _ = entered.send(());
                let _ = gate.lock().unwrap().recv();
            })
            .restart(Restart::on_failure().backoff(Backoff::none()).limit(2, LONG))
            .build()
            .unwrap();
        process.start(true).unwrap();
        for run in 1..=3 {
            inside.recv().unwrap();
            let early = process.wait_until(Duration::from_millis(50), |status| status.generation > run);
            assert!(early.is_err_and(|error| error.is_timeout()));
            release.send(()).unwrap();
        }
        process.join().unwrap();
        assert_eq!((process.state(), process.restarts()), (State::Failed, 2));
    }

    fn start_from_inside() {
        for at in ["start", "ready", "line"] {
            let (shared, journal) = acting("echo one; exit 3", at, |process| {
                // Perhaps it has ended by now, and a second run is right.
                if let Err(error) = process.start(true) {
                    assert!(error.is_running(), "{error}");
                }
            });
            process(&shared).start(true).unwrap();
            eventually("all are idle", || {
                let entries = entries(&journal);
                let count = |what: &str| entries.iter().filter(|entry| entry.starts_with(what)).count();
                count("exit") > 0 && count("exit") == count("start") && !process(&shared).is_alive()
            });
            process(&shared).join().unwrap();
            shared.lock().unwrap().take();
        }
        let (shared, journal) = acting("echo one; exit 3", "exit", |process| _ = process.start(true).unwrap());
        process(&shared).start(true).unwrap();
        process(&shared).wait_until(LONG, |status| status.generation == 2 && status.state == State::Idle).unwrap();
        process(&shared).join().unwrap();
        assert_eq!(entries(&journal), ["start", "ready", "line one", "exit 3"].repeat(2));
        shared.lock().unwrap().take();
    }

    fn join_from_inside() {
        for at in ALL {
            let (shared, journal) = acting("echo one; exit 3", at, |process| {
                assert_eq!(process.join().unwrap().code(), Some(3));
            });
            process(&shared).start(true).unwrap();
            process(&shared).join().unwrap();
            assert_eq!(entries(&journal), ["start", "ready", "line one", "exit 3"], "{at}");
            shared.lock().unwrap().take();
        }
    }

    fn a_start_by_hand_that_fails_meanwhile_lets_nobody_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tool");
        fs::copy("/bin/true", &path).unwrap();
        let ((tell, told), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
        let (released, has_returned) = (Mutex::new(released), Arc::new(AtomicBool::new(false)));
        let (gone, returns) = (path.clone(), Arc::clone(&has_returned));
        let process = Process::builder(Command::new(&path)).on_exit(move |process, _| {
            fs::remove_file(&gone).unwrap();
            process.start(false).unwrap_err();
            tell.send(()).unwrap();
            released.lock().unwrap().recv_timeout(LONG).unwrap();
            returns.store(true, Ordering::SeqCst);
        });
        let process = process.build().unwrap();
        process.start(true).unwrap();
        let waits = |way: fn(&Process)| {
            let (process, has_returned) = (process.clone(), &has_returned);
            move || {
                way(&process);
                has_returned.load(Ordering::SeqCst)
            }
        };
        std::thread::scope(|scope| {
            let join = scope.spawn(waits(|process| assert!(process.join().unwrap().success())));
            let future = |process: &Process| assert!(smol::future::block_on(process.exited()).unwrap().success());
            let future = scope.spawn(waits(future));
            told.recv_timeout(LONG).unwrap();
            let terminate = scope.spawn(waits(|process| process.terminate(true).unwrap()));
            assert!(process.start(false).is_err(), "somebody else tries, too");
            let early = process.join_timeout(Duration::from_millis(100)).unwrap();
            assert!(early.is_none(), "{early:?}");
            release.send(()).unwrap();
            assert_eq!([join, future, terminate].map(|way| way.join().unwrap()), [true; 3], "it was waited for");
        });
        assert_eq!(process.state(), State::Idle);
    }

    fn join_from_inside_waits_for_no_later_run() {
        for reports in [true, false] {
            let (tell, told) = mpsc::channel();
            let is_first = AtomicBool::new(true);
            let always = Restart::always().backoff(Backoff::none()).unlimited();
            // Its end is that of its stdin, which a join closes.
            let builder = Process::builder(sh("read line")).stdin(Stdio::piped()).restart(always);
            let builder = builder.on_ready(move |process| {
                if is_first.swap(false, Ordering::SeqCst) {
                    tell.send(process.join().unwrap().code()).unwrap();
                }
            });
            let process = if reports { builder.on_exit(|_, _| ()).build() } else { builder.build() }.unwrap();
            process.start(true).unwrap();
            assert_eq!(told.recv_timeout(LONG).unwrap(), Some(1), "{reports}");
            process.kill(true).unwrap();
        }
    }

    fn a_join_does_not_wait_for_a_run_that_somebody_else_started() {
        for reports in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let mut command = sh("if [ -e \"$0\" ]; then exec sleep 1000; fi; touch \"$0\"; read line");
            command.arg(directory.path().join("second"));
            let (release, released) = mpsc::channel::<()>();
            let released = Mutex::new(released);
            let builder = Process::builder(command).stdin(Stdio::piped());
            let process = if reports {
                builder.on_exit(move |_, _| _ = released.lock().unwrap().recv()).build()
            } else {
                builder.build()
            };
            let process = process.unwrap();
            let first = process.start(true).unwrap();
            let exited = process.exited();
            std::thread::scope(|scope| {
                let join = scope.spawn(|| process.join().unwrap().pid());
                let future = scope.spawn(|| smol::future::block_on(exited).unwrap().pid());
                eventually("the first has ended, and another one runs", || process.start(true).is_ok());
                drop(release);
                assert_eq!([join, future].map(|end| end.join().unwrap()), [first; 2], "{reports}");
            });
            process.kill(true).unwrap();
        }
    }

    fn a_join_returns_the_end_that_it_waited_for() {
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let is_first = AtomicBool::new(true);
        let process = Process::builder(sh("read line")).stdin(Stdio::piped()).on_exit(move |_, _| {
            // The first end is told at once, the second when we like.
            if !is_first.swap(false, Ordering::SeqCst) {
                let _ = released.lock().unwrap().recv();
            }
        });
        let process = process.build().unwrap();
        let first = process.start(true).unwrap();
        let mut exited = process.exited();
        let mut poll = || smol::future::block_on(smol::future::poll_once(&mut exited));
        assert!(poll().is_none(), "it closes the stdin of the first run, which ends then");
        assert_eq!(process.join().unwrap().pid(), first);
        let second = process.start(true).unwrap();
        process.terminate(false).unwrap();
        process.wait_until(LONG, |status| status.exit.as_ref().is_some_and(|exit| exit.pid() == second)).unwrap();
        assert_eq!(poll().unwrap().unwrap().pid(), first, "whatever came after that");
        drop(release);
        assert_eq!(process.join().unwrap().pid(), second);
    }

    fn terminate_from_inside() {
        for at in ["start", "ready", "line"] {
            let (shared, journal) = acting("echo one; exec sleep 1000", at, |process| process.terminate(true).unwrap());
            process(&shared).start(true).unwrap();
            assert!(process(&shared).join().unwrap().requested());
            assert_eq!(entries(&journal).last().unwrap(), "exit -1");
            shared.lock().unwrap().take();
        }
        let (shared, _) = acting("exit 3", "exit", |process| process.terminate(true).unwrap());
        process(&shared).start(true).unwrap();
        assert!(!process(&shared).join().unwrap().requested());
        shared.lock().unwrap().take();
    }

    fn restart_from_inside() {
        for at in ALL {
            let script = if at == "exit" { "echo one; exit 3" } else { "echo one; exec sleep 1000" };
            let (shared, journal) = acting(script, at, |process| {
                process.restart(RestartMode::Terminate, true).unwrap();
            });
            process(&shared).start(true).unwrap();
            process(&shared).wait_until(LONG, |status| status.generation == 2).unwrap();
            // The first run may end before it prints.
            process(&shared).wait_for_line(LONG, |line| line == "one").unwrap();
            process(&shared).terminate(true).unwrap();
            let told = entries(&journal);
            let exits: Vec<usize> = (0..told.len()).filter(|n| told[*n].starts_with("exit")).collect();
            let starts: Vec<usize> = (0..told.len()).filter(|n| told[*n] == "start").collect();
            assert!(exits.len() == 2 && starts.len() == 2 && exits[0] < starts[1], "{at}: {told:?}");
            shared.lock().unwrap().take();
        }
    }

    fn the_last_handle_dropped_inside() {
        for at in ALL {
            let shared: Shared = Arc::default();
            let reached = Arc::clone(&shared);
            let (told, dropped) = mpsc::channel();
            let script = if at == "exit" { "echo one; exit 3" } else { "echo one; exec sleep 1000" };
            let (builder, journal) = journal(sh(script), move |what| {
                if what == at {
                    drop(reached.lock().unwrap().take());
                    let _ = told.send(());
                }
            });
            let process = builder.build().unwrap();
            let pid;
            {
                let mut guard = shared.lock().unwrap();
                pid = process.start(true).unwrap();
                *guard = Some(process);
            }
            dropped.recv().unwrap();
            eventually("it is gone", || !is_alive(pid));
            eventually("it was told", || entries(&journal).last().is_some_and(|entry| entry.starts_with("exit")));
        }
    }

    fn a_start_by_hand_loses_no_line_of_the_run_before() {
        let (release, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let (builder, journal) = journal(sh("seq 1 100; exit 3"), move |what| {
            if what == "line" {
                let _ = gate.lock().unwrap().recv();
            }
        });
        let process = builder.build().unwrap();
        process.start(true).unwrap();
        process.wait_until(LONG, |status| status.state == State::Idle).unwrap();
        // Its lines and its end have not been told yet.
        process.start(true).unwrap();
        process.wait_until(LONG, |status| status.generation == 2 && status.state == State::Idle).unwrap();
        drop(release);
        process.join().unwrap();
        let mut run = vec!["start".to_owned(), "ready".to_owned()];
        run.extend((1..=100).map(|n| format!("line {n}")));
        run.push("exit 3".to_owned());
        assert_eq!(entries(&journal), [run.clone(), run].concat());
    }
}
