//! `subscribe`.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pkit::{Backoff, Event, EventKind, Events, Process, Ready, Restart, Signal, State};

use crate::support::{LONG, eventually, sh, tests, wait_for};

/// What happened, without the details that differ each time.
fn brief(event: &Event) -> String {
    match &event.kind {
        EventKind::Exited(exit) => format!("exited {}", exit.reason()),
        EventKind::Backoff(_) => "backoff".into(),
        other => other.to_string(),
    }
}

async fn next(events: &mut Events) -> Option<Event> {
    poll_fn(|context| events.poll_next(context)).await
}

/// All that a process tells until it is gone.
async fn all(mut events: Events) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(event) = next(&mut events).await {
        told.push(brief(&event));
    }
    told
}

type Told = Pin<Box<dyn Future<Output = Vec<String>> + Send>>;

/// `spawn` gives a task to a runtime; what it returns waits for the task.
fn ten_runs_are_told(spawn: impl FnOnce(Told) -> Box<dyn FnOnce() -> Vec<String>>) {
    let process = Process::new(sh("exit 3"));
    let wait = spawn(Box::pin(all(process.subscribe())));
    for _ in 0..10 {
        process.start(true).unwrap();
        process.join().unwrap();
    }
    drop(process);
    assert_eq!(wait(), ["started", "ready", "exited exit code 3"].repeat(10));
}

tests! {
    fn a_whole_life_in_order() {
        let process = Process::builder(sh("echo up; exec sleep 1000"))
            .name("life")
            .ready(Ready::line("up"))
            .restart(Restart::on_failure().backoff(Backoff::fixed(Duration::from_millis(1))).limit(3, LONG))
            .build()
            .unwrap();
        let events = process.subscribe();
        let first = process.start(true).unwrap();
        process.signal(Signal::STOP).unwrap();
        wait_for(&process, State::Paused);
        process.signal(Signal::CONT).unwrap();
        wait_for(&process, State::Ready);
        process.signal(Signal::KILL).unwrap();
        process.wait_until(LONG, |status| status.restarts == 1 && status.state == State::Ready).unwrap();
        process.terminate(true).unwrap();
        drop(process);
        let events: Vec<Event> = events.collect();
        let told: Vec<String> = events.iter().map(brief).collect();
        assert_eq!(told, [
            "started", "ready", "sent SIGSTOP", "paused", "sent SIGCONT", "continued", "sent SIGKILL",
            "exited killed by SIGKILL", "backoff",
            "started", "ready", "stopping", "sent SIGTERM", "exited killed by SIGTERM",
        ]);
        assert!(events.iter().all(|event| &*event.process == "life"));
        assert!(events.windows(2).all(|two| two[0].at <= two[1].at));
        assert!(events[..8].iter().all(|event| event.pid == Some(first)));
        assert!(events[9..].iter().all(|event| event.pid.is_some_and(|pid| pid != first)));
    }

    fn a_slow_subscriber_misses_the_oldest() {
        let process = Process::new(sh("exit 0"));
        let mut slow = process.subscribe();
        // Three events each.
        for _ in 0..400 {
            process.start(true).unwrap();
            process.join().unwrap();
        }
        assert_eq!(slow.missed(), 1200 - 1024);
        drop(process);
        assert_eq!(std::iter::from_fn(|| slow.try_next()).count(), 1024);
        assert!(slow.next().is_none());
    }

    fn every_subscriber_gets_its_own() {
        let process = Process::new(sh("exit 0"));
        let early = process.subscribe();
        process.start(true).unwrap();
        process.join().unwrap();
        let late = process.subscribe();
        drop(process.subscribe());
        process.start(true).unwrap();
        process.join().unwrap();
        drop(process);
        assert_eq!((early.count(), late.count()), (6, 3));
    }

    fn the_iterator_ends_with_the_process() {
        let process = Process::new(sh("exec sleep 1000"));
        process.start(true).unwrap();
        let events = process.subscribe();
        let reader = thread::spawn(move || events.map(|event| brief(&event)).collect::<Vec<_>>());
        drop(process);
        assert_eq!(reader.join().unwrap(), ["stopping", "sent SIGTERM", "exited killed by SIGTERM"]);
        let never_started = Process::new(sh("exit 0"));
        let mut events = never_started.subscribe();
        drop(never_started);
        assert!(events.next().is_none() && events.next_timeout(LONG).is_none());
    }

    fn a_limit() {
        let process = Process::new(sh("exit 0"));
        let mut events = process.subscribe();
        let before = Instant::now();
        assert!(events.next_timeout(Duration::from_millis(30)).is_none());
        assert!(before.elapsed() >= Duration::from_millis(30));
        process.start(true).unwrap();
        assert!(matches!(events.next_timeout(LONG).unwrap().kind, EventKind::Started));
        process.join().unwrap();
    }

    fn polled_by_tokio() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        ten_runs_are_told(|told| {
            let task = runtime.spawn(told);
            Box::new(move || runtime.block_on(task).unwrap())
        });
    }

    fn polled_by_smol() {
        let executor = Arc::new(smol::Executor::new());
        ten_runs_are_told(|told| {
            let task = executor.spawn(told);
            let thread = thread::spawn(move || smol::future::block_on(executor.run(task)));
            Box::new(move || thread.join().unwrap())
        });
    }

    fn polled_by_smol_for_several_at_once() {
        let executor = smol::LocalExecutor::new();
        let processes: Vec<Process> = (1..=3).map(|code| Process::new(sh(&format!("read x; exit {code}")))).collect();
        let tasks: Vec<_> = processes.iter().map(|process| executor.spawn(all(process.subscribe()))).collect();
        // One thread runs all of these, and the tasks wait for what the last one does.
        let driver = executor.spawn(async move {
            for process in processes {
                process.start(false).unwrap();
                process.exited().await.unwrap();
            }
        });
        smol::future::block_on(executor.run(async {
            driver.await;
            for (code, task) in (1..).zip(tasks) {
                assert_eq!(task.await, ["started".to_owned(), "ready".to_owned(), format!("exited exit code {code}")]);
            }
        }));
    }

    fn a_subscriber_that_is_gone_costs_nothing() {
        let process = Process::new(sh("exec sleep 1000"));
        let mut events = process.subscribe();
        let thread = thread::spawn(move || smol::future::block_on(next(&mut events)));
        process.start(true).unwrap();
        assert!(matches!(thread.join().unwrap().unwrap().kind, EventKind::Started));
        process.terminate(true).unwrap();
        eventually("it has ended", || !process.is_alive());
    }
}
