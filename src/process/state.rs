//! The life of a process as a pure state machine.
//!
//! `step` takes an event and the time and answers with actions; the shell around it
//! (`process/core.rs`) does them. Nothing here touches the operating system, which is why the
//! tests below can drive it through hundreds of thousands of lives in seconds.
//!
//! | phase | what is true | left by |
//! |---|---|---|
//! | `Idle` | nothing runs, nothing is scheduled | `Start` |
//! | `Starting` | a spawn is under way | `Spawned`, `SpawnFailed` |
//! | `Up` | the leader lives | `LeaderExited` |
//! | `Clearing` | the leader is gone, others of its run may not be | `Empty` |
//! | `Draining` | the run's processes are gone, its pipes are being read | `Drained`, time |
//! | `Reporting` | the run is over, its `on_exit` callback has not returned | `Reported`, `Start` |
//! | `Backoff` | the next run has a due time | time, `Start`, `Stop` |
//! | `Failed` | the policy gave up | `Start` |
//!
//! Invariants, each checked by the generated tests: at most one live run; no signal when no
//! process of a run can be there; every spawned run is concluded exactly once; in `Idle` and
//! `Failed` nothing is scheduled; an event of an earlier generation changes nothing.

use std::time::{Duration, Instant};

use crate::exit::ExitReason;
use crate::policy::{GiveUp, History, Outcome, Restart, Verdict};
use crate::signal::Signal;
use crate::stop::{Stop, Survivors};

/// How often the emptiness of a group is looked at, once someone in it outlived the leader.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(20);
/// After SIGKILL only the kernel (or a tracer, or a dead file system) can hold a process back.
const SLOW_LOOK: Duration = Duration::from_millis(500);

/// What the owner of the process decided once and for all.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) restart: Restart,
    pub(crate) stop: Stop,
    pub(crate) survivors: Survivors,
    /// `None`: it is ready as soon as it was spawned.
    pub(crate) ready_within: Option<Duration>,
    pub(crate) watchdog: Option<Duration>,
    pub(crate) drain: Duration,
    /// Someone wants to hear of the end before anything else happens.
    pub(crate) reports: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// By hand.
    Start,
    /// By hand: climb the stop ladder.
    Stop,
    /// By hand: SIGKILL, now.
    Kill,
    /// By hand: let this run end, and do not start another.
    Last,
    Spawned,
    /// Creating it failed with this errno.
    SpawnFailed(i32),
    Ready,
    Watchdog,
    WatchdogFailed,
    AnnouncedStop,
    Paused,
    Continued,
    LeaderExited(ExitReason),
    /// The answer to [`Action::Look`].
    Empty,
    /// The answer to [`Action::Look`].
    Occupied,
    Drained,
    Reported,
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Create the process of the generation that is now current.
    Spawn,
    /// To everything the run owns, and SIGCONT after it so that a stopped process sees it.
    Signal(Signal),
    /// SIGKILL to everything the run owns.
    Kill,
    /// Find out whether anything of the run is left. Answered by `Empty` or `Occupied`.
    Look,
    /// Read the pipes to their end. Answered by `Drained`.
    Drain,
    /// The pipes were not closed in time: someone else still holds them.
    Abandon,
    Conclude(Conclusion),
    Announce(Notice),
}

/// What is known of a run that is over, besides what the kernel said of its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conclusion {
    pub(crate) reason: ExitReason,
    pub(crate) requested: bool,
    pub(crate) forced: bool,
    pub(crate) output_leaked: bool,
    pub(crate) runtime: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    Started,
    Ready,
    NotReady,
    WatchdogMissed,
    Paused,
    Continued,
    Stopping,
    Backoff { due: Instant },
    GaveUp(GiveUp),
}

/// What a state looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Nothing runs: never started, ended, or stopped.
    Idle,
    /// The process is being created.
    Starting,
    /// It runs and has not said that it is ready.
    Running,
    /// It runs and is ready.
    Ready,
    /// It is stopped by a signal (SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU).
    Paused,
    /// It is being stopped, or it ended and the rest of its group is being cleared away.
    Stopping,
    /// It ended; the next start has a due time.
    Backoff,
    /// The restart policy gave up. Only a start by hand leaves this state.
    Failed,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            State::Idle => "idle",
            State::Starting => "starting",
            State::Running => "running",
            State::Ready => "ready",
            State::Paused => "paused",
            State::Stopping => "stopping",
            State::Backoff => "backoff",
            State::Failed => "failed",
        })
    }
}

#[derive(Debug)]
pub(crate) struct Machine {
    rules: Rules,
    phase: Phase,
    generation: u64,
    history: History,
    /// Off from an explicit stop until the next start by hand.
    restarting: bool,
    restarts: u64,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Failed,
    Starting { by_hand: bool, wish: Option<Wish> },
    Up(Run),
    Clearing(Clearing),
    Draining { run: Run, reason: ExitReason, ended: Instant, until: Instant },
    Reporting { verdict: Verdict },
    Backoff { due: Instant },
}

#[derive(Debug)]
struct Clearing {
    run: Run,
    reason: ExitReason,
    ended: Instant,
    /// When to look again; `None` while an answer is awaited.
    look: Option<Instant>,
    pause: Duration,
}

/// A stop that arrived before there was anything to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Stop,
    Kill,
}

#[derive(Debug)]
struct Run {
    since: Instant,
    ready: Option<Instant>,
    ready_by: Option<Instant>,
    watchdog_by: Option<Instant>,
    paused: bool,
    announced_stop: bool,
    /// We end it because it did not do what it should: a failure, whatever its exit says.
    faulty: bool,
    requested: bool,
    forced: bool,
    climb: Option<Climb>,
}

/// Where on a ladder we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Climb {
    ladder: Ladder,
    step: usize,
    /// When the next rung is due; `None` after SIGKILL.
    due: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ladder {
    Stop,
    Survivors,
}

impl Machine {
    pub(crate) fn new(rules: Rules) -> Machine {
        Machine {
            rules,
            phase: Phase::Idle,
            generation: 0,
            history: History::default(),
            restarting: false,
            restarts: 0,
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.restarts
    }

    pub(crate) fn state(&self) -> State {
        match &self.phase {
            Phase::Idle => State::Idle,
            Phase::Failed => State::Failed,
            Phase::Starting { .. } => State::Starting,
            Phase::Up(run) if run.climb.is_some() || run.announced_stop => State::Stopping,
            Phase::Up(run) if run.paused => State::Paused,
            Phase::Up(run) if run.ready.is_some() => State::Ready,
            Phase::Up(_) => State::Running,
            Phase::Clearing(_) | Phase::Draining { .. } => State::Stopping,
            Phase::Reporting { verdict } => match verdict {
                Verdict::Done => State::Idle,
                Verdict::Again { .. } => State::Backoff,
                Verdict::GiveUp(_) => State::Failed,
            },
            Phase::Backoff { .. } => State::Backoff,
        }
    }

    pub(crate) fn reports(&self) -> bool {
        self.rules.reports
    }

    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. })
    }

    /// A run is there: from the start of its creation until it is over.
    pub(crate) fn is_alive(&self) -> bool {
        match self.phase {
            Phase::Starting { .. } | Phase::Up(_) | Phase::Clearing(_) | Phase::Draining { .. } => true,
            Phase::Idle | Phase::Failed | Phase::Reporting { .. } | Phase::Backoff { .. } => false,
        }
    }

    /// It will not run again by itself, and everyone who wanted to hear of that has.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Failed)
    }

    /// The run is over and its `on_exit` callback has not returned.
    pub(crate) fn is_reporting(&self) -> bool {
        matches!(self.phase, Phase::Reporting { .. })
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(&self.phase, Phase::Up(run) if run.ready.is_some())
    }

    /// When the next automatic start is due.
    pub(crate) fn next_start(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Backoff { due } | Phase::Reporting { verdict: Verdict::Again { at: due } } => Some(*due),
            Phase::Reporting { verdict: Verdict::Done | Verdict::GiveUp(_) }
            | Phase::Idle
            | Phase::Failed
            | Phase::Starting { .. }
            | Phase::Up(_)
            | Phase::Clearing(_)
            | Phase::Draining { .. } => None,
        }
    }

    /// When `Tick` has something to do; the earliest of all.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Idle | Phase::Failed | Phase::Starting { .. } | Phase::Reporting { .. } => None,
            Phase::Up(run) => {
                let climb = run.climb.and_then(|climb| climb.due);
                [climb, run.ready_by, run.watchdog_by].into_iter().flatten().min()
            }
            Phase::Clearing(at) => {
                let climb = at.run.climb.and_then(|climb| climb.due);
                [climb, at.look].into_iter().flatten().min()
            }
            Phase::Draining { until, .. } => Some(*until),
            Phase::Backoff { due } => Some(*due),
        }
    }

    /// Takes an event of the current generation, or a request.
    pub(crate) fn step(&mut self, event: Event, now: Instant, random: f64, out: &mut Vec<Action>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        self.phase = match phase {
            Phase::Idle => self.at_rest(Phase::Idle, event, out),
            Phase::Failed => self.at_rest(Phase::Failed, event, out),
            Phase::Starting { by_hand, wish } => self.starting(by_hand, wish, event, now, random, out),
            Phase::Up(run) => self.up(run, event, now, out),
            Phase::Clearing(clearing) => self.clearing(clearing, event, now, out),
            Phase::Draining { run, reason, ended, until } => match event {
                Event::Drained => self.conclude(run, reason, ended, false, now, random, out),
                Event::Tick if now >= until => {
                    out.push(Action::Abandon);
                    self.conclude(run, reason, ended, true, now, random, out)
                }
                Event::Stop | Event::Kill | Event::Last => {
                    self.restarting = false;
                    Phase::Draining { run, reason, ended, until }
                }
                Event::Start
                | Event::Spawned
                | Event::SpawnFailed(_)
                | Event::Ready
                | Event::Watchdog
                | Event::WatchdogFailed
                | Event::AnnouncedStop
                | Event::Paused
                | Event::Continued
                | Event::LeaderExited(_)
                | Event::Empty
                | Event::Occupied
                | Event::Reported
                | Event::Tick => Phase::Draining { run, reason, ended, until },
            },
            Phase::Reporting { verdict } => self.reporting(verdict, event, now, out),
            Phase::Backoff { due } => self.backing_off(due, event, now, out),
        };
    }

    /// Pushes the end of the draining back: a slow reader on our side is not a leak.
    pub(crate) fn postpone_drain(&mut self, now: Instant) {
        if let Phase::Draining { until, .. } = &mut self.phase {
            *until = now + self.rules.drain;
        }
    }

    fn at_rest(&mut self, phase: Phase, event: Event, out: &mut Vec<Action>) -> Phase {
        match event {
            Event::Start => self.start_by_hand(out),
            Event::Stop
            | Event::Kill
            | Event::Last
            | Event::Spawned
            | Event::SpawnFailed(_)
            | Event::Ready
            | Event::Watchdog
            | Event::WatchdogFailed
            | Event::AnnouncedStop
            | Event::Paused
            | Event::Continued
            | Event::LeaderExited(_)
            | Event::Empty
            | Event::Occupied
            | Event::Drained
            | Event::Reported
            | Event::Tick => phase,
        }
    }

    fn start_by_hand(&mut self, out: &mut Vec<Action>) -> Phase {
        self.generation += 1;
        self.restarting = true;
        self.history = History::default();
        out.push(Action::Spawn);
        Phase::Starting { by_hand: true, wish: None }
    }

    fn start_again(&mut self, out: &mut Vec<Action>) -> Phase {
        self.generation += 1;
        self.restarts += 1;
        out.push(Action::Spawn);
        Phase::Starting { by_hand: false, wish: None }
    }

    fn starting(
        &mut self,
        by_hand: bool,
        wish: Option<Wish>,
        event: Event,
        now: Instant,
        random: f64,
        out: &mut Vec<Action>,
    ) -> Phase {
        match event {
            Event::Spawned => self.spawned(wish, now, out),
            // A start by hand tells its caller, who decides; the policy is for what ran once.
            Event::SpawnFailed(_) if by_hand || !self.restarting => Phase::Idle,
            Event::SpawnFailed(errno) => {
                let outcome = Outcome::cannot_start(errno);
                let verdict = self.rules.restart.decide(&mut self.history, &outcome, now, random);
                self.proceed(verdict, now, out)
            }
            Event::Stop => {
                self.restarting = false;
                Phase::Starting { by_hand, wish: wish.or(Some(Wish::Stop)) }
            }
            Event::Kill => {
                self.restarting = false;
                Phase::Starting { by_hand, wish: Some(Wish::Kill) }
            }
            Event::Last => {
                self.restarting = false;
                Phase::Starting { by_hand, wish }
            }
            Event::Start
            | Event::Ready
            | Event::Watchdog
            | Event::WatchdogFailed
            | Event::AnnouncedStop
            | Event::Paused
            | Event::Continued
            | Event::LeaderExited(_)
            | Event::Empty
            | Event::Occupied
            | Event::Drained
            | Event::Reported
            | Event::Tick => Phase::Starting { by_hand, wish },
        }
    }

    fn spawned(&mut self, wish: Option<Wish>, now: Instant, out: &mut Vec<Action>) -> Phase {
        let mut run = Run {
            since: now,
            ready: None,
            ready_by: self.rules.ready_within.and_then(|limit| now.checked_add(limit)),
            watchdog_by: None,
            paused: false,
            announced_stop: false,
            faulty: false,
            requested: false,
            forced: false,
            climb: None,
        };
        out.push(Action::Announce(Notice::Started));
        match wish {
            Some(Wish::Stop) => self.stop_up(run, now, out),
            Some(Wish::Kill) => self.kill_up(run, out),
            None => {
                if self.rules.ready_within.is_none() {
                    self.become_ready(&mut run, now, out);
                }
                Phase::Up(run)
            }
        }
    }

    fn become_ready(&self, run: &mut Run, now: Instant, out: &mut Vec<Action>) {
        run.ready = Some(now);
        run.ready_by = None;
        run.watchdog_by = self.rules.watchdog.and_then(|limit| now.checked_add(limit));
        out.push(Action::Announce(Notice::Ready));
    }

    fn up(&mut self, mut run: Run, event: Event, now: Instant, out: &mut Vec<Action>) -> Phase {
        match event {
            Event::LeaderExited(reason) => {
                out.push(Action::Look);
                return Phase::Clearing(Clearing { run, reason, ended: now, look: None, pause: FIRST_LOOK });
            }
            Event::Stop => return self.stop_up(run, now, out),
            Event::Kill => return self.kill_up(run, out),
            Event::Last => self.restarting = false,
            Event::Ready => {
                if run.ready.is_none() && run.climb.is_none() {
                    self.become_ready(&mut run, now, out);
                }
            }
            Event::Watchdog => {
                if run.watchdog_by.is_some() {
                    run.watchdog_by = self.rules.watchdog.and_then(|limit| now.checked_add(limit));
                }
            }
            Event::WatchdogFailed => return self.fault(run, Notice::WatchdogMissed, now, out),
            Event::AnnouncedStop => {
                // It stops by itself: neither readiness nor the watchdog has anything to say from now on.
                run.announced_stop = true;
                run.watchdog_by = None;
                run.ready_by = None;
            }
            Event::Paused => {
                if !run.paused {
                    run.paused = true;
                    out.push(Action::Announce(Notice::Paused));
                }
            }
            Event::Continued => {
                if run.paused {
                    run.paused = false;
                    out.push(Action::Announce(Notice::Continued));
                }
            }
            Event::Tick => {
                if run.climb.is_some() {
                    self.climb(&mut run, now, out);
                } else if run.ready_by.is_some_and(|by| now >= by) {
                    return self.fault(run, Notice::NotReady, now, out);
                } else if run.watchdog_by.is_some_and(|by| now >= by) {
                    return self.fault(run, Notice::WatchdogMissed, now, out);
                }
            }
            Event::Start
            | Event::Spawned
            | Event::SpawnFailed(_)
            | Event::Empty
            | Event::Occupied
            | Event::Drained
            | Event::Reported => {}
        }
        Phase::Up(run)
    }

    /// Ends a run that did not do what it should.
    fn fault(&mut self, mut run: Run, notice: Notice, now: Instant, out: &mut Vec<Action>) -> Phase {
        if run.climb.is_none() {
            run.faulty = true;
            out.push(Action::Announce(notice));
            self.begin(&mut run, Ladder::Stop, now, out);
        }
        Phase::Up(run)
    }

    fn stop_up(&mut self, mut run: Run, now: Instant, out: &mut Vec<Action>) -> Phase {
        self.restarting = false;
        run.requested = true;
        if run.climb.is_none() {
            out.push(Action::Announce(Notice::Stopping));
            self.begin(&mut run, Ladder::Stop, now, out);
        }
        Phase::Up(run)
    }

    fn kill_up(&mut self, mut run: Run, out: &mut Vec<Action>) -> Phase {
        self.restarting = false;
        run.requested = true;
        if run.climb.is_none() {
            out.push(Action::Announce(Notice::Stopping));
        }
        self.kill(&mut run, out);
        Phase::Up(run)
    }

    fn ladder(&self, ladder: Ladder) -> &[(Signal, Duration)] {
        match ladder {
            Ladder::Stop => self.rules.stop.steps(),
            Ladder::Survivors => self.rules.survivors.ladder().map_or(&[], Stop::steps),
        }
    }

    fn begin(&self, run: &mut Run, ladder: Ladder, now: Instant, out: &mut Vec<Action>) {
        // From here on only the ladder counts time.
        run.ready_by = None;
        run.watchdog_by = None;
        self.stand_on(run, ladder, 0, now, out);
    }

    fn climb(&self, run: &mut Run, now: Instant, out: &mut Vec<Action>) {
        if let Some(Climb { ladder, step, due: Some(due) }) = run.climb
            && now >= due
        {
            self.stand_on(run, ladder, step + 1, now, out);
        }
    }

    fn stand_on(&self, run: &mut Run, ladder: Ladder, step: usize, now: Instant, out: &mut Vec<Action>) {
        match self.ladder(ladder).get(step) {
            Some(&(signal, grace)) => {
                out.push(Action::Signal(signal));
                // A grace too long for the clock is one that never ends.
                run.climb = Some(Climb { ladder, step, due: now.checked_add(grace) });
            }
            None => self.kill(run, out),
        }
    }

    fn kill(&self, run: &mut Run, out: &mut Vec<Action>) {
        run.forced = true;
        run.ready_by = None;
        run.watchdog_by = None;
        run.climb = Some(Climb { ladder: Ladder::Stop, step: usize::MAX, due: None });
        out.push(Action::Kill);
    }

    fn clearing(&mut self, mut at: Clearing, event: Event, now: Instant, out: &mut Vec<Action>) -> Phase {
        match event {
            Event::Empty => return self.drain(at, now, out),
            Event::Occupied => {
                if at.run.climb.is_none() {
                    if self.rules.survivors.ladder().is_none() {
                        return self.drain(at, now, out);
                    }
                    self.begin(&mut at.run, Ladder::Survivors, now, out);
                }
                let killed = at.run.climb.is_some_and(|climb| climb.due.is_none());
                at.look = Some(now + at.pause);
                at.pause = (at.pause * 2).min(if killed { SLOW_LOOK } else { LAST_LOOK });
            }
            Event::Stop | Event::Last => self.restarting = false,
            Event::Kill => {
                self.restarting = false;
                self.kill(&mut at.run, out);
                at.pause = FIRST_LOOK;
                at.look = Some(now + at.pause);
            }
            Event::Tick => {
                self.climb(&mut at.run, now, out);
                if at.look.is_some_and(|look| now >= look) {
                    at.look = None;
                    // A process created while we killed the others has not seen the signal.
                    if at.run.climb.is_some_and(|climb| climb.due.is_none()) {
                        out.push(Action::Kill);
                    }
                    out.push(Action::Look);
                }
            }
            Event::Start
            | Event::Spawned
            | Event::SpawnFailed(_)
            | Event::Ready
            | Event::Watchdog
            | Event::WatchdogFailed
            | Event::AnnouncedStop
            | Event::Paused
            | Event::Continued
            | Event::LeaderExited(_)
            | Event::Drained
            | Event::Reported => {}
        }
        Phase::Clearing(at)
    }

    fn drain(&mut self, at: Clearing, now: Instant, out: &mut Vec<Action>) -> Phase {
        out.push(Action::Drain);
        Phase::Draining { run: at.run, reason: at.reason, ended: at.ended, until: now + self.rules.drain }
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one end, used once")]
    fn conclude(
        &mut self,
        run: Run,
        reason: ExitReason,
        ended: Instant,
        output_leaked: bool,
        now: Instant,
        random: f64,
        out: &mut Vec<Action>,
    ) -> Phase {
        out.push(Action::Conclude(Conclusion {
            reason,
            requested: run.requested,
            forced: run.forced,
            output_leaked,
            runtime: ended.saturating_duration_since(run.since),
        }));
        let verdict = if self.restarting {
            let outcome = self.outcome(&run, reason, ended);
            self.rules.restart.decide(&mut self.history, &outcome, now, random)
        } else {
            Verdict::Done
        };
        if self.rules.reports { Phase::Reporting { verdict } } else { self.proceed(verdict, now, out) }
    }

    fn outcome(&self, run: &Run, reason: ExitReason, ended: Instant) -> Outcome {
        let stable = match run.ready {
            Some(ready) => ended.saturating_duration_since(ready),
            None => Duration::ZERO,
        };
        if run.faulty {
            return Outcome::NotReady { stable };
        }
        Outcome::Ended { reason, stable, stopped_by_us: run.requested }
    }

    fn proceed(&mut self, verdict: Verdict, now: Instant, out: &mut Vec<Action>) -> Phase {
        match verdict {
            Verdict::Done => Phase::Idle,
            Verdict::Again { at } if at <= now => self.start_again(out),
            Verdict::Again { at } => {
                out.push(Action::Announce(Notice::Backoff { due: at }));
                Phase::Backoff { due: at }
            }
            Verdict::GiveUp(why) => {
                out.push(Action::Announce(Notice::GaveUp(why)));
                Phase::Failed
            }
        }
    }

    fn reporting(&mut self, verdict: Verdict, event: Event, now: Instant, out: &mut Vec<Action>) -> Phase {
        match event {
            Event::Reported => self.proceed(verdict, now, out),
            Event::Start => self.start_by_hand(out),
            Event::Stop | Event::Kill | Event::Last => {
                self.restarting = false;
                match verdict {
                    Verdict::Done | Verdict::Again { .. } => Phase::Reporting { verdict: Verdict::Done },
                    Verdict::GiveUp(why) => Phase::Reporting { verdict: Verdict::GiveUp(why) },
                }
            }
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::Ready
            | Event::Watchdog
            | Event::WatchdogFailed
            | Event::AnnouncedStop
            | Event::Paused
            | Event::Continued
            | Event::LeaderExited(_)
            | Event::Empty
            | Event::Occupied
            | Event::Drained
            | Event::Tick => Phase::Reporting { verdict },
        }
    }

    fn backing_off(&mut self, due: Instant, event: Event, now: Instant, out: &mut Vec<Action>) -> Phase {
        match event {
            Event::Tick if now >= due => self.start_again(out),
            Event::Start => self.start_by_hand(out),
            Event::Stop | Event::Kill | Event::Last => {
                self.restarting = false;
                Phase::Idle
            }
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::Ready
            | Event::Watchdog
            | Event::WatchdogFailed
            | Event::AnnouncedStop
            | Event::Paused
            | Event::Continued
            | Event::LeaderExited(_)
            | Event::Empty
            | Event::Occupied
            | Event::Drained
            | Event::Reported
            | Event::Tick => Phase::Backoff { due },
        }
    }
}
