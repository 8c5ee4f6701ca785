//! From the death of a child to its successor's first instruction: `pkit`, the least possible supervisor in C, and a
//! loop written by hand on `tokio::process`.
//!
//! Each supervisor runs in a process of its own: the C program, or this one again with `--serve`. The benchmark kills
//! the children and reads the clock right before; the successors send the time at which they entered `main`.

mod support;

use std::env;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use support::{Beacon, Machine, Rounds, compile, now_ns, smoke};

const PATIENCE: Duration = Duration::from_secs(30);

/// Something that keeps `n` copies of the beacon running.
trait Supervisor {
    fn name(&self) -> &'static str;
    fn start(&mut self, n: usize, beacon: &Beacon) -> io::Result<()>;
    /// Returns when it is gone; its children have been killed.
    fn stop(&mut self) -> io::Result<()>;
}

fn main() -> io::Result<()> {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    if let [flag, peer, n, program, rest @ ..] = args.as_slice()
        && flag == "--serve"
    {
        let n = n.to_str().and_then(|n| n.parse().ok()).expect("a number of children");
        return match peer.to_str() {
            Some("pkit") => with_pkit::serve(n, program, rest),
            _ => with_tokio::serve(n, program, rest),
        };
    }
    println!("{}", Machine::new());
    one_child(if smoke() { 3 } else { 100 })?;
    all_at_once(if smoke() { 10 } else { 100 }, 30)
}

fn supervisors() -> io::Result<Vec<Box<dyn Supervisor>>> {
    Ok(vec![Box::new(Served::new("pkit")), Box::new(CLoop::new()?), Box::new(Served::new("tokio"))])
}

/// One child each; a round kills one child of every supervisor.
fn one_child(rounds: usize) -> io::Result<()> {
    let times = measure("kill -9 of a child to its successor's first instruction", 1, rounds)?;
    times.require("C loop", 1.15, 1.15);
    times.require("tokio", None, 1.0);
    Ok(())
}

/// `n` children each; a round kills all children of one supervisor after the other.
fn all_at_once(n: usize, rounds: usize) -> io::Result<()> {
    let times = measure(&format!("{n} children killed at once, until all {n} run again"), n, rounds)?;
    times.require("C loop", 1.3, 1.05);
    Ok(())
}

fn measure(name: &str, n: usize, count: usize) -> io::Result<support::rounds::Times> {
    let mut sides = Vec::new();
    for supervisor in supervisors()? {
        sides.push(Side::start(supervisor, n)?);
    }
    let mut rounds = Rounds::new(name);
    for side in &mut sides {
        rounds = rounds.side(side.supervisor.name(), || side.kill_all().expect("all children came back"));
    }
    let times = rounds.run(count);
    sides.iter_mut().try_for_each(|side| side.supervisor.stop())?;
    Ok(times)
}

/// A running supervisor, and who its children are.
struct Side {
    supervisor: Box<dyn Supervisor>,
    beacon: Beacon,
    pids: Vec<u32>,
}

impl Side {
    fn start(mut supervisor: Box<dyn Supervisor>, n: usize) -> io::Result<Side> {
        let beacon = Beacon::new()?;
        supervisor.start(n, &beacon)?;
        let pids: io::Result<Vec<u32>> = (0..n).map(|_| Ok(beacon.receive(PATIENCE)?.0)).collect();
        Ok(Side { supervisor, beacon, pids: pids? })
    }

    /// Kills every child and returns the time until the last successor ran.
    fn kill_all(&mut self) -> io::Result<Duration> {
        let before = now_ns();
        for pid in &self.pids {
            kill(Pid::from_raw(*pid as i32), Signal::SIGKILL)?;
        }
        let mut last = before;
        for pid in &mut self.pids {
            let (successor, at) = self.beacon.receive(PATIENCE)?;
            (*pid, last) = (successor, last.max(at));
        }
        Ok(Duration::from_nanos(last - before))
    }
}

/// `benches/peers/loop.c`.
struct CLoop {
    program: PathBuf,
    running: Option<Child>,
    _dir: TempDir,
}

impl CLoop {
    fn new() -> io::Result<CLoop> {
        let dir = tempfile::tempdir()?;
        Ok(CLoop { program: compile("benches/peers/loop.c", dir.path())?, running: None, _dir: dir })
    }
}

impl Supervisor for CLoop {
    fn name(&self) -> &'static str {
        "C loop"
    }

    fn start(&mut self, n: usize, beacon: &Beacon) -> io::Result<()> {
        let (program, args) = beacon.command();
        let mut command = Command::new(&self.program);
        command.arg(n.to_string()).arg(program).args(args).stdin(Stdio::null());
        self.running = Some(command.spawn()?);
        Ok(())
    }

    fn stop(&mut self) -> io::Result<()> {
        let Some(mut running) = self.running.take() else {
            return Ok(());
        };
        kill(Pid::from_raw(running.id() as i32), Signal::SIGTERM)?;
        running.wait().map(drop)
    }
}

/// This program once more, as a supervisor, until its standard input ends.
struct Served {
    name: &'static str,
    running: Option<Child>,
}

impl Served {
    fn new(name: &'static str) -> Served {
        Served { name, running: None }
    }
}

impl Supervisor for Served {
    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&mut self, n: usize, beacon: &Beacon) -> io::Result<()> {
        let (program, args) = beacon.command();
        let mut command = Command::new(env::current_exe()?);
        command.arg("--serve").arg(self.name).arg(n.to_string()).arg(program).args(args);
        self.running = Some(command.stdin(Stdio::piped()).spawn()?);
        Ok(())
    }

    fn stop(&mut self) -> io::Result<()> {
        // `wait` closes its standard input first.
        self.running.take().map_or(Ok(()), |mut running| running.wait().map(drop))
    }
}

/// Returns when the benchmark that started this process has stopped it or is gone.
fn until_stopped() -> io::Result<()> {
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

mod with_pkit {
    use std::ffi::{OsStr, OsString};
    use std::io;

    use pkit::{Backoff, Command, Process, Restart};

    pub(crate) fn serve(n: usize, program: &OsStr, args: &[OsString]) -> io::Result<()> {
        let start = || -> Result<Process, pkit::Error> {
            let process = Process::builder(Command::new(program).args(args))
                .restart(Restart::always().backoff(Backoff::none()).unlimited())
                .build()?;
            process.start(true)?;
            Ok(process)
        };
        let running: Result<Vec<Process>, pkit::Error> = (0..n).map(|_| start()).collect();
        let running = running.map_err(io::Error::other)?;
        super::until_stopped()?;
        running.iter().try_for_each(|process| process.kill(true)).map_err(io::Error::other)
    }
}

mod with_tokio {
    use std::ffi::{OsStr, OsString};
    use std::io;
    use std::process::Stdio;

    use tokio::process::Command;

    pub(crate) fn serve(n: usize, program: &OsStr, args: &[OsString]) -> io::Result<()> {
        // What `#[tokio::main]` would build. With many exits at once it is ahead of a runtime with one thread.
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            for _ in 0..n {
                tokio::spawn(keep_running(program.to_owned(), args.to_vec()));
            }
            tokio::task::spawn_blocking(super::until_stopped).await?
        })
        // The tasks end with the runtime, and their children with them: `kill_on_drop`.
    }

    async fn keep_running(program: OsString, args: Vec<OsString>) -> io::Result<()> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        loop {
            command.spawn()?.wait().await?;
        }
    }
}
