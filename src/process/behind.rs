//! What is decided while the reaper is behind: of what has happened by then it has not heard.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Ready;
use super::{Command, Process, RestartMode, Stdio};
use crate::exit::Exit;
use crate::policy::{Backoff, Restart};
use crate::reaper::{Reaper, Watcher};
use crate::signal::Signal;
use crate::stop::Stop;
use crate::sys;
use crate::sys::fork::tests::in_fork;
use crate::sys::pidfd::Pidfd;

const LONG: Duration = Duration::from_secs(60);

/// Until it is dropped the reaper does nothing.
struct Held(#[expect(dead_code, reason = "its drop")] Sender<()>);

struct Gate {
    came: Sender<()>,
    opens: Mutex<Receiver<()>>,
}

impl Watcher for Gate {
    fn ready(self: Arc<Self>, _key: u64) {}

    fn due(self: Arc<Self>, _now: Instant) {
        self.came.send(()).unwrap();
        let _ = self.opens.lock().unwrap().recv();
    }

    fn look(self: Arc<Self>) {}
}

impl Held {
    fn now() -> Held {
        let ((came, has_come), (open, opens)) = (channel(), channel());
        let gate = Arc::new(Gate { came, opens: Mutex::new(opens) });
        Reaper::get().ensure().unwrap();
        Reaper::get().set_timer(Reaper::get().new_id(), None, Some(Instant::now()), &gate);
        has_come.recv().unwrap();
        Held(open)
    }
}

/// Somebody else kills it, and it is dead.
fn die(process: &Process) {
    let leader = process.leader().unwrap();
    leader.signal(Signal::KILL.as_raw()).unwrap();
    sys::wait::wait_for_end(leader.as_fd());
}

#[test]
fn who_stops_a_service_that_is_dead_starts_none() {
    let ways: [fn(Process); 5] = [
        |service| service.terminate(LONG).unwrap(),
        |service| service.kill(LONG).unwrap(),
        |service| service.abandon(),
        |service| assert!(service.restart(RestartMode::Join, LONG).is_ok() && service.kill(LONG).is_ok()),
        drop,
    ];
    in_fork(|| {
        for (n, way) in ways.into_iter().enumerate() {
            let always = Restart::always().backoff(Backoff::none());
            let service = Process::builder(Command::new("sleep").arg("1000")).restart(always).build().unwrap();
            service.start(true).unwrap();
            let events = service.subscribe();
            let held = Held::now();
            die(&service);
            let release = std::thread::spawn(move || drop(held));
            way(service);
            release.join().unwrap();
            let said: Vec<String> = events.map(|event| event.to_string()).collect();
            let (started, stopping) = ("started", "stopping");
            let count = |what| said.iter().filter(|event| event.contains(what)).count();
            // The one that was there before is not in it.
            assert_eq!(count(started), usize::from(n == 3), "{n}: {said:?}");
            assert_eq!(count(stopping), usize::from(n == 3), "{n}: {said:?}");
        }
    });
}

#[test]
fn what_was_said_and_done_in_time_counts() {
    /// Less than what is forgiven to who comes late.
    const LATE: Duration = Duration::from_millis(20);
    const LIMIT: Duration = Duration::from_millis(200);
    let ready_after = |script: &str| {
        let began = Instant::now();
        let builder = Process::builder(Command::new("sh").args(["-c", script])).stdout(Stdio::piped());
        let process = builder.ready(Ready::fd(3)).ready_within(LIMIT).build().unwrap();
        let held = Held::now();
        process.start(false).unwrap();
        let stdout = process.stdout().unwrap();
        BufReader::new(stdout).read_line(&mut String::new()).unwrap();
        let in_time = began.elapsed() < LIMIT;
        // (It may have ended in its start.)
        if let Some(leader) = process.leader().filter(|_| !script.contains("exec")) {
            sys::wait::wait_for_end(leader.as_fd());
        }
        let in_time = in_time && began.elapsed() < LIMIT;
        let (_never, over) = channel::<()>();
        let _ = over.recv_timeout((LIMIT + LATE).saturating_sub(began.elapsed()));
        drop(held);
        in_time.then_some(process)
    };
    let in_time = |script: &str| std::iter::repeat_with(|| ready_after(script)).flatten().next().unwrap();
    in_fork(|| {
        let ready = in_time("echo >&3; echo said; exec sleep 1000");
        assert!(smol::block_on(ready.ready()).is_ok());
        ready.kill(LONG).unwrap();
        let ready = in_time("printf '%1000s\\n' '' >&3; echo said; exec sleep 1000");
        assert!(smol::block_on(ready.ready()).is_ok(), "the newline comes behind much else");
        ready.kill(LONG).unwrap();
        let ended: Exit = in_time("echo ends; exit 3").join().unwrap();
        assert_eq!((ended.code(), ended.fault()), (Some(3), None));
    });
}

#[test]
fn what_it_left_behind_and_ended_in_time_is_not_killed() {
    const GRACE: Duration = Duration::from_millis(300);
    let script = "trap 'exit 0' TERM; exec 4<&0
sh -c 'trap \"\" TERM; echo $$; read line' <&4 &
while :; do sleep 0.01; done";
    let stop_in_time = || {
        let command = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).clone();
        let process = Process::builder(command).stop(Stop::signal(Signal::TERM, GRACE)).build().unwrap();
        process.start(true).unwrap();
        let (stdin, stdout, mut line) = (process.stdin().unwrap(), process.stdout().unwrap(), String::new());
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let other = Pidfd::open(line.trim().parse().unwrap()).unwrap();
        let asked = Instant::now();
        process.terminate(false).unwrap();
        // It is known that the leader has ended, and the other has not.
        while process.pid().is_some() {
            std::thread::yield_now();
        }
        let held = Held::now();
        drop(stdin);
        while !sys::event::is_readable(other.as_fd()) && asked.elapsed() < GRACE {}
        let in_time = asked.elapsed() < GRACE;
        let (_never, over) = channel::<()>();
        let _ = over.recv_timeout((GRACE + Duration::from_millis(20)).saturating_sub(asked.elapsed()));
        drop(held);
        let exit = process.join().unwrap();
        in_time.then_some(exit)
    };
    in_fork(|| {
        let exit = std::iter::repeat_with(stop_in_time).flatten().next().unwrap();
        assert_eq!((exit.code(), exit.requested(), exit.forced()), (Some(0), true, false));
    });
}

#[test]
fn what_ended_before_its_grace_was_over_is_not_killed() {
    const GRACE: Duration = Duration::from_millis(200);
    in_fork(|| {
        let script = "trap 'exit 0' TERM; echo >&3; while :; do sleep 0.01; done";
        let stop = Stop::signal(Signal::TERM, GRACE);
        let process =
            Process::builder(Command::new("sh").args(["-c", script])).ready(Ready::fd(3)).stop(stop).build().unwrap();
        process.start(true).unwrap();
        let held = Held::now();
        let leader = process.leader().unwrap();
        let asked = Instant::now();
        process.terminate(false).unwrap();
        sys::wait::wait_for_end(leader.as_fd());
        let (_never, over) = channel::<()>();
        let _ = over.recv_timeout((GRACE + Duration::from_millis(20)).saturating_sub(asked.elapsed()));
        drop(held);
        let exit = process.join().unwrap();
        assert_eq!((exit.code(), exit.requested(), exit.forced()), (Some(0), true, false));
    });
}
