//! A model of everything around the machine: the shell that does its actions, the processes, the clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::{Action, Conclusion, Event, Machine, Notice, Rules, Standing, State};
use crate::exit::{ExitReason, Fault};
use crate::policy::{Outcome, Restart};
use crate::signal::Signal;
use crate::stop::Stop;

/// The exit that no policy of the generated rules restarts after.
pub(super) const PERMANENT: ExitReason = ExitReason::Exited(78);

/// The least wait after a start that failed for a shortage; see `policy`.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) rules: Rules,
    /// The policy restarts for ever, save after the one permanent code.
    pub(super) restless: bool,
    /// A restart waits until it is permitted.
    pub(super) overseen: bool,
    /// What the policy waits before every restart.
    pub(super) delay: Duration,
    pub(super) now: Instant,
    pub(super) scene: Scene,
    /// Events that belong to runs that are over.
    pub(super) late: Vec<(u64, Event)>,
    /// A stop, a kill or a last run was asked for since the last start by hand.
    pub(super) stopped: bool,
    /// So many want the run that is there to be the last.
    pub(super) last: u32,
    pub(super) spawned: u64,
    pub(super) concluded: u64,
    starts: u64,
    /// The earliest time of the next automatic start.
    due: Option<Instant>,
    /// The next start cannot fail to come, unless someone asks for a stop.
    comes_back: bool,
}

/// What is really there.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one")]
pub(super) enum Scene {
    Idle,
    Failed,
    Backoff,
    Held,
    Reporting,
    Spawning { by_hand: bool, requested: bool, killed: bool },
    Live(Live),
}

#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) since: Instant,
    /// How and when the leader ended.
    pub(super) ended: Option<(ExitReason, Instant)>,
    /// Others of its group.
    pub(super) others: bool,
    /// Nobody is left, or they are left alone.
    pub(super) draining: bool,
    pub(super) pipes_open: bool,
    /// A look is answered at once, or later.
    pub(super) answers_at_once: bool,
    pub(super) asked: bool,
    /// Since the leader ended.
    answered: bool,
    /// So many looks cannot tell.
    unclear: u8,
    /// None of them could, for so long that somebody is taken to be there.
    presumed: bool,
    pub(super) paused: bool,
    pub(super) ready: bool,
    pub(super) announced: bool,
    pub(super) ready_by: Option<Instant>,
    pub(super) watchdog_by: Option<Instant>,
    pub(super) gone_by: Option<Instant>,
    /// Who came late gave it until then.
    put_off: Option<(Instant, Instant)>,
    /// The notice that its stop is due to.
    pub(super) fault: Option<Fault>,
    pub(super) drained_by: Option<Instant>,
    pub(super) requested: bool,
    pub(super) killed: bool,
    kill_wished: bool,
    abandoned: bool,
    /// A stop was asked for since the leader ended.
    pub(super) stopped_since: bool,
    ladder: Option<Ladder>,
}

/// When SIGKILL comes; `None`: never.
fn killed_at(from: Option<Instant>, steps: &[(Signal, Duration)]) -> Option<Instant> {
    steps.iter().try_fold(from?, |at, (_, grace)| at.checked_add(*grace))
}

fn is_sooner(stop: Option<Instant>, survivors: Option<Instant>) -> bool {
    stop.is_some_and(|stop| survivors.is_none_or(|survivors| stop < survivors))
}

#[derive(Debug, Clone)]
struct Ladder {
    steps: Box<[(Signal, Duration)]>,
    next: usize,
    due: Option<Instant>,
    of_survivors: bool,
}

impl World {
    pub(super) fn new(rules: Rules, restless: bool, overseen: bool, delay: Duration) -> World {
        let mut machine = Machine::new(rules.clone());
        machine.oversee(overseen, rules.restart.clone());
        World {
            machine,
            rules,
            restless,
            overseen,
            delay,
            now: Instant::now(),
            scene: Scene::Idle,
            late: Vec::new(),
            stopped: false,
            last: 0,
            spawned: 0,
            concluded: 0,
            starts: 0,
            due: None,
            comes_back: false,
        }
    }

    pub(super) fn live(&mut self) -> &mut Live {
        match &mut self.scene {
            Scene::Live(live) => live,
            other => panic!("no run lives: {other:?}"),
        }
    }

    /// Feeds `event` and what follows from it as the shell does, and checks. True: something was done.
    pub(super) fn feed(&mut self, event: Event) -> bool {
        let mut events = VecDeque::from([event]);
        let mut acted = false;
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.machine.step(event, self.now, 0.5, &mut actions);
            self.after_event(event, &actions);
            for action in actions {
                acted = true;
                events.extend(self.perform(action, event));
            }
            self.note_held();
        }
        self.check();
        acted
    }

    fn note_held(&mut self) {
        if self.machine.standing() == Standing::Held && !matches!(self.scene, Scene::Held) {
            assert!(self.overseen && !self.stopped && matches!(self.scene, Scene::Idle), "{:?}", self.scene);
            self.scene = Scene::Held;
        }
    }

    /// What the event alone means, before its actions.
    fn after_event(&mut self, event: Event, actions: &[Action]) {
        match event {
            Event::Reported if matches!(self.scene, Scene::Reporting) => {
                self.stopped |= self.last > 0;
                self.scene = Scene::Idle;
            }
            Event::SpawnFailed(errno) => {
                let Scene::Spawning { by_hand, .. } = self.scene else { return };
                // The caller decides what follows.
                assert!(!by_hand || actions.is_empty(), "{actions:?}");
                let shortage = Outcome::cannot_start(errno) == Outcome::Shortage;
                let pause = if shortage { SHORTAGE_PAUSE } else { Duration::ZERO };
                self.due = Some(self.now + self.delay.max(pause));
                self.scene = Scene::Idle;
            }
            _ => {}
        }
    }

    fn perform(&mut self, action: Action, cause: Event) -> Option<Event> {
        match action {
            Action::Spawn => self.spawn(cause),
            Action::Signal(signal) => self.signal(signal),
            Action::Kill => self.kill(cause),
            Action::Look => return self.look(),
            Action::Drain => return self.drain(),
            Action::Abandon => {
                let now = self.now;
                let live = self.live();
                assert!(live.draining && live.pipes_open, "nothing to abandon");
                assert!(live.drained_by.is_some_and(|by| now >= by), "given up too early");
                live.abandoned = true;
            }
            Action::Conclude(conclusion) => self.conclude(conclusion),
            Action::Announce(notice) => self.announce(notice, cause),
        }
        None
    }

    fn spawn(&mut self, cause: Event) {
        let by_hand = matches!(cause, Event::Start | Event::Launch);
        assert!(!matches!(self.scene, Scene::Live(_) | Scene::Spawning { .. }), "overlaps {:?}", self.scene);
        if by_hand {
            (self.stopped, self.last) = (false, 0);
        } else {
            assert!(!self.stopped && self.last == 0, "started again after a stop");
            assert!(self.rules.restart != Restart::never(), "started again by no policy");
            assert!(self.due.is_some_and(|due| self.now >= due), "started before its time");
            assert!(!self.overseen || matches!(cause, Event::Permit | Event::Tick), "started without leave");
        }
        self.starts += 1;
        self.due = None;
        self.comes_back = false;
        self.scene = Scene::Spawning { by_hand: cause == Event::Start, requested: false, killed: false };
    }

    fn signal(&mut self, signal: Signal) {
        let (now, rules) = (self.now, self.rules.clone());
        let live = self.live();
        assert!(!live.draining, "{signal} to nobody");
        assert!(!live.killed, "{signal} after SIGKILL");
        let (unheard, hurries) = (live.unheard(), live.hurries(&rules, now));
        let ladder = match &mut live.ladder {
            Some(ladder) => ladder,
            none => {
                let survivors = || rules.survivors.ladder().map_or(&[][..], Stop::steps);
                let of_survivors = live.ended.is_some() && !hurries;
                let overdue = live.gone_by.is_some_and(|by| now >= by);
                assert!(live.ended.is_some() || live.requested || live.fault.is_some() || overdue, "for no reason");
                let steps = if of_survivors { survivors() } else { rules.stop.steps() };
                none.insert(Ladder { steps: steps.into(), next: 0, due: Some(now), of_survivors })
            }
        };
        let (due, grace) = ladder.take(signal);
        assert!(due.max(unheard).is_some_and(|due| now >= due), "{signal} before the grace has passed");
        ladder.due = now.checked_add(grace);
    }

    /// A stop is asked for while what was left behind is stopped. True: by the stop ladder from now on, for that kills them sooner.
    pub(super) fn hurry(&mut self) -> bool {
        let (now, stop) = (self.now, self.rules.stop.steps().to_vec());
        let Scene::Live(live) = &mut self.scene else { return false };
        let Some(ladder) = live.ladder.as_mut().filter(|ladder| ladder.of_survivors) else { return false };
        if live.draining || live.killed {
            return false;
        }
        let sooner = is_sooner(killed_at(Some(now), &stop), killed_at(ladder.due, &ladder.steps[ladder.next..]));
        if sooner {
            *ladder = Ladder { steps: stop.into(), next: 0, due: Some(now), of_survivors: false };
        }
        sooner
    }

    fn kill(&mut self, cause: Event) {
        let (now, rules) = (self.now, self.rules.clone());
        let live = self.live();
        assert!(!live.draining, "SIGKILL to nobody");
        let of_survivors = live.ended.is_some() && !live.hurries(&rules, now);
        let ladder = if of_survivors { rules.survivors.ladder() } else { Some(&rules.stop) };
        let climbed = match &live.ladder {
            Some(ladder) => ladder.is_climbed(now) && live.unheard().is_none_or(|until| now >= until),
            None => ladder.is_some_and(|ladder| ladder.steps().is_empty()),
        };
        // A ladder of nothing but SIGKILL: it had the usual grace to end by itself.
        let climbed = climbed
            && (live.gone_by.is_none_or(|by| now >= by)
                || live.requested
                || live.ended.is_some()
                || live.fault.is_some());
        let by_hand = cause == Event::Kill || (cause == Event::Spawned && live.kill_wished);
        assert!(live.killed || by_hand || climbed, "SIGKILL before the grace has passed");
        live.killed = true;
        live.ladder.get_or_insert(Ladder { steps: Box::default(), next: 0, due: None, of_survivors: false }).due = None;
    }

    fn look(&mut self) -> Option<Event> {
        let live = self.live();
        assert!(live.ended.is_some() && !live.draining, "nothing to look for");
        assert!(!live.asked, "asked while an answer is awaited");
        live.asked = true;
        live.answers_at_once.then(|| self.answer())
    }

    /// What the look finds.
    pub(super) fn answer(&mut self) -> Event {
        let now = self.now;
        let live = self.live();
        assert!(std::mem::take(&mut live.asked));
        let may_wait = live.unheard().is_some_and(|until| now < until);
        if live.unclear > 0 {
            live.unclear -= 1;
            live.presumed |= !may_wait && !live.answered;
            live.answered |= !may_wait;
            return Event::Unclear;
        }
        live.answered = true;
        if live.others { Event::Occupied } else { Event::Empty }
    }

    fn drain(&mut self) -> Option<Event> {
        let (drained_by, leaves) = (self.now.checked_add(self.rules.drain), self.rules.survivors.ladder().is_none());
        let live = self.live();
        assert!(!live.draining && !live.asked);
        assert!(!live.others || (leaves && live.ladder.is_none()), "the group is not empty");
        live.draining = true;
        live.drained_by = drained_by;
        (!live.pipes_open).then_some(Event::Drained)
    }

    fn conclude(&mut self, conclusion: Conclusion) {
        let reports = self.rules.reports;
        let live = self.live().clone();
        let (reason, ended) = live.ended.expect("concluded while its leader lives");
        assert!(live.draining, "concluded before it was over");
        let runtime = ended - live.since;
        let Live { requested, killed: forced, abandoned: output_leaked, fault, .. } = live;
        assert_eq!(conclusion, Conclusion { reason, requested, forced, output_leaked, runtime, fault });
        assert!(live.abandoned || !live.pipes_open, "pipes forgotten");
        self.concluded += 1;
        // It was the last: what is taken back now is taken back too late.
        self.stopped |= self.last > 0 && !reports;
        self.comes_back = self.restless && !self.stopped && reason != PERMANENT;
        self.due = Some(self.now + self.delay);
        self.late.push((self.starts, Event::Reported));
        self.late.push((self.starts, Event::Empty));
        self.late.push((self.starts, Event::Occupied));
        self.late.push((self.starts, Event::Unclear));
        self.scene = if reports { Scene::Reporting } else { Scene::Idle };
    }

    fn announce(&mut self, notice: Notice, cause: Event) {
        let now = self.now;
        match notice {
            Notice::Started => self.begin(),
            Notice::Ready => {
                let watchdog = self.rules.watchdog.and_then(|limit| now.checked_add(limit));
                let live = self.live();
                assert!(!live.ready && live.ladder.is_none() && live.ended.is_none());
                live.ready = true;
                live.ready_by = None;
                assert!(!live.announced);
                live.watchdog_by = watchdog;
            }
            Notice::Fault(fault @ Fault::NotReady) => {
                assert!(self.live().ready_by.take().is_some_and(|by| now >= by), "it has time left");
                self.live().fault = Some(fault);
            }
            Notice::Fault(fault @ Fault::WatchdogMissed) => {
                let missed = self.live().watchdog_by.take().is_some_and(|by| now >= by);
                assert!(missed || cause == Event::WatchdogFailed, "it has time left");
                self.live().fault = Some(fault);
            }
            Notice::Paused => assert!(!std::mem::replace(&mut self.live().paused, true)),
            Notice::Continued => assert!(std::mem::take(&mut self.live().paused)),
            Notice::Stopping => {
                let live = self.live();
                let overdue = live.gone_by.is_some_and(|by| now >= by);
                assert!((live.requested || overdue) && live.ladder.is_none());
            }
            Notice::LeftBehind => {
                let live = self.live();
                assert!(live.ended.is_some() && (live.others || live.presumed) && live.ladder.is_none());
            }
            Notice::Backoff { due } => {
                assert_eq!(Some(due), self.due);
                let before = if self.overseen { Scene::Held } else { Scene::Idle };
                assert!(!self.stopped && std::mem::discriminant(&self.scene) == std::mem::discriminant(&before));
                self.scene = Scene::Backoff;
            }
            Notice::GaveUp(_) => {
                assert!(matches!(self.scene, Scene::Idle));
                self.scene = Scene::Failed;
            }
        }
    }

    fn begin(&mut self) {
        let Scene::Spawning { requested, killed, .. } = self.scene else { panic!("started twice") };
        assert!(!killed || requested);
        let kill_wished = killed;
        self.spawned += 1;
        self.scene = Scene::Live(Live {
            since: self.now,
            ended: None,
            others: false,
            draining: false,
            pipes_open: true,
            answers_at_once: true,
            asked: false,
            answered: false,
            unclear: (self.starts % 4) as u8,
            presumed: false,
            paused: false,
            ready: false,
            announced: false,
            ready_by: self.rules.ready_within.and_then(|limit| self.now.checked_add(limit)),
            watchdog_by: None,
            gone_by: None,
            put_off: None,
            fault: None,
            drained_by: None,
            requested,
            killed: false,
            kill_wished,
            abandoned: false,
            stopped_since: false,
            ladder: None,
        });
    }

    /// The machine and the world agree.
    fn check(&self) {
        let (state, deadline) = (self.machine.state(), self.machine.deadline());
        assert_eq!(self.machine.generation(), self.starts);
        assert_eq!(self.machine.is_alive(), matches!(self.scene, Scene::Spawning { .. } | Scene::Live(_)));
        assert_eq!(self.machine.is_settled(), matches!(self.scene, Scene::Idle | Scene::Failed));
        let is_reporting = matches!(self.scene, Scene::Reporting);
        let rests = self.machine.is_settled() || (is_reporting && self.machine.next_start().is_none());
        assert_eq!(self.machine.is_at_rest(), rests);
        assert!(self.spawned - self.concluded == u64::from(matches!(self.scene, Scene::Live(_))));
        if self.comes_back && !self.stopped && self.last == 0 {
            assert_eq!(state, State::Backoff, "it is to be started again");
        }
        match &self.scene {
            Scene::Idle => assert_eq!((state, deadline, self.machine.next_start()), (State::Idle, None, None)),
            Scene::Failed => assert_eq!((state, deadline, self.machine.next_start()), (State::Failed, None, None)),
            Scene::Backoff => {
                assert_eq!((state, deadline, self.machine.next_start()), (State::Backoff, self.due, self.due));
                assert!(!self.stopped);
            }
            Scene::Held => {
                assert_eq!((state, deadline, self.machine.next_start()), (State::Backoff, None, None));
                assert!(!self.stopped);
            }
            Scene::Reporting => {
                assert!(self.rules.reports && deadline.is_none());
                assert!(matches!(state, State::Idle | State::Backoff | State::Failed));
                assert!(state == State::Idle || self.last == 0);
                assert_eq!(state == State::Backoff, self.machine.next_start().is_some());
                assert!(state != State::Backoff || (self.machine.next_start() == self.due && !self.stopped));
            }
            Scene::Spawning { .. } => assert_eq!((state, deadline), (State::Starting, None)),
            Scene::Live(live) => {
                assert!(live.killed || !live.kill_wished, "a kill asked for early is forgotten");
                assert_eq!(state, live.state());
                assert_eq!(self.machine.is_draining(), live.draining);
                live.check_deadline(deadline);
            }
        }
    }
}

impl Live {
    /// Whether what was left behind is stopped by the stop ladder, for a stop was asked for and that kills sooner. (It is the machine's own
    /// arithmetic: `table` has the cases that check it.)
    fn hurries(&self, rules: &Rules, now: Instant) -> bool {
        let survivors = rules.survivors.ladder().map_or(&[][..], Stop::steps);
        self.stopped_since && is_sooner(killed_at(Some(now), rules.stop.steps()), killed_at(Some(now), survivors))
    }

    pub(super) fn is_climbing(&self) -> bool {
        self.ladder.is_some()
    }

    fn state(&self) -> State {
        match self {
            _ if self.ended.is_some() || self.ladder.is_some() || self.announced => State::Stopping,
            _ if self.paused => State::Paused,
            _ if self.ready => State::Ready,
            _ => State::Running,
        }
    }

    /// What is counted while it lives: the next step of the ladder, or else the limits.
    fn limit(&self) -> Option<Instant> {
        match &self.ladder {
            Some(ladder) => ladder.due.map(|due| self.unheard().map_or(due, |until| due.max(until))),
            None if self.ended.is_some() => None,
            None => [self.ready_by, self.watchdog_by, self.gone_by].into_iter().flatten().min(),
        }
    }

    /// Until then nobody is signalled for what has not been heard yet: whether the leader left anyone.
    fn unheard(&self) -> Option<Instant> {
        self.ended.filter(|_| !self.answered).map(|(_, at)| at + Duration::from_secs(5))
    }

    /// A tick at `now` comes too late to tell whether the limit was kept: true. Once for each.
    pub(super) fn puts_off(&mut self, now: Instant) -> bool {
        let limit = self.limit().filter(|limit| now > *limit + Duration::from_millis(100) && !self.draining);
        let puts_off = limit.is_some_and(|limit| self.put_off.is_none_or(|(came, _)| limit > came));
        if puts_off {
            self.put_off = Some((now, now + Duration::from_secs(1)));
        }
        puts_off
    }

    fn check_deadline(&self, deadline: Option<Instant>) {
        let limit = match (self.limit(), self.put_off) {
            (Some(limit), Some((came, until))) if limit <= came => Some(until),
            (limit, _) => limit,
        };
        if self.draining {
            assert_eq!(deadline, self.drained_by);
        } else if self.ended.is_none() {
            assert_eq!(deadline, limit);
        } else if self.asked {
            assert_eq!(deadline, limit, "a second look is scheduled");
        } else {
            assert!(deadline.is_some(), "nobody will ever look again");
            assert!(limit.is_none_or(|limit| deadline <= Some(limit)), "the ladder is forgotten");
        }
    }
}

impl Ladder {
    /// The step that is now taken: when it was due, and the grace it gives.
    fn take(&mut self, signal: Signal) -> (Option<Instant>, Duration) {
        let &(expected, grace) = self.steps.get(self.next).expect("the ladder has no more steps");
        assert_eq!(signal, expected);
        self.next += 1;
        (self.due, grace)
    }

    fn is_climbed(&self, now: Instant) -> bool {
        self.next == self.steps.len() && self.due.is_some_and(|due| now >= due)
    }
}
