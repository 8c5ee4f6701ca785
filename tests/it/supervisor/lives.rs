//! What a supervisor has to survive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use pkit::{EventKind, Process, State, Strategy, Supervisor};

use super::{SHORT, kill, lasting, row};
use crate::support::{LONG, children, eventually, sh, tests};

tests! {
    fn a_callback_may_ask_for_anything_and_wait_for_nothing() {
        let (told, tells) = mpsc::channel();
        let stack: Arc<Mutex<Option<Supervisor>>> = Arc::default();
        let ours = Arc::clone(&stack);
        let asks = move |_: &Process, _: &pkit::Exit| {
            let Some(stack) = ours.lock().unwrap().take() else { return };
            let refused = [stack.stop(true), stack.join().map(drop), stack.restart("a", true), stack.start(SHORT)];
            let all = refused.iter().all(|result| result.as_ref().unwrap_err().to_string().contains("a callback of its child `a`"));
            told.send((all, stack.stop(false).is_ok())).unwrap();
        };
        let builder = lasting("a").on_exit(asks);
        let supervisor = Supervisor::builder().child(builder).child(lasting("b")).build().unwrap();
        supervisor.start(true).unwrap();
        *stack.lock().unwrap() = Some(supervisor.clone());
        kill(&supervisor, "a");
        assert_eq!(tells.recv_timeout(LONG).unwrap(), (true, true));
        supervisor.join().unwrap();
    }

    fn a_leader_that_leaves_somebody_behind_has_a_successor_when_that_is_gone() {
        let script = "(trap '' TERM; echo up; while :; do sleep 1; done) & wait; exit 1";
        let builder = Process::builder(sh(script)).name("a").ready(pkit::Ready::line("up")).restart(pkit::Restart::always());
        let stack = Supervisor::builder().child(builder).build().unwrap();
        stack.start(true).unwrap();
        let leader = super::pid(&stack, "a");
        let left = std::fs::read_to_string(format!("/proc/{leader}/task/{leader}/children")).unwrap();
        let left: u32 = left.trim().parse().unwrap();
        let began = Instant::now();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(leader as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
        let events = stack.subscribe();
        super::restarted(&stack, "a", leader);
        assert!(began.elapsed() >= Duration::from_secs(2), "it had its time");
        assert!(!crate::support::is_alive(left));
        drop(events);
    }

    fn its_events_end_with_it_and_who_has_a_child_may_keep_it() {
        let row = row(&["a", "b"]).build().unwrap();
        let events = row.subscribe();
        row.start(true).unwrap();
        let a = row.process("a").unwrap();
        assert!(a.start(true).unwrap_err().is_running());
        drop(row);
        assert!(events.count() > 0, "they end");
        // It is told of the end by the same thread that lets it go.
        eventually("it is free", || a.start(true).is_ok());
        a.terminate(true).unwrap();
    }

    fn one_whose_policy_gives_up_may_be_removed_in_its_callback() {
        let stack: Arc<Mutex<Option<Supervisor>>> = Arc::default();
        let ours = Arc::clone(&stack);
        let removes = move |process: &Process, _: &pkit::Exit| {
            let Some(stack) = ours.lock().unwrap().take() else { return };
            stack.remove(process.name(), false).unwrap();
        };
        let bad = lasting("bad").restart(pkit::Restart::always().limit(0, LONG)).on_exit(removes);
        let supervisor = Supervisor::builder().child(lasting("a")).child(bad).build().unwrap();
        supervisor.start(true).unwrap();
        *stack.lock().unwrap() = Some(supervisor.clone());
        kill(&supervisor, "bad");
        eventually("it is gone", || supervisor.process("bad").is_none());
        assert_eq!(supervisor.status().state, State::Ready, "the others go on");
    }

    fn all_of_it_at_once_from_many_threads() {
        let over = AtomicBool::new(false);
        let names = ["a", "b", "c", "d"];
        let stack = row(&names).strategy(Strategy::RestForOne).build().unwrap();
        let events = stack.subscribe();
        std::thread::scope(|scope| {
            for number in 0..4_usize {
                let (stack, over) = (&stack, &over);
                scope.spawn(move || {
                    let mut turn = number;
                    while !over.load(Ordering::Relaxed) {
                        turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407 + number);
                        let name = names[(turn >> 33) % names.len()];
                        match (turn >> 40) % 12 {
                            0 => _ = stack.start(SHORT),
                            1 => _ = stack.start(true),
                            2 => _ = stack.stop(false),
                            3 => _ = stack.stop(true),
                            4 => _ = stack.kill(true),
                            5..=6 => _ = stack.restart(name, SHORT),
                            7..=8 => _ = stack.process(name).map(|process| process.signal(pkit::Signal::KILL)),
                            9 => _ = stack.process(name).map(|process| process.terminate(false)),
                            10 => _ = stack.add(lasting("extra"), SHORT),
                            _ => _ = stack.remove("extra", SHORT),
                        }
                    }
                });
            }
            let began = Instant::now();
            eventually("it has had a while", || began.elapsed() > Duration::from_secs(5));
            over.store(true, Ordering::Relaxed);
            // Some may wait for what nobody does any more.
            eventually("all are at rest", || {
                let _ = stack.stop(SHORT);
                matches!(stack.status().state, State::Idle | State::Failed)
            });
        });
        stack.stop(true).unwrap();
        assert!(children().is_empty());
        let missed = events.missed();
        drop(events);
        // And it is as good as new.
        stack.start(true).unwrap();
        let account = stack.subscribe();
        assert_eq!(stack.status().state, State::Ready, "{missed} events were missed");
        stack.stop(true).unwrap();
        assert!(account.take_while(|event| !matches!(event.kind, EventKind::AllStopped)).count() > 0);
    }
}
