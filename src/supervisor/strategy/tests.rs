//! The plan by examples, and under generated lives against what it promises:
//!
//! - a child is started only when it is down and all that it needs are ready (or have ended, as they should);
//! - a child is stopped only when it is up, or held, and nobody who needs it and goes as well is still up;
//! - of a group that is restarted nobody is started before all of it are down;
//! - no more restarts are permitted in any window than the intensity says; with one more, all is stopped;
//! - after a stop, or a failure, nothing is started until somebody starts it again, and in the end all are down, which is told once;
//! - where nothing is under way, everybody runs who is wanted.

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, any, prop_assert, prop_oneof, proptest};

use std::time::Duration;

use super::*;

const S: Duration = Duration::from_secs(1);
const ORDINARY: Traits = Traits { is_temporary: false, is_optional: false };
const TEMPORARY: Traits = Traits { is_temporary: true, is_optional: false };
const OPTIONAL: Traits = Traits { is_temporary: false, is_optional: true };
const INTENSITY: Intensity = Intensity { restarts: 3, within: Duration::from_secs(10) };

/// A plan and its clock.
struct Life {
    plan: Plan,
    now: Instant,
}

impl Life {
    /// Each needs all before it.
    fn row(strategy: Strategy, length: Place) -> Life {
        let mut plan = Plan::new(strategy, Some(INTENSITY));
        (0..length).for_each(|place| _ = plan.add((0..place).collect(), ORDINARY));
        Life { plan, now: Instant::now() }
    }

    fn feed(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.plan.step(event, self.now, &mut actions);
        actions
    }

    /// All are ready.
    fn up(strategy: Strategy, length: Place) -> Life {
        let mut life = Life::row(strategy, length);
        life.feed(Event::Start);
        (0..length).for_each(|place| _ = life.feed(Event::Ready(place)));
        assert_eq!(life.plan.phase, Phase::Up);
        life
    }
}

use Action::{Launch, Permit, Stop, Tell};

#[test]
fn a_row_is_started_in_order_and_stopped_in_reverse() {
    let mut life = Life::row(Strategy::OneForOne, 3);
    assert_eq!(life.feed(Event::Start), [Launch(0)]);
    assert_eq!(life.feed(Event::Ready(0)), [Launch(1)]);
    assert_eq!(life.feed(Event::Ready(1)), [Launch(2)]);
    assert_eq!(life.feed(Event::Ready(2)), [Tell(Notice::Up)]);
    assert_eq!(life.feed(Event::Stop), [Stop(2)]);
    assert_eq!(life.feed(Event::Ended(2)), [Stop(1)]);
    assert_eq!(life.feed(Event::Ended(1)), [Stop(0)]);
    assert_eq!(life.feed(Event::Ended(0)), [Tell(Notice::Down)]);
}

#[test]
fn those_that_do_not_need_each_other_go_side_by_side() {
    let mut plan = Plan::new(Strategy::OneForOne, Some(INTENSITY));
    let base = plan.add(vec![], ORDINARY);
    let (left, right) = (plan.add(vec![base], ORDINARY), plan.add(vec![base], ORDINARY));
    let top = plan.add(vec![left, right], ORDINARY);
    let mut life = Life { plan, now: Instant::now() };
    assert_eq!(life.feed(Event::Start), [Launch(base)]);
    assert_eq!(life.feed(Event::Ready(base)), [Launch(left), Launch(right)]);
    assert_eq!(life.feed(Event::Ready(right)), []);
    assert_eq!(life.feed(Event::Ready(left)), [Launch(top)]);
    life.feed(Event::Ready(top));
    assert_eq!(life.feed(Event::Stop), [Stop(top)]);
    assert_eq!(life.feed(Event::Ended(top)), [Stop(right), Stop(left)]);
    assert_eq!(life.feed(Event::Ended(left)), []);
    assert_eq!(life.feed(Event::Ended(right)), [Stop(base)]);
}

#[test]
fn a_start_that_fails_stops_what_was_started_in_reverse() {
    for end in [Event::Held(2), Event::Ended(2), Event::Failed(2)] {
        let mut life = Life::row(Strategy::OneForOne, 4);
        for event in [Event::Start, Event::Ready(0), Event::Ready(1)] {
            life.feed(event);
        }
        let actions = life.feed(end);
        let failing = Tell(Notice::Failing(Failure::NotStarted(2)));
        if end == Event::Held(2) {
            assert_eq!(actions, [failing, Stop(2)], "its policy would start it again");
            assert_eq!(life.feed(Event::Ended(2)), [Stop(1)]);
        } else {
            assert_eq!(actions, [failing, Stop(1)], "{end:?}");
        }
        assert_eq!(life.feed(Event::Ended(1)), [Stop(0)]);
        assert_eq!(life.feed(Event::Ended(0)), [Tell(Notice::Down)]);
    }
}

#[test]
fn one_for_one_leaves_the_others_alone() {
    let mut life = Life::up(Strategy::OneForOne, 3);
    assert_eq!(life.feed(Event::Held(0)), [Permit(0)]);
    assert_eq!(life.feed(Event::Ready(0)), []);
    assert_eq!(life.feed(Event::Ended(1)), [], "it has ended as it should");
    assert_eq!(life.feed(Event::Stop), [Stop(2)]);
}

#[test]
fn one_for_all_stops_all_in_reverse_and_starts_all_in_order() {
    let mut life = Life::up(Strategy::OneForAll, 3);
    assert_eq!(life.feed(Event::Held(1)), [Stop(2)]);
    assert_eq!(life.feed(Event::Ended(2)), [Stop(0)]);
    assert_eq!(life.feed(Event::Ended(0)), [Launch(0)]);
    assert_eq!(life.feed(Event::Ready(0)), [Permit(1)]);
    assert_eq!(life.feed(Event::Ready(1)), [Launch(2)]);
    assert_eq!(life.feed(Event::Ready(2)), []);
}

#[test]
fn rest_for_one_restarts_those_that_need_it() {
    let mut life = Life::up(Strategy::RestForOne, 4);
    assert_eq!(life.feed(Event::Held(1)), [Stop(3)]);
    assert_eq!(life.feed(Event::Ended(3)), [Stop(2)]);
    assert_eq!(life.feed(Event::Ended(2)), [Permit(1)]);
    assert_eq!(life.feed(Event::Ready(1)), [Launch(2)]);
    assert_eq!(life.feed(Event::Ready(2)), [Launch(3)]);
}

#[test]
fn one_that_ended_is_restarted_with_its_group_unless_it_is_temporary() {
    let mut plan = Plan::new(Strategy::OneForAll, Some(INTENSITY));
    let (once, job, service) = (plan.add(vec![], TEMPORARY), plan.add(vec![], ORDINARY), plan.add(vec![], ORDINARY));
    let mut life = Life { plan, now: Instant::now() };
    assert_eq!(life.feed(Event::Start), [Launch(once), Launch(job), Launch(service)]);
    for place in [once, job, service] {
        life.feed(Event::Ready(place));
    }
    assert_eq!(life.feed(Event::Ended(job)), []);
    assert_eq!(life.feed(Event::Held(service)), [Stop(once)]);
    assert_eq!(life.feed(Event::Ended(once)), [Launch(job), Permit(service)]);
}

#[test]
fn too_many_restarts_end_all_and_one_that_gives_up_does() {
    let mut life = Life::up(Strategy::OneForOne, 2);
    for place in [0, 1, 0] {
        assert_eq!(life.feed(Event::Held(place)), [Permit(place)]);
        life.feed(Event::Ready(place));
        life.now += S;
    }
    let failing = |failure| Tell(Notice::Failing(failure));
    assert_eq!(life.feed(Event::Held(1)), [failing(Failure::TooMany(1)), Stop(1)]);
    assert_eq!(life.feed(Event::Ended(1)), [Stop(0)]);
    assert_eq!(life.feed(Event::Ended(0)), [Tell(Notice::Down)]);
    let mut life = Life::up(Strategy::OneForOne, 2);
    for _ in 0..9 {
        assert_eq!(life.feed(Event::Held(1)), [Permit(1)], "they are far enough apart");
        life.feed(Event::Ready(1));
        life.now += 4 * S;
    }
    assert_eq!(life.feed(Event::Failed(0)), [failing(Failure::Child(0)), Stop(1)]);
}

#[test]
fn one_is_restarted_by_hand_while_those_who_need_it_go_on() {
    let mut life = Life::up(Strategy::OneForAll, 2);
    assert_eq!(life.feed(Event::Restart(0)), [Stop(0)]);
    assert_eq!(life.feed(Event::Ended(0)), [Launch(0)]);
    assert_eq!(life.feed(Event::Ready(0)), []);
    let mut life = Life::up(Strategy::OneForOne, 2);
    life.feed(Event::Ended(1));
    assert_eq!(life.feed(Event::Restart(1)), [Launch(1)], "it had ended as it should");
}

#[test]
fn what_an_optional_one_does_concerns_nobody_else() {
    let mut plan = Plan::new(Strategy::OneForAll, Some(INTENSITY));
    let (extra, service) = (plan.add(vec![], OPTIONAL), plan.add(vec![0], ORDINARY));
    let mut life = Life { plan, now: Instant::now() };
    assert_eq!(life.feed(Event::Start), [Launch(extra)]);
    assert_eq!(life.feed(Event::Held(extra)), [Permit(extra), Launch(service)], "who needs it does without");
    for _ in 0..9 {
        assert_eq!(life.feed(Event::Held(extra)), [Permit(extra)], "not counted, ready or not");
    }
    assert_eq!(life.feed(Event::Failed(extra)), []);
    assert_eq!(life.feed(Event::Ready(service)), [Tell(Notice::Up)]);
    assert_eq!(life.feed(Event::Restart(extra)), [Launch(extra)]);
    assert_eq!(life.feed(Event::Ready(extra)), []);
    assert_eq!(life.feed(Event::Held(service)), [Stop(extra)], "but it goes with the others");
}

#[test]
fn one_that_gives_up_while_it_is_stopped_was_stopped() {
    let mut life = Life::up(Strategy::OneForOne, 2);
    life.feed(Event::Restart(1));
    assert_eq!(life.feed(Event::Failed(1)), [Launch(1)]);
    life.feed(Event::Ready(1));
    life.feed(Event::Remove(1));
    assert_eq!(life.feed(Event::Failed(1)), [Tell(Notice::Removed(1))]);
}

#[test]
fn one_that_is_added_during_the_start_and_fails_is_removed_and_no_more() {
    let mut life = Life::row(Strategy::OneForOne, 2);
    life.feed(Event::Start);
    for traits in [ORDINARY, OPTIONAL] {
        let place = life.plan.add(vec![], traits);
        assert_eq!(life.feed(Event::Added), [Launch(place)]);
        assert_eq!(life.feed(Event::Failed(place)), [Tell(Notice::Removed(place))]);
    }
    life.feed(Event::Ready(0));
    assert_eq!(life.feed(Event::Ready(1)), [Tell(Notice::Up)]);
}

#[test]
fn one_between_that_is_down_does_not_hide_who_needs_whom() {
    let mut plan = Plan::new(Strategy::OneForOne, Some(INTENSITY));
    (0..3).for_each(|place: Place| _ = plan.add(place.checked_sub(1).into_iter().collect(), ORDINARY));
    let mut life = Life { plan, now: Instant::now() };
    life.feed(Event::Start);
    (0..3).for_each(|place| _ = life.feed(Event::Ready(place)));
    life.feed(Event::Ended(1));
    assert_eq!(life.feed(Event::Stop), [Stop(2)]);
    assert_eq!(life.feed(Event::Ended(2)), [Stop(0)]);
    life.feed(Event::Ended(0));
    assert_eq!(life.feed(Event::Start), [Launch(0)]);
    life.feed(Event::Ready(0));
    assert_eq!(life.feed(Event::Held(0)), [Permit(0)]);
    assert_eq!(life.feed(Event::Ready(1)), [], "0 is away");
    assert_eq!(life.feed(Event::Ready(0)), [Launch(2)]);
}

#[test]
fn one_that_is_added_and_fails_is_removed_and_no_more() {
    let mut life = Life::up(Strategy::OneForAll, 1);
    let place = life.plan.add(vec![0], ORDINARY);
    assert_eq!(life.feed(Event::Added), [Launch(place)]);
    assert_eq!(life.feed(Event::Held(place)), [Stop(place)]);
    assert_eq!(life.feed(Event::Ended(place)), [Tell(Notice::Removed(place))]);
    let place = life.plan.add(vec![0], ORDINARY);
    life.feed(Event::Start);
    life.feed(Event::Ready(place));
    assert_eq!(life.feed(Event::Remove(place)), [Stop(place)]);
    assert_eq!(life.feed(Event::Ended(place)), [Tell(Notice::Removed(place))]);
}

/// What a child really does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Real {
    Down,
    Held,
    Starting,
    Ready,
    Stopping,
}

/// Plays the shell and the children, and checks.
struct World {
    life: Life,
    real: Vec<Real>,
    needs: Vec<Vec<Place>>,
    /// Ended as it should, and not to be started alone.
    finished: Vec<bool>,
    temporary: Vec<bool>,
    removed: Vec<bool>,
    /// Those who are to be down before any of those is started; each with who it is.
    barriers: Vec<(Vec<Place>, Vec<Place>)>,
    permitted: Vec<Instant>,
    is_on: bool,
    is_resting: bool,
}

impl World {
    fn new(strategy: Strategy, needs: &[u8]) -> World {
        let mut plan = Plan::new(strategy, Some(INTENSITY));
        let needs: Vec<Vec<Place>> = needs
            .iter()
            .enumerate()
            .map(|(place, bits)| (0..place.min(7)).filter(|bit| bits >> bit & 1 == 1).collect())
            .collect();
        let temporary: Vec<bool> = (0..needs.len()).map(|place| place % 4 == 3).collect();
        for (needs, temporary) in needs.iter().zip(&temporary) {
            plan.add(needs.clone(), if *temporary { TEMPORARY } else { ORDINARY });
        }
        let count = needs.len();
        World {
            life: Life { plan, now: Instant::now() },
            real: vec![Real::Down; count],
            finished: vec![false; count],
            removed: vec![false; count],
            needs,
            temporary,
            barriers: Vec::new(),
            permitted: Vec::new(),
            is_on: false,
            is_resting: true,
        }
    }

    fn is_down(&self, place: Place) -> bool {
        matches!(self.real[place], Real::Down | Real::Held)
    }

    fn dependents(&self, place: Place) -> Vec<Place> {
        (0..self.real.len()).filter(|other| self.needs[*other].contains(&place)).collect()
    }

    /// Those that need it, directly or by others that are still there.
    fn all_dependents(&self, place: Place) -> Vec<Place> {
        let mut all = vec![place];
        for other in (0..self.real.len()).filter(|other| !self.removed[*other]) {
            if self.needs[other].iter().any(|need| all.contains(need)) {
                all.push(other);
            }
        }
        all.split_off(1)
    }

    fn feed(&mut self, event: Event) {
        let is_down = |place: &Place| matches!(self.real[*place], Real::Down | Real::Held);
        self.barriers.iter_mut().for_each(|(down, _)| down.retain(|place| !is_down(place)));
        let actions = self.life.feed(event);
        for action in actions {
            match action {
                Launch(place) | Permit(place) => {
                    let expected = if matches!(action, Launch(_)) { Real::Down } else { Real::Held };
                    assert_eq!(self.real[place], expected, "{action:?} by {event:?}");
                    assert!(self.is_on && !self.removed[place], "{action:?} by {event:?}");
                    for need in &self.needs[place] {
                        let is_there = self.real[*need] == Real::Ready || (self.finished[*need] && self.is_down(*need));
                        assert!(is_there || self.removed[*need], "{action:?}: {need} is not there");
                    }
                    for (down, of) in &self.barriers {
                        assert!(!of.contains(&place) || down.is_empty(), "{action:?} before its group was down");
                    }
                    self.real[place] = Real::Starting;
                    self.finished[place] = false;
                }
                Stop(place) => {
                    assert!(
                        matches!(self.real[place], Real::Held | Real::Starting | Real::Ready),
                        "{action:?} by {event:?}"
                    );
                    if !self.is_on {
                        assert!(
                            self.all_dependents(place).iter().all(|other| self.is_down(*other)),
                            "{action:?} by {event:?}"
                        );
                    }
                    self.real[place] = Real::Stopping;
                }
                Action::Kill(place) => {
                    assert_eq!(event, Event::Kill);
                    assert!(!self.is_down(place));
                    self.real[place] = Real::Stopping;
                }
                Tell(Notice::Up) => assert!(self.is_on),
                Tell(Notice::Down) => {
                    assert!(!self.is_on && !self.is_resting && self.real.iter().all(|real| *real == Real::Down));
                    self.is_resting = true;
                }
                Tell(Notice::Removed(place)) => {
                    assert_eq!(self.real[place], Real::Down);
                    self.removed[place] = true;
                }
                Tell(Notice::Failing(_)) => {
                    assert!(self.is_on, "it fails once");
                    self.is_on = false;
                }
            }
        }
    }

    /// Who is restarted together with it.
    fn group(&self, place: Place) -> Vec<Place> {
        let all = 0..self.real.len();
        match self.life.plan.strategy {
            Strategy::OneForOne => vec![place],
            Strategy::OneForAll => all.collect(),
            Strategy::RestForOne => all.fold(vec![place], |mut group, other| {
                if self.needs[other].iter().any(|need| group.contains(need)) {
                    group.push(other);
                }
                group
            }),
        }
    }

    fn held(&mut self, place: Place) {
        let was_on = self.is_on;
        let up: Vec<Place> = (0..self.real.len()).filter(|other| *other != place && !self.is_down(*other)).collect();
        self.real[place] = Real::Held;
        let is_new = self.life.plan.child(place).unwrap().is_new;
        let group = self.group(place);
        if was_on && !is_new {
            for other in group.iter().filter(|other| **other != place) {
                self.finished[*other] = self.temporary[*other];
            }
            let down = up.into_iter().filter(|other| group.contains(other)).collect();
            self.barriers.push((down, group));
        }
        let recent = self.permitted.iter().filter(|at| self.life.now - **at < INTENSITY.within).count();
        self.feed(Event::Held(place));
        if was_on && !is_new {
            assert_eq!(self.is_on, recent < INTENSITY.restarts as usize);
            if self.is_on {
                self.permitted.push(self.life.now);
            }
        }
    }

    fn happen(&mut self, [what, which]: [u8; 2]) {
        let place = usize::from(which) % self.real.len();
        match what % 16 {
            0 => {
                if self.is_resting {
                    (self.is_on, self.is_resting) = (true, false);
                    self.finished.iter_mut().for_each(|finished| *finished = false);
                    self.permitted.clear();
                    self.barriers.clear();
                }
                self.feed(Event::Start);
            }
            1 if which > 200 => {
                self.is_on = false;
                self.feed(if which > 230 { Event::Kill } else { Event::Stop });
            }
            2 if which > 128 && self.dependents(place).iter().all(|other| self.removed[*other]) => {
                self.feed(Event::Remove(place));
            }
            3 if !self.removed[place] => {
                self.finished[place] &= !self.is_on;
                self.feed(Event::Restart(place));
            }
            4..=5 => self.life.now += S * u32::from(which % 8),
            6..=8 => match self.real[place] {
                Real::Starting | Real::Ready if which & 64 == 0 => self.held(place),
                Real::Starting | Real::Ready => {
                    self.real[place] = Real::Down;
                    self.finished[place] = true;
                    self.feed(if which > 250 { Event::Failed(place) } else { Event::Ended(place) });
                }
                Real::Stopping => self.stopped(place),
                Real::Down | Real::Held => {}
            },
            9..=11 => (0..self.real.len()).for_each(|place| {
                if self.real[place] == Real::Stopping {
                    self.stopped(place);
                }
            }),
            _ => {
                if self.real[place] == Real::Starting {
                    self.real[place] = Real::Ready;
                }
                // Or it comes too late.
                self.feed(Event::Ready(place));
            }
        }
        self.check();
    }

    fn stopped(&mut self, place: Place) {
        self.real[place] = Real::Down;
        self.feed(Event::Ended(place));
    }

    fn check(&self) {
        for (place, real) in self.real.iter().enumerate() {
            let planned = self.life.plan.child(place).map(|child| child.doing);
            let expected = match real {
                Real::Down => Doing::Down,
                Real::Held => Doing::Held,
                Real::Starting => Doing::Starting,
                Real::Ready => Doing::Ready,
                Real::Stopping => Doing::Stopping,
            };
            assert!(planned.is_none_or(|planned| planned == expected), "{place}: {planned:?}, {real:?}");
        }
        let is_under_way = self.real.iter().any(|real| matches!(real, Real::Starting | Real::Stopping));
        if self.is_on && !is_under_way {
            for (place, real) in self.real.iter().enumerate() {
                let is_well = *real == Real::Ready || self.finished[place] || self.removed[place];
                assert!(is_well, "{place} is {real:?}, and nothing is under way");
            }
        }
        assert_eq!(self.is_resting, self.life.plan.phase == Phase::Resting);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn whatever_happens_it_keeps_its_promises(
        strategy in prop_oneof![Just(Strategy::OneForOne), Just(Strategy::OneForAll), Just(Strategy::RestForOne)],
        needs in vec(any::<u8>(), 1..7),
        happenings in vec(any::<[u8; 2]>(), 0..80),
    ) {
        let mut world = World::new(strategy, &needs);
        for happening in happenings {
            world.happen(happening);
        }
        world.is_on = false;
        world.feed(Event::Stop);
        for _ in 0..world.real.len() {
            world.happen([9, 0]);
        }
        prop_assert!(world.is_resting && world.real.iter().all(|real| *real == Real::Down));
    }
}
