//! Pools and slots: so many at once, and every slot comes back.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use pkit::{
    Backoff, Builder, Command, Execution, ExitReason, Pool, Process, Ready, Restart, Signal, Slots, State, Stdio, Stop,
};

use crate::forked::forked;
use crate::support::{LONG, children, eventually, is_alive, sh, tests, wait_for};

const SHORT: Duration = Duration::from_millis(10);

fn sleeper() -> Builder {
    Process::builder(sh("exec sleep 1000")).stop(Stop::kill())
}

fn has_ended(execution: &Execution) -> bool {
    matches!(execution.status().state, State::Idle | State::Failed)
}

/// When it was created: a pid alone may come again.
fn birth(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}

/// Waits until `threads` threads of that name sleep: in line, where that is the only thing that they wait for.
fn sleeping(name: &str, threads: usize) {
    eventually("they wait", || {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        stats.filter(|stat| stat.contains(&format!("({name}) S"))).count() == threads
    });
}

/// Runs `function` on a thread of that name.
fn on<'a, T: Send + 'a>(
    scope: &'a thread::Scope<'a, '_>,
    name: &str,
    function: impl FnOnce() -> T + Send + 'a,
) -> thread::ScopedJoinHandle<'a, T> {
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, function).unwrap()
}

/// A handler for `on_exit` or the like that waits, and its other end: dropped, it lets all go on.
fn held() -> (impl Fn() + Send + Sync + 'static, Sender<()>) {
    let (hold, go_on): (Sender<()>, Receiver<()>) = channel();
    let go_on = Mutex::new(go_on);
    (move || _ = go_on.lock().unwrap().recv(), hold)
}

/// The only slot comes back, and then a process runs on it.
fn comes_back(pool: &Pool) {
    drop(pool.slots().take_timeout(LONG).expect("the slot comes back"));
    let next = pool.execute_timeout(Command::new("true"), LONG).unwrap().expect("there is a slot");
    assert!(next.join().unwrap().success());
    assert_eq!((pool.slots().free(), pool.slots().size()), (1, 1), "it came back once");
}

tests! {
    fn slots_are_counted() {
        let slots = Slots::new(3);
        let (first, second) = (slots.take(), slots.try_take().unwrap());
        let third = slots.clone().take_timeout(SHORT).unwrap();
        assert_eq!((slots.free(), slots.size()), (0, 3));
        assert!(slots.try_take().is_none() && slots.take_timeout(SHORT).is_none());
        // To another thread, and past the last handle.
        thread::spawn(move || drop(first)).join().unwrap();
        assert_eq!(slots.free(), 1);
        drop(catch_unwind(AssertUnwindSafe(|| {
            let _third = third;
            panic!("for the test");
        })));
        assert_eq!(slots.free(), 2);
        assert_eq!(format!("{slots:?}"), "Slots { size: 3, free: 2 }");
        drop(slots);
        drop(second);
        assert!(catch_unwind(|| Slots::new(0)).is_err());
    }

    fn who_comes_first_is_served_first() {
        let slots = Slots::new(1);
        let (served, order) = channel();
        let held = slots.take();
        thread::scope(|scope| {
            for number in 0..10 {
                let (served, slots) = (served.clone(), &slots);
                on(scope, "in-line", move || {
                    let slot = slots.take();
                    served.send(number).unwrap();
                    drop(slot);
                });
                sleeping("in-line", number + 1);
            }
            drop(held);
            // Not as long as anybody else waits: what comes back goes to him.
            drop(slots.take());
            assert_eq!(order.try_iter().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        });
        assert_eq!(slots.free(), 1);
    }

    fn a_slot_that_somebody_waits_for_is_never_free() {
        let slots = Slots::new(1);
        for _ in 0..100 {
            let held = slots.take();
            let (slots, (hold, go_on)) = (&slots, channel::<()>());
            thread::scope(|scope| {
                on(scope, "in-line", move || {
                    let _slot = slots.take();
                    let _ = go_on.recv();
                });
                sleeping("in-line", 1);
                drop(held);
                assert!(slots.try_take().is_none() && slots.free() == 0);
                drop(hold);
            });
        }
        assert_eq!(slots.free(), 1);
    }

    fn who_gives_up_takes_none_along() {
        let (slots, taken) = (Slots::new(3), AtomicUsize::new(0));
        thread::scope(|scope| {
            for thread in 0..8 {
                let (slots, taken) = (&slots, &taken);
                scope.spawn(move || {
                    for turn in 0..2000 {
                        let limit = Duration::from_micros((turn * 7 + thread * 13) % 50);
                        let slot = if turn % 5 == 0 { Some(slots.take()) } else { slots.take_timeout(limit) };
                        if slot.is_some() {
                            assert!(taken.fetch_add(1, Ordering::SeqCst) < 3, "more than there are");
                            thread::yield_now();
                            taken.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(slots.free(), 3);
    }

    fn names_are_for_the_whole_program() {
        let slots = Slots::named("compilers", 2).unwrap();
        let slot = thread::spawn(|| Slots::named("compilers", 2).unwrap().take()).join().unwrap();
        assert_eq!(slots.free(), 1);
        assert_eq!(Slots::named("linkers", 2).unwrap().free(), 2);
        let error = Slots::named("compilers", 3).unwrap_err();
        assert!(error.is_invalid() && error.process() == "compilers");
        assert_eq!(error.to_string(), "cannot share the slots `compilers`: there are 2, not 3");
        assert!(Slots::named("none", 0).unwrap_err().is_invalid());
        // They stay, whoever has a handle.
        drop(slots);
        assert_eq!(Slots::named("compilers", 2).unwrap().free(), 1);
        drop(slot);
        assert_eq!(Slots::named("compilers", 2).unwrap().free(), 2);
    }

    fn a_fork_has_slots_of_its_own() {
        let (slots, named) = (Slots::new(2), Slots::named("shared", 1).unwrap());
        let taken = (slots.take(), slots.take(), named.take());
        let copies = Mutex::new(Some((slots.clone(), named, taken)));
        let inside = slots.clone();
        let fork = Process::new(forked(move || {
            assert_eq!((inside.free(), Slots::named("shared", 1).unwrap().free()), (2, 1));
            let (slots, named, taken) = copies.try_lock().unwrap().take().unwrap();
            let mine = (slots.take(), named.take());
            assert_eq!((inside.free(), named.free(), Slots::named("shared", 1).unwrap().free()), (1, 0, 0));
            // What was copied along is nothing here.
            drop(taken);
            assert_eq!((inside.free(), named.free()), (1, 0));
            assert_eq!(Slots::named("shared", 3).unwrap_err().to_string(), "cannot share the slots `shared`: there are 1, not 3");
            drop(mine);
            assert_eq!((inside.free(), named.free()), (2, 1));
            let pool = Pool::with(slots);
            assert_eq!(pool.execute(sh("exit 7")).unwrap().join().unwrap().code(), Some(7));
            ExitCode::from(3)
        }));
        fork.start(true).unwrap();
        assert_eq!(fork.join().unwrap().code(), Some(3));
        // Nor is it here what happens there.
        assert_eq!(slots.free(), 0);
    }

    fn a_pool_in_a_fork_is_nobodys() {
        let pool = Pool::new(2);
        let execution = pool.execute(sleeper()).unwrap();
        let pid = execution.status().pid.unwrap();
        let copies = Mutex::new(Some((pool.clone(), execution.clone())));
        let fork = Process::new(forked(move || {
            let (pool, execution) = copies.try_lock().unwrap().take().unwrap();
            assert!(pool.execute(Command::new("true")).unwrap_err().is_foreign());
            assert!(pool.terminate(true).unwrap_err().is_foreign());
            pool.close();
            assert!(pool.is_closed() && pool.running().is_empty() && execution.join().unwrap_err().is_foreign());
            assert!(!format!("{pool:?} {execution:?}").is_empty());
            drop(pool);
            drop(execution);
            ExitCode::from(3)
        }));
        fork.start(true).unwrap();
        assert_eq!(fork.join().unwrap().code(), Some(3));
        assert!(is_alive(pid) && !pool.is_closed() && pool.running().len() == 1);
        pool.terminate(true).unwrap();
    }

    fn so_many_at_once() {
        let pool = Pool::new(3);
        let all: Vec<_> = (0..3).map(|_| pool.execute(sleeper()).unwrap()).collect();
        assert_eq!(all.iter().map(Execution::id).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(children().len(), 3);
        assert!(pool.try_execute(sleeper()).unwrap().is_none());
        assert!(pool.execute_timeout(sleeper(), SHORT).unwrap().is_none());
        assert_eq!(pool.running().iter().map(Execution::id).collect::<Vec<_>>(), [1, 2, 3]);
        thread::scope(|scope| {
            let fourth = on(scope, "in-line", || pool.execute(sh("exec sleep 1000")).unwrap());
            sleeping("in-line", 1);
            all[1].process().kill(true).unwrap();
            assert_eq!(fourth.join().unwrap().id(), 4);
        });
        assert_eq!(all[1].join().unwrap(), all[1].exit().unwrap());
        assert_eq!(all[0].join_timeout(SHORT).unwrap(), None);
        assert_eq!(pool.running().iter().map(Execution::id).collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(pool.slots().free(), 0);
        pool.terminate(true).unwrap();
        assert_eq!((pool.slots().free(), pool.running().len(), children().len()), (3, 0, 0));
        assert!(all.iter().all(has_ended));
    }

    fn never_more_than_three_of_eight_threads() {
        let (pool, started, done) = (Pool::new(3), Mutex::new(Vec::new()), AtomicBool::new(false));
        // Who was started before the first look and lives at a later one, lived at the first.
        let living = || {
            let started: Vec<(u32, String)> = started.lock().unwrap().clone();
            let lives = |(pid, since): &(u32, String)| is_alive(*pid) && birth(*pid).as_ref() == Some(since);
            started.into_iter().rev().take(30).filter(lives).collect::<Vec<_>>()
        };
        let most = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut most = Vec::new();
                while !done.load(Ordering::SeqCst) {
                    let now = living();
                    most = if now.len() > most.len() { now } else { most };
                }
                most
            });
            let executors: Vec<_> = (0..8).map(|thread| {
                let (pool, started) = (&pool, &started);
                scope.spawn(move || for turn in 0..15 {
                    let once = Restart::on_failure().backoff(Backoff::none()).limit(1, LONG);
                    let job = match (thread + turn) % 4 {
                        0 => Process::builder(sh("exit 0")),
                        1 => Process::builder(sh("exec sleep 0.01")).on_exit(|_, _| ()),
                        2 => Process::builder(sh("exit 1")).restart(once),
                        _ => Process::builder(sh("sleep 1000 & exec sleep 1000")).stop(Stop::kill()),
                    };
                    let kill = (thread + turn) % 4 == 3;
                    let execution = pool.execute(job).unwrap();
                    let who = execution.status().pid.and_then(|pid| Some((pid, birth(pid)?)));
                    started.lock().unwrap().extend(who);
                    match kill {
                        true => execution.process().kill(turn % 2 == 0).unwrap(),
                        false if turn % 3 == 0 => drop(execution.join()),
                        false => {}
                    }
                })
            }).collect();
            executors.into_iter().for_each(|thread| thread.join().unwrap());
            done.store(true, Ordering::SeqCst);
            watcher.join().unwrap()
        });
        assert!((1..=3).contains(&most.len()), "at once: {most:?}");
        pool.close();
        assert_eq!((pool.slots().free(), pool.running().len()), (3, 0));
    }

    fn a_slot_comes_back_after_a_run() {
        let pool = Pool::new(1);
        for script in ["exit 0", "exit 1", "kill -SEGV $$", "sleep 1000 & exit 0"] {
            let execution = pool.execute(sh(script)).unwrap();
            execution.join().unwrap();
            comes_back(&pool);
        }
        for _ in 0..3 {
            // Nobody has a handle of it but the pool.
            drop(pool.execute(sh("exec sleep 0.01")).unwrap());
            comes_back(&pool);
        }
        let execution = pool.execute(sleeper()).unwrap();
        execution.process().kill(false).unwrap();
        comes_back(&pool);
        let execution = pool.execute(sh("exec sleep 1000")).unwrap();
        execution.process().terminate(false).unwrap();
        comes_back(&pool);
        let execution = pool.execute(sh("exec sleep 1000")).unwrap();
        execution.process().signal(Signal::KILL).unwrap();
        comes_back(&pool);
    }

    fn a_slot_comes_back_by_the_time_of_join() {
        let pool = Pool::new(1);
        for _ in 0..50 {
            let execution = pool.try_execute(Command::new("true")).unwrap().expect("it is free");
            assert!(execution.join().unwrap().success() && has_ended(&execution));
            let execution = pool.try_execute(Command::new("true")).unwrap().expect("it is free");
            assert!(execution.join_timeout(LONG).unwrap().is_some());
        }
    }

    fn a_slot_comes_back_when_nothing_could_be_started() {
        let pool = Pool::new(1);
        for _ in 0..3 {
            let always = Process::builder(Command::new("/nowhere")).restart(Restart::always());
            let error = pool.execute(always).unwrap_err();
            assert!(error.is_not_created() && error.raw_os_error() == Some(libc::ENOENT), "{error}");
            assert_eq!((pool.slots().free(), pool.running().len()), (1, 0));
        }
        assert!(pool.execute(Process::builder(sh("exit 0")).name("")).unwrap_err().is_invalid());
        assert_eq!(pool.execute(sh("exit 0")).unwrap().id(), 4);
        comes_back(&pool);
    }

    fn a_slot_comes_back_when_the_policy_is_done() {
        let pool = Pool::new(1);
        // A clean end, after one that was not.
        let room = tempfile::tempdir().unwrap();
        let policy = Restart::on_failure().backoff(Backoff::none()).limit(3, LONG);
        let once = Process::builder(sh("mkdir done && exit 1; exit 0")).current_dir(room.path()).restart(policy.clone());
        let execution = pool.execute(once).unwrap();
        assert!(execution.join().unwrap().success());
        assert_eq!(execution.status().restarts, 1);
        comes_back(&pool);
        // It gives up.
        let execution = pool.execute(Process::builder(sh("exit 1")).restart(policy.clone())).unwrap();
        comes_back(&pool);
        assert_eq!((execution.status().state, execution.status().restarts), (State::Failed, 3));
        // There is nothing to be started any more.
        let program = room.path().join("program");
        fs::copy("/bin/sleep", &program).unwrap();
        let gone = Process::builder(Command::new(&program).arg("1000")).restart(policy);
        let execution = pool.execute(gone).unwrap();
        fs::remove_file(&program).unwrap();
        execution.process().signal(Signal::KILL).unwrap();
        comes_back(&pool);
        assert_eq!(execution.status().state, State::Failed);
        assert!(execution.status().error.unwrap().is_not_created());
        // It was never ready.
        let never = Process::builder(sh("exec sleep 1000")).ready(Ready::line("up")).ready_within(SHORT);
        pool.execute(never).unwrap();
        comes_back(&pool);
    }

    fn between_restarts_the_slot_is_kept() {
        let pool = Pool::new(1);
        for how in ["terminate", "kill", "by the pool"] {
            let far = Restart::always().backoff(Backoff::fixed(Duration::from_secs(1000))).unlimited();
            let execution = pool.execute(Process::builder(sh("exit 1")).restart(far)).unwrap();
            wait_for(execution.process(), State::Backoff);
            assert!(pool.try_execute(Command::new("true")).unwrap().is_none());
            assert_eq!((pool.slots().free(), pool.running().len()), (0, 1));
            match how {
                "terminate" => execution.process().terminate(true).unwrap(),
                "kill" => execution.process().kill(false).unwrap(),
                _ => {
                    pool.terminate(true).unwrap();
                    assert_eq!((pool.slots().free(), pool.running().len()), (1, 0));
                    return;
                }
            }
            comes_back(&pool);
        }
    }

    fn a_slot_comes_back_whatever_on_exit_does() {
        let pool = Pool::new(1);
        let panics = Process::builder(sh("exit 0")).on_exit(|_, _| panic!("for the test"));
        pool.execute(panics).unwrap();
        comes_back(&pool);
        // While it is at work.
        let (wait, hold) = held();
        let execution = pool.execute(Process::builder(sh("exit 0")).on_exit(move |_, _| wait())).unwrap();
        comes_back(&pool);
        assert_eq!(pool.running().len(), 0);
        drop(hold);
        execution.join().unwrap();
        assert_eq!(pool.slots().free(), 1);
        // It starts it again, from within.
        let again = AtomicBool::new(true);
        let restarts = Process::builder(sh("exit 0")).on_exit(move |process, _| if again.swap(false, Ordering::SeqCst) {
            process.start(true).unwrap();
        });
        let execution = pool.execute(restarts).unwrap();
        execution.process().wait_until(LONG, |status| status.generation == 2 && status.state == State::Idle).unwrap();
        comes_back(&pool);
        pool.close();
    }

    fn a_slot_comes_back_when_the_status_is_lost() {
        use nix::sys::signal::{SigHandler, Signal as Number, signal};
        // SAFETY: this test has its process for itself.
        #[allow(unsafe_code)]
        unsafe { signal(Number::SIGCHLD, SigHandler::SigIgn) }.unwrap();
        pkit::testing::pretend_no_exit_info();
        let pool = Pool::new(1);
        for _ in 0..5 {
            let execution = pool.execute(sh("exit 3")).unwrap();
            drop(pool.slots().take_timeout(LONG).expect("the slot comes back"));
            assert_eq!(execution.join().unwrap().reason(), ExitReason::Lost);
            assert_eq!(pool.slots().free(), 1);
        }
    }

    fn close_waits_for_all_and_for_their_callbacks() {
        let pool = Pool::new(2);
        let (wait, hold) = held();
        let told = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&told);
        pool.execute(Process::builder(sh("exit 0")).on_exit(move |_, _| {
            wait();
            tell.store(true, Ordering::SeqCst);
        })).unwrap();
        let cat = pool.execute(Process::builder(Command::new("cat")).stdin(Stdio::piped())).unwrap();
        // One that waits for a slot in vain: two are taken, one by this.
        let slot = pool.slots().take();
        thread::scope(|scope| {
            let late = on(scope, "in-line", || pool.execute(Command::new("true")));
            sleeping("in-line", 1);
            let closing = on(scope, "closing", || pool.close());
            assert!(late.join().unwrap().unwrap_err().is_closed());
            let error = pool.execute(Command::new("true")).unwrap_err();
            assert_eq!(error.to_string(), "cannot execute `true`: the pool is closed");
            assert!(pool.try_execute(Command::new("true")).unwrap_err().is_closed() && pool.is_closed());
            assert_eq!(pool.running().len(), 1);
            // Its stdin was not closed.
            drop(cat.process().stdin().unwrap());
            cat.join().unwrap();
            sleeping("closing", 1);
            assert!(!closing.is_finished());
            drop(hold);
            closing.join().unwrap();
            assert!(told.load(Ordering::SeqCst));
        });
        drop(slot);
        assert_eq!(pool.slots().free(), 2);
        pool.close();
    }

    fn all_are_stopped_side_by_side() {
        let (pool, room) = (Pool::new(3), tempfile::tempdir().unwrap());
        let all: Vec<_> = (0..3).map(|number| {
            // Each obeys only once all were asked.
            let script = format!("trap 'mkdir {number}; while ! [ -e 0 -a -e 1 -a -e 2 ]; do :; done; exit 0' TERM; echo up; while :; do :; done");
            let job = Process::builder(sh(&script)).ready(Ready::line("up")).current_dir(room.path());
            pool.execute(job.stop(Stop::signal(Signal::TERM, LONG))).unwrap()
        }).collect();
        for execution in &all {
            wait_for(execution.process(), State::Ready);
        }
        pool.terminate(true).unwrap();
        assert!(all.iter().all(|execution| execution.join().unwrap().code() == Some(0) && !execution.exit().unwrap().forced()));
        assert_eq!(pool.slots().free(), 3);
    }

    fn who_waits_for_a_slot_hears_of_the_end_at_once() {
        let pool = Pool::new(1);
        let stubborn = Process::builder(sh("trap '' TERM; echo up; while :; do sleep 1000; done")).name("stubborn");
        let stubborn = pool.execute(stubborn.ready(Ready::line("up"))).unwrap();
        wait_for(stubborn.process(), State::Ready);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..3).map(|_| on(scope, "in-line", || pool.execute(Command::new("true")))).collect();
            sleeping("in-line", 3);
            let error = pool.terminate(SHORT).unwrap_err();
            assert!(error.is_timeout() && error.process() == "stubborn", "{error}");
            for thread in waiting {
                assert!(thread.join().unwrap().unwrap_err().is_closed());
            }
        });
        assert_eq!(pool.running().len(), 1);
        stubborn.process().kill(false).unwrap();
        pool.terminate(LONG).unwrap();
        assert_eq!(pool.slots().free(), 1);
    }

    fn a_start_beside_a_stop_does_not_escape_it() {
        for _ in 0..30 {
            let (pool, begin) = (Pool::new(4), Barrier::new(5));
            let started = thread::scope(|scope| {
                let execute = || {
                    begin.wait();
                    std::iter::from_fn(|| pool.execute(sleeper()).map_err(|error| assert!(error.is_closed(), "{error}")).ok())
                        .collect::<Vec<_>>()
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(execute)).collect();
                begin.wait();
                pool.terminate(true).unwrap();
                assert_eq!(pool.running().len(), 0);
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
            });
            // (One who was given a slot as the pool was closed had it for a moment.)
            assert_eq!(pool.slots().free(), 4);
            assert!(started.iter().all(has_ended));
        }
        assert_eq!(children(), []);
    }

    fn a_callback_executes_the_next_on_the_only_slot() {
        fn chain(pool: &Pool, left: u32, told: Sender<u32>) -> Builder {
            let pool = pool.clone();
            Process::builder(sh("exit 0")).on_exit(move |_, _| {
                if left > 0 {
                    pool.execute(chain(&pool, left - 1, told.clone())).unwrap();
                }
                told.send(left).unwrap();
            })
        }
        let (pool, (told, ends)) = (Pool::new(1), channel());
        pool.execute(chain(&pool, 20, told)).unwrap();
        assert_eq!(ends.iter().take(21).count(), 21);
        pool.close();
        assert_eq!(pool.slots().free(), 1);
    }

    fn callbacks_that_wait_for_each_other_are_told() {
        let (pool, (told, ends)) = (Pool::new(2), channel());
        // Both keep their slots, for when their callback has returned.
        let (far, both) = (Backoff::fixed(Duration::from_secs(1000)), Arc::new(Barrier::new(2)));
        for _ in 0..2 {
            let (inside, told, both) = (pool.clone(), told.clone(), Arc::clone(&both));
            let job = Process::builder(sh("exit 0")).restart(Restart::always().backoff(far.clone()).unlimited());
            pool.execute(job.on_exit(move |_, _| {
                both.wait();
                assert!(inside.try_execute(Command::new("true")).unwrap().is_none());
                told.send(inside.execute(Command::new("true")).map(drop)).unwrap();
            })).unwrap();
        }
        let error = ends.recv().unwrap().unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains("every slot is kept"), "{error}");
        assert!(!pool.is_closed());
        // The other one waits on, until one slot comes back.
        let all = pool.running();
        for execution in &all {
            execution.process().terminate(false).unwrap();
        }
        ends.recv().unwrap().unwrap();
        pool.close();
        assert_eq!(pool.slots().free(), 2);
    }

    fn a_chatty_one_may_close_the_pool_it_is_in() {
        let (pool, (told, ends)) = (Pool::new(2), channel());
        let inside = pool.clone();
        let chatty = Process::builder(sh("exec head -c 3000000 /dev/zero")).capture(1000);
        pool.execute(chatty.on_line(move |_| if !inside.is_closed() {
            inside.close();
            told.send(()).unwrap();
        })).unwrap();
        ends.recv().unwrap();
        pool.close();
        assert_eq!(pool.slots().free(), 2);
    }

    fn callbacks_may_end_the_pool_they_are_in() {
        for (stops, in_on_start, restarts) in [
            (true, false, true),
            (false, false, true),
            (true, false, false),
            (false, false, false),
            (true, true, false),
            (false, true, false),
        ] {
            let (pool, (told, ends), both) = (Pool::new(3), channel(), Arc::new(Barrier::new(2)));
            for number in 0..2 {
                let (inside, told, both, once) = (pool.clone(), told.clone(), Arc::clone(&both), AtomicBool::new(true));
                let end = move || if once.swap(false, Ordering::SeqCst) {
                    // Each is in its own.
                    both.wait();
                    if stops { inside.terminate(true).unwrap() } else { inside.close() }
                    told.send(number).unwrap();
                };
                let far = Restart::always().backoff(Backoff::fixed(Duration::from_secs(1000))).unlimited();
                let job = Process::builder(sh("exec sleep 0.01")).restart(if restarts { far } else { Restart::never() });
                let job = match in_on_start {
                    true => job.on_start(move |_| end()).on_exit(|_, _| ()),
                    false => job.on_exit(move |_, _| end()),
                };
                pool.execute(job).unwrap();
            }
            let mut both: Vec<_> = ends.iter().take(2).collect();
            both.sort();
            assert_eq!(both, [0, 1]);
            pool.terminate(true).unwrap();
            assert_eq!(pool.slots().free(), 3);
        }
    }

    fn an_execution_dropped_goes_on() {
        let (pool, room) = (Pool::new(1), tempfile::tempdir().unwrap());
        drop(pool.execute(Process::builder(sh("sleep 0.05; mkdir done")).current_dir(room.path())).unwrap());
        assert_eq!(pool.running().len(), 1);
        pool.close();
        assert!(room.path().join("done").exists());
    }

    fn a_pool_dropped_stops_what_runs() {
        let slots = Slots::new(3);
        let pool = Pool::with(slots.clone());
        let executions = [pool.execute(sleeper()).unwrap(), pool.execute(sleeper()).unwrap()];
        let free = pool.execute(sleeper()).unwrap();
        free.process().detach();
        let copy = pool.clone();
        drop(pool);
        assert_eq!(copy.running().len(), 3);
        drop(copy);
        for execution in &executions {
            assert!(execution.join().unwrap().requested());
        }
        assert_eq!(slots.free(), 2);
        assert!(is_alive(free.status().pid.unwrap()));
        free.process().kill(true).unwrap();
        drop(slots.take_timeout(LONG).unwrap());
        // Without any handle.
        let pool = Pool::with(slots.clone());
        let pid = pool.execute(sh("exec sleep 1000")).unwrap().status().pid.unwrap();
        drop(pool);
        eventually("it is gone", || !is_alive(pid));
        let all: Vec<_> = (0..3).map(|_| slots.take_timeout(LONG).expect("all come back")).collect();
        drop(all);
    }

    fn pools_share_slots() {
        let slots = Slots::named("shared", 2).unwrap();
        let (one, other) = (Pool::with(slots.clone()), Pool::with(Slots::named("shared", 2).unwrap()));
        let slot = slots.take();
        let first = one.execute(sleeper()).unwrap();
        assert!(other.try_execute(sleeper()).unwrap().is_none());
        thread::scope(|scope| {
            let second = on(scope, "in-line", || other.execute(sleeper()).unwrap());
            sleeping("in-line", 1);
            first.process().kill(true).unwrap();
            assert_eq!(second.join().unwrap().id(), 1);
        });
        assert_eq!((one.running().len(), other.running().len()), (0, 1));
        // What one does is nothing to the other.
        one.terminate(true).unwrap();
        assert!(!other.is_closed() && other.running().len() == 1);
        drop(slot);
        drop(other.execute(sleeper()).unwrap());
        other.terminate(true).unwrap();
        assert_eq!(slots.free(), 2);
    }

    fn there_is_no_thread_for_each() {
        let pool = Pool::new(100);
        for _ in 0..100 {
            pool.execute(sleeper()).unwrap();
        }
        let threads = crate::support::thread_names();
        assert!(threads.len() <= 12, "{threads:?}");
        pool.terminate(true).unwrap();
        assert_eq!(pool.slots().free(), 100);
    }
}
