//! Another process of this benchmark, which does its work when told to and answers how long it took.

use std::env;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A parent of its own size or with its own children: this program again, with `--serve`.
pub(crate) struct Served {
    child: Child,
    orders: ChildStdin,
    answers: ChildStdout,
}

impl Served {
    /// Starts it, and waits until it is set up.
    pub(crate) fn start(args: &[&str]) -> io::Result<Served> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--serve").args(args);
        Served::start_by(command)
    }

    /// A program that does as [`serve`].
    pub(crate) fn start_by(mut command: Command) -> io::Result<Served> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().expect("it is piped");
        let mut answers = child.stdout.take().expect("it is piped");
        answers.read_exact(&mut [0])?;
        Ok(Served { child, orders, answers })
    }

    pub(crate) fn round(&mut self) -> Duration {
        let mut nanos = [0; 8];
        self.orders.write_all(&[1]).expect("it is there");
        self.answers.read_exact(&mut nanos).expect("it answers");
        Duration::from_nanos(u64::from_ne_bytes(nanos))
    }

    pub(crate) fn stop(self) -> io::Result<()> {
        let Served { mut child, orders, answers } = self;
        drop((orders, answers));
        child.wait().map(drop)
    }
}

/// Its side: says that it is set up, then does `one` for each order until there are no more.
pub(crate) fn serve(mut one: impl FnMut() -> Duration) -> io::Result<()> {
    let (mut orders, mut answers) = (io::stdin(), io::stdout());
    answers.write_all(&[1])?;
    answers.flush()?;
    let mut order = [0];
    while orders.read(&mut order)? == 1 {
        answers.write_all(&(one().as_nanos() as u64).to_ne_bytes())?;
        answers.flush()?;
    }
    Ok(())
}
