//! Untrusted work with limits: memory, CPU time, descriptors, processes, another user where that is permitted, and time.
//!
//! `cargo run --example sandbox`

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use pkit::{Builder, Resource, Stop, TaskError};

/// Stands for what strangers ask for.
fn work(wish: String) -> Result<String, String> {
    match &*wish {
        "add" => Ok((1..=100).sum::<u32>().to_string()),
        "eat memory" => Ok(vec![1_u8; 1 << 30].len().to_string()),
        "burn time" => loop {
            std::hint::spin_loop();
        },
        "open files" => {
            let files = (0..1_000).map(|_| File::open("/dev/null")).collect::<Result<Vec<_>, _>>();
            files.map(|files| files.len().to_string()).map_err(|error| error.to_string())
        }
        "start programs" => {
            Command::new("true").status().map(|status| status.to_string()).map_err(|error| error.to_string())
        }
        _ => loop {
            std::thread::park();
        },
    }
}

fn limits(process: Builder) -> Builder {
    let process = process
        .memory_limit(256 << 20)
        .rlimit(Resource::CpuTime, 1, 2) // seconds: SIGXCPU, and SIGKILL
        .rlimit(Resource::OpenFiles, 20, 20)
        .rlimit(Resource::Processes, 1, 1) // of its user; root has no such limit
        .no_new_privs(true)
        .env_clear()
        .current_dir("/")
        .stop(Stop::kill());
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|us| us.uid() == 0);
    if is_root { process.user("nobody") } else { process }
}

fn main() -> Result<(), TaskError> {
    for wish in ["add", "eat memory", "burn time", "open files", "start programs", "wait for ever"] {
        let mut task = pkit::spawn_with(limits, work, wish.to_owned())?;
        match task.wait_timeout(Duration::from_secs(5)) {
            Ok(result) => println!("{wish}: {result:?}"),
            Err(TaskError::TimedOut) => {
                task.cancel();
                println!("{wish}: {}", task.wait().expect_err("it waits for ever"));
            }
            Err(error) => println!("{wish}: {error}"),
        }
    }
    Ok(())
}
