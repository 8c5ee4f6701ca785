//! Everything at once, from many threads, on one process, and on the one that takes its place when it is dropped.
//!
//! `PKIT_STRESS_SECONDS` says for how long (default 5).

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pkit::{Backoff, Builder, EventKind, Process, Restart, RestartMode, Signal, State, Stop};

use crate::support::{LONG, children, eventually, sh, tests};

const THREADS: u64 = 8;

tests! {
    fn eight_threads_on_one_process() {
        let room = Room::new();
        torture(&room, || room.builder());
    }

    fn eight_threads_on_one_process_with_a_policy_and_output() {
        let room = Room::new();
        let lines = Arc::new(AtomicU64::new(0));
        torture(&room, || {
            let always = Restart::always().backoff(Backoff::fixed(Duration::from_millis(2))).unlimited();
            let count = Arc::clone(&lines);
            let builder = room.builder().restart(always).stdout(pkit::Stdio::captured());
            builder.on_line(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
        });
        assert!(lines.load(Ordering::Relaxed) > 0);
    }

    fn dropped_while_everything_is_going_on() {
        let room = Room::new();
        let mut random = Random::new(99);
        let until = Instant::now() + seconds();
        while Instant::now() < until {
            let process = room.builder().restart(Restart::always()).capture(1024).build().unwrap();
            thread::scope(|scope| {
                for _ in 0..4 {
                    let (process, mut random) = (process.clone(), Random::new(random.next()));
                    scope.spawn(move || {
                        for _ in 0..random.below(6) {
                            // One that waits for an end by itself could wait for ever here.
                            operate(&process, random.below(OPERATIONS - WAITING), &mut random);
                        }
                        drop(process);
                    });
                }
                drop(process);
            });
        }
        eventually("all of them are gone", || children().is_empty());
        println!("{} runs", room.every_start_was_told_an_end());
        room.no_two_lived_at_once();
    }

    fn a_stop_returns_though_somebody_starts_it_again_at_once() {
        let process = Process::new(pkit::Command::new("sleep").arg("1000"));
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !ends.load(Ordering::Relaxed) {
                        // It is running, most of the time.
                        let _ = process.start(false);
                    }
                });
            }
            for _ in 0..100 {
                process.wait_until(LONG, |status| status.pid.is_some()).unwrap();
                let result = process.terminate(Duration::from_secs(20));
                if result.is_err() {
                    ends.store(true, Ordering::Relaxed);
                }
                result.unwrap();
            }
            ends.store(true, Ordering::Relaxed);
        });
        process.kill(LONG).unwrap();
    }
}

/// What the runs of a test share.
struct Room {
    directory: tempfile::TempDir,
    started: Arc<AtomicU64>,
    exited: Arc<AtomicU64>,
}

impl Room {
    fn new() -> Room {
        Room { directory: tempfile::tempdir().unwrap(), started: Arc::default(), exited: Arc::default() }
    }

    /// Each run holds a lock as long as anything of it lives, and notes when it cannot have it.
    fn builder(&self) -> Builder {
        let script = "echo up; exec 9>\"$1/lock-$2\"; flock -n 9 || echo \"$$\" >> \"$1/overlaps\"; exec sleep 0.0$3";
        // A lock for each process of a test, and runs that end by themselves before, while and after others stop them.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed).to_string();
        let command = sh(script).arg("sh").arg(self.directory.path()).args([&number, "2"]).clone();
        let (started, exited) = (Arc::clone(&self.started), Arc::clone(&self.exited));
        Process::builder(command)
            .stop(Stop::signal(Signal::TERM, Duration::from_millis(20)))
            .stdout(pkit::Stdio::null())
            .on_start(move |_| {
                started.fetch_add(1, Ordering::Relaxed);
            })
            .on_exit(move |_, _| {
                exited.fetch_add(1, Ordering::Relaxed);
            })
    }

    fn every_start_was_told_an_end(&self) -> u64 {
        let (started, exited) = (&self.started, &self.exited);
        // A callback may be on its way still.
        eventually("on_exit was called once for each on_start", || {
            started.load(Ordering::Relaxed) == exited.load(Ordering::Relaxed)
        });
        started.load(Ordering::Relaxed)
    }

    fn no_two_lived_at_once(&self) {
        let overlaps: &Path = &self.directory.path().join("overlaps");
        assert!(!overlaps.exists(), "two lived at once: {:?}", std::fs::read_to_string(overlaps));
    }
}

/// One process at a time that all threads use, and those before it, which only go on as long as somebody uses them.
struct Torture<'a> {
    builder: &'a (dyn Fn() -> Builder + Sync),
    current: Mutex<Arc<Process>>,
    /// The handles of a process are gone when whoever uses it last is done.
    former: Mutex<Vec<Weak<Process>>>,
    counters: Mutex<Vec<JoinHandle<Told>>>,
}

impl<'a> Torture<'a> {
    fn new(builder: &'a (dyn Fn() -> Builder + Sync)) -> Torture<'a> {
        let (process, counter) = Torture::process(builder);
        let (current, former, counters) = (Mutex::new(process), Mutex::default(), Mutex::new(vec![counter]));
        Torture { builder, current, former, counters }
    }

    fn process(builder: &dyn Fn() -> Builder) -> (Arc<Process>, JoinHandle<Told>) {
        let process = builder().build().unwrap();
        let events = process.subscribe();
        (Arc::new(process), thread::spawn(move || count_events(events)))
    }

    fn current(&self) -> Arc<Process> {
        Arc::clone(&self.current.lock().unwrap())
    }

    /// A new process in place of the one that is there, whatever that is doing: its last handle goes now, or in some other
    /// thread in a moment.
    fn replace(&self) {
        let (process, counter) = Torture::process(self.builder);
        let mut current = self.current.lock().unwrap();
        self.counters.lock().unwrap().push(counter);
        let old = std::mem::replace(&mut *current, process);
        drop(current);
        self.former.lock().unwrap().push(Arc::downgrade(&old));
    }

    /// One may wait for the end of a process that now nobody else brings about.
    fn release_who_waits(&self) {
        let mut former = self.former.lock().unwrap();
        former.retain(|process| process.strong_count() > 0);
        for process in former.iter().filter_map(Weak::upgrade) {
            process.terminate(false).unwrap();
        }
    }
}

fn torture(room: &Room, builder: impl Fn() -> Builder + Sync) {
    let torture = Torture::new(&builder);
    let ends = AtomicBool::new(false);
    let (done, working) = (AtomicU64::new(0), AtomicU64::new(THREADS));
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (torture, ends, done, working) = (&torture, &ends, &done, &working);
            scope.spawn(move || {
                let mut random = Random::new(number);
                while !ends.load(Ordering::Relaxed) {
                    match random.below(REPLACED_ONCE_IN) {
                        0 => torture.replace(),
                        _ => operate(&torture.current(), random.below(OPERATIONS), &mut random),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                working.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let until = Instant::now() + seconds();
        while Instant::now() < until {
            // It waits for changes, of which there are plenty.
            let _ = torture.current().wait_until(Duration::from_millis(50), |_| Instant::now() >= until);
            torture.release_who_waits();
        }
        ends.store(true, Ordering::Relaxed);
        eventually("all threads came back", || {
            let process = torture.current();
            process.terminate(false).unwrap();
            torture.release_who_waits();
            let _ = process.wait_until(Duration::from_millis(20), |status| status.pid.is_none());
            working.load(Ordering::Relaxed) == 0
        });
    });
    let Torture { current, former, counters, .. } = torture;
    assert!(former.into_inner().unwrap().iter().all(|process| process.strong_count() == 0));
    let process = Arc::into_inner(current.into_inner().unwrap()).unwrap();
    process.terminate(LONG).unwrap();
    // It is as good as new: one run in peace to its own end.
    process.start(true).unwrap();
    process.restart(RestartMode::Join, LONG).unwrap();
    process.terminate(LONG).unwrap();
    process.join_timeout(LONG).unwrap().expect("it is over");
    assert_eq!((process.state(), process.pid()), (State::Idle, None));
    eventually("everything is gone at the end", || children().is_empty());
    let generations = process.status().generation;
    drop(process);
    let told: Vec<Told> = counters.into_inner().unwrap().into_iter().map(|counter| counter.join().unwrap()).collect();
    assert!(told.iter().all(|told| told.starts == told.exits), "each run's end was told once");
    let last = told.last().unwrap();
    assert_eq!(last.starts + last.failures, generations);
    let starts: u64 = told.iter().map(|told| told.starts).sum();
    assert_eq!(room.every_start_was_told_an_end(), starts);
    room.no_two_lived_at_once();
    println!("{starts} runs of {} processes, {} operations", told.len(), done.load(Ordering::Relaxed));
    assert!(starts > 0 && told.len() > 1);
}

/// What the events of a process were.
#[derive(Default)]
struct Told {
    starts: u64,
    failures: u64,
    exits: u64,
}

/// Until the last handle is gone.
fn count_events(mut events: pkit::Events) -> Told {
    let mut told = Told::default();
    for event in &mut events {
        match event.kind {
            EventKind::Started => told.starts += 1,
            EventKind::StartFailed(error) => {
                println!("{error}");
                told.failures += 1;
            }
            EventKind::Exited(_) => told.exits += 1,
            _ => {}
        }
    }
    assert_eq!(events.missed(), 0);
    told
}

/// So that each has time to get into whatever state it can.
const REPLACED_ONCE_IN: u64 = 100;
const OPERATIONS: u64 = 16;
/// The last ones of them wait for an end that may be long in coming.
const WAITING: u64 = 2;

/// Any answer is right, as long as there is one.
fn operate(process: &Process, operation: u64, random: &mut Random) {
    let limit = Duration::from_millis(random.below(30));
    match operation {
        0 => drop(process.start(false)),
        1 => drop(process.start(true)),
        2 => drop(process.start(limit)),
        3 => drop(process.terminate(false)),
        4 => drop(process.terminate(limit)),
        5 => drop(process.kill(false)),
        6 => drop(process.kill(limit)),
        7 => drop(process.restart(RestartMode::Kill, limit)),
        8 => drop(process.restart(RestartMode::Terminate, false)),
        9 => drop(process.restart(RestartMode::Join, limit)),
        10 => drop(process.signal([Signal::STOP, Signal::CONT, Signal::USR1][random.below(3) as usize])),
        11 => drop(process.join_timeout(limit)),
        12 => {
            let status = process.status();
            assert!(status.pid.is_none() || status.state != State::Idle, "{status:?}");
            assert!(status.next_start.is_none() || status.state == State::Backoff, "{status:?}");
        }
        13 => drop(process.clone()),
        14 => drop(process.terminate(true)),
        _ => wait_for_an_end(process),
    }
}

/// A join that may wait as long as the process is started again and again, so somebody has to stop it.
fn wait_for_an_end(process: &Process) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.try_lock();
    if turn.is_ok() && process.state() != State::Paused {
        drop(process.terminate(false));
        drop(process.join());
    }
}

fn seconds() -> Duration {
    let seconds = std::env::var("PKIT_STRESS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// xorshift: the same numbers from the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}
