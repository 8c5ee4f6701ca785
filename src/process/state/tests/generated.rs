//! Lives by the hundred thousand.
//!
//! A sequence is a list of numbers; each picks one of the things that can happen in the world as it is then, so that
//! short sequences go deep and shrink well. In the end everyone is asked to stop, and has to.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{Event, Rules};
use super::happenings::{EVENTS_THAT_MAY_BE_MISPLACED, Happening::*, is_misplaced, possible};
use super::world::{Live, PERMANENT, Scene, World};
use crate::exit::ExitReason;
use crate::policy::{Backoff, Restart};
use crate::signal::Signal;
use crate::stop::{Stop, Survivors};

const EVENTS: usize = 40;

const SECOND: Duration = Duration::from_secs(1);
const REASONS: [ExitReason; 5] =
    [ExitReason::Exited(0), ExitReason::Exited(1), PERMANENT, ExitReason::Signaled(Signal::TERM), ExitReason::Lost];
const ERRNOS: [i32; 3] = [libc::EAGAIN, libc::ENOENT, libc::ETXTBSY];

impl World {
    fn happen(&mut self, number: u16) {
        let [pick, how] = number.to_le_bytes();
        let possible = possible(&self.scene);
        match possible[usize::from(pick) % possible.len()] {
            ByHand(event) => self.by_hand(event),
            Created => {
                self.feed(Event::Spawned);
                let live = self.live();
                [live.pipes_open, live.answers_at_once] = [how & 1 == 0, how & 2 == 0];
            }
            Refused => drop(self.feed(Event::SpawnFailed(ERRNOS[usize::from(how) % ERRNOS.len()]))),
            LeaderEnds => self.leader_ends(REASONS[usize::from(how) % REASONS.len()]),
            Fork => self.live().others = true,
            OthersEnd => self.live().others = false,
            Answer => self.answer_if_asked(),
            PipesClose => {
                self.live().pipes_open = false;
                self.feed(Event::Drained);
            }
            Reported => drop(self.feed(Event::Reported)),
            Says(event) => self.leader_says(event),
            Early => self.tick_early(u32::from(how)),
            OnTime => self.tick(Duration::ZERO),
            Late => self.tick(SECOND / 16 * u32::from(how)),
            Stale => self.stale(how),
            Misplaced => self.misplaced(how),
        }
    }

    fn by_hand(&mut self, event: Event) {
        let asks = matches!(event, Event::Stop | Event::Kill);
        let in_a_run = matches!(self.scene, Scene::Spawning { .. } | Scene::Live(_) | Scene::Reporting);
        match event {
            Event::Last if in_a_run => self.last += 1,
            Event::NotLast if in_a_run => self.last = self.last.saturating_sub(1),
            Event::Start | Event::Launch | Event::Permit | Event::NotLast => {}
            _ => self.stopped = true,
        }
        match &mut self.scene {
            Scene::Spawning { requested, killed, .. } => {
                *requested |= asks;
                *killed |= event == Event::Kill;
            }
            Scene::Live(live) if live.ended.is_none() => live.requested |= asks,
            Scene::Live(live) if event == Event::Stop => live.stopped_since = true,
            Scene::Backoff | Scene::Held if asks || event == Event::Last => self.scene = Scene::Idle,
            Scene::Live(_) | Scene::Backoff | Scene::Held | Scene::Idle | Scene::Failed | Scene::Reporting => {}
        }
        let before = self.scene.clone();
        let hurries = event == Event::Stop && self.hurry();
        let acted = self.feed(event);
        match before {
            Scene::Spawning { .. } => assert!(!acted, "there is nothing yet"),
            Scene::Live(live) => {
                let up = live.ended.is_none();
                let must = match event {
                    Event::Stop => hurries || up && !live.is_climbing(),
                    Event::Kill => !live.draining,
                    _ => false,
                };
                assert_eq!(acted, must, "{event:?}");
            }
            Scene::Idle | Scene::Failed | Scene::Backoff | Scene::Held | Scene::Reporting => {
                assert_eq!(acted, matches!(event, Event::Start | Event::Launch | Event::Permit));
            }
        }
    }

    fn leader_ends(&mut self, reason: ExitReason) {
        let now = self.now;
        self.live().ended = Some((reason, now));
        self.feed(Event::LeaderExited(reason));
    }

    fn answer_if_asked(&mut self) {
        if self.live().asked {
            let answer = self.answer();
            self.feed(answer);
        }
    }

    fn leader_says(&mut self, event: Event) {
        let before = self.live().clone();
        let watchdog = self.rules.watchdog.and_then(|limit| self.now.checked_add(limit));
        match event {
            Event::Watchdog if before.watchdog_by.is_some() => self.live().watchdog_by = watchdog,
            Event::AnnouncedStop => {
                let by = self.now.checked_add(self.rules.stop.first_grace());
                let live = self.live();
                if !live.announced && !live.is_climbing() {
                    live.gone_by = by;
                }
                live.announced = true;
                [live.ready_by, live.watchdog_by] = [None, None];
            }
            _ => {}
        }
        let acted = self.feed(event);
        let must = match event {
            Event::Ready => !before.ready && !before.is_climbing() && !before.announced,
            Event::WatchdogFailed => !before.is_climbing(),
            Event::Paused => !before.paused,
            Event::Continued => before.paused,
            _ => false,
        };
        assert_eq!(acted, must, "{event:?}");
    }

    fn tick_early(&mut self, part: u32) {
        let Some(deadline) = self.machine.deadline() else { return };
        let left = deadline.saturating_duration_since(self.now);
        if !left.is_zero() {
            self.now += left / 256 * part;
            assert!(!self.feed(Event::Tick), "it was not the time yet");
            assert_eq!(self.machine.deadline(), Some(deadline));
        }
    }

    /// Ticks as a timer does, `late` after the deadline, until there is nothing left to do at that time.
    fn tick(&mut self, late: Duration) {
        let Some(deadline) = self.machine.deadline() else {
            self.now += late;
            assert!(!self.feed(Event::Tick), "nothing was scheduled");
            return;
        };
        self.now = self.now.max(deadline) + late;
        // Each at most once: the steps of a ladder, SIGKILL, a look, the end of a drain.
        for _ in 0..8 {
            let put_off = match &mut self.scene {
                Scene::Live(live) => live.puts_off(self.now),
                _ => false,
            };
            let looks = matches!(&self.scene, Scene::Live(live) if live.ended.is_some());
            let acted = self.feed(Event::Tick);
            assert!(acted || put_off, "woken up in time, and nothing done");
            assert!(!acted || !put_off || looks, "too late to tell, and done");
            if self.machine.deadline().is_none_or(|deadline| deadline > self.now) {
                return;
            }
        }
        panic!("the timer spins");
    }

    fn stale(&mut self, how: u8) {
        if !self.late.is_empty() {
            let (generation, event) = self.late.swap_remove(usize::from(how) % self.late.len());
            // The shell drops it for its number. A report that was not made yet is not stale.
            if generation == self.machine.generation() {
                let current = matches!(self.scene, Scene::Reporting) && event == Event::Reported;
                assert!(current || is_misplaced(&self.scene, event), "{event:?} would be taken for this run's");
            }
        }
    }

    fn misplaced(&mut self, how: u8) {
        let event = EVENTS_THAT_MAY_BE_MISPLACED[usize::from(how) % EVENTS_THAT_MAY_BE_MISPLACED.len()];
        if is_misplaced(&self.scene, event) {
            let seen = |world: &World| (world.machine.deadline(), world.machine.state(), world.machine.next_start());
            let before = seen(self);
            assert!(!self.feed(event), "{event:?} did something");
            assert_eq!(seen(self), before);
        }
    }

    /// Asks for a stop and lets happen what has to happen then. Those who may ignore a signal do.
    fn settle(&mut self) {
        let ladders = [Some(&self.rules.stop), self.rules.survivors.ladder()];
        let graces = || ladders.iter().flatten().flat_map(|ladder| ladder.steps()).map(|step| step.1);
        let patient = graces().all(|grace| grace < Duration::MAX);
        let limit = if patient { graces().sum::<Duration>() + 2 * SECOND } else { 2 * SECOND };
        let began = self.now;
        self.by_hand(if patient { Event::Stop } else { Event::Kill });
        for _ in 0..4_000 {
            if self.machine.is_settled() {
                assert!(self.now <= began + limit, "it took {:?}", self.now - began);
                assert_eq!(self.spawned, self.concluded);
                return;
            }
            match &mut self.scene {
                Scene::Spawning { .. } => drop(self.feed(Event::Spawned)),
                Scene::Reporting => drop(self.feed(Event::Reported)),
                Scene::Live(live) if live.killed && live.ended.is_none() => {
                    live.others = false;
                    self.leader_ends(ExitReason::Signaled(Signal::KILL));
                }
                Scene::Live(Live { asked: true, .. }) => self.answer_if_asked(),
                Scene::Live(live) => {
                    live.others &= !live.killed;
                    if live.draining && live.drained_by.is_none_or(|by| by > began + limit) {
                        live.pipes_open = false;
                        self.feed(Event::Drained);
                    } else {
                        self.tick(Duration::ZERO);
                    }
                }
                Scene::Idle | Scene::Failed | Scene::Backoff | Scene::Held => {
                    panic!("it is not settled: {:?}", self.scene)
                }
            }
        }
        panic!("it never ends");
    }
}

/// Rules, picked by the digits of a number.
fn world(mut number: u32) -> World {
    let mut pick = |of: u32| {
        let picked = number % of;
        number /= of;
        picked
    };
    let delay = [Duration::ZERO, SECOND / 5][pick(2) as usize];
    let (restart, always) = match pick(6) {
        0 => (Restart::never(), false),
        1 | 2 => (Restart::on_failure(), false),
        _ => (Restart::always(), true),
    };
    let restart = restart.backoff(Backoff::fixed(delay)).permanent_codes([78]);
    let limited = pick(2) == 0;
    let restart = if limited { restart.limit(3, 60 * SECOND) } else { restart.unlimited() };
    let ladder = |picked| match picked {
        0 => Stop::default(),
        1 => Stop::signal(Signal::INT, SECOND).then(Signal::TERM, 2 * SECOND).then(Signal::QUIT, Duration::ZERO),
        2 => Stop::kill(),
        _ => Stop::signal(Signal::TERM, Duration::MAX),
    };
    let stop = ladder(pick(4));
    let survivors = if pick(4) == 0 { Survivors::leave() } else { Survivors::stop(ladder(pick(4))) };
    let ready_within = [None, Some(5 * SECOND), Some(Duration::MAX)][pick(3) as usize];
    let watchdog = [None, Some(3 * SECOND)][pick(2) as usize];
    let drain = [Duration::ZERO, SECOND / 10, Duration::MAX][pick(3) as usize];
    let reports = pick(2) == 0;
    let overseen = pick(2) == 0;
    let rules = Rules { restart, stop, survivors, ready_within, watchdog, drain, reports };
    World::new(rules, always && !limited, overseen, delay)
}

fn live_through(rules: u32, happenings: &[u16]) {
    let mut world = world(rules);
    for &number in happenings {
        world.happen(number);
    }
    world.settle();
}

/// As many cases as said, without a file of past failures beside the sources: what fails gets a test of its own.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

// Three tests, so that they run side by side.

proptest! {
    #![proptest_config(cases(40_000))]
    #[test]
    fn any_life_keeps_the_promises(rules: u32, happenings in vec(any::<u16>(), EVENTS)) {
        live_through(rules, &happenings);
    }
}

proptest! {
    #![proptest_config(cases(50_000))]
    #[test]
    fn a_short_life_keeps_the_promises(rules: u32, happenings in vec(any::<u16>(), 0..EVENTS / 2)) {
        live_through(rules, &happenings);
    }
}

proptest! {
    #![proptest_config(cases(15_000))]
    #[test]
    fn a_long_life_keeps_the_promises(rules: u32, happenings in vec(any::<u16>(), EVENTS..3 * EVENTS)) {
        live_through(rules, &happenings);
    }
}
