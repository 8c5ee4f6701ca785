//! A struct that says what its process runs, as one overrides `run` of Python's `multiprocessing.Process`.
//!
//! `cargo run --example override_run`

use std::process::ExitCode;

use pkit::{Process, Run};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Resize {
    path: String,
    width: u32,
}

impl Run for Resize {
    type Output = ExitCode;

    fn run(self) -> ExitCode {
        println!("process {} makes {} {} pixels wide", std::process::id(), self.path, self.width);
        if self.width > 0 { ExitCode::SUCCESS } else { ExitCode::from(2) }
    }
}

fn main() -> pkit::Result<()> {
    for (path, width) in [("cat.png", 80), ("dog.png", 0)] {
        let resize = Process::new(Resize { path: path.into(), width });
        resize.start(true)?;
        println!("{resize} of {path}: {}", resize.join()?);
    }
    Ok(())
}
