//! Real services, supervised: started in order, each when the one before is ready; restarted; stopped in reverse on Ctrl-C, killed
//! on the next. Or commands of yours, which `sh` reads behind `exec`: `-- 'redis-server --port 7070' 'nginx -g "daemon off;"'`

use std::time::{Duration, SystemTime};

use pkit::{Builder, Child, Command, EventKind, Events, Process, Ready, Restart, Signal, Supervisor};

fn service(name: &str, script: &str) -> Builder {
    let (policy, who) = (Restart::always().limit(4, Duration::from_secs(30)), name.to_owned());
    let command = Command::new("sh").args(["-c", &format!("exec {script}")]).clone();
    Process::builder(command).name(name).restart(policy).on_line(move |line| println!("{:12}{who}: {line}", ""))
}

/// Tells of everything, and in the show kills the worker once all are up: its policy brings it back.
fn narrate(stack: &Supervisor, events: Events, is_show: bool) {
    let began = SystemTime::now();
    for event in events {
        let since = event.at.duration_since(began).unwrap_or_default().as_secs_f64();
        println!("{since:>8.3} s  {event}");
        let is_up = match &event.kind {
            EventKind::Ready if &*event.process == "stack" && is_show => {
                let _ = stack.process("worker").map(|worker| worker.signal(Signal::KILL));
                false
            }
            EventKind::Ready => &*event.process == "stack",
            EventKind::Failed(_) => is_show,
            EventKind::AllStopped => return,
            _ => false,
        };
        if is_up {
            println!("\n{}\n\nCtrl-C stops them all, in reverse order; a second one kills them.", stack.status());
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--").collect();
    let mut stack = Supervisor::builder().name("stack");
    for line in &given {
        stack = stack.child(service(line.split(' ').next().unwrap_or(line), line));
    }
    if given.is_empty() {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let web = format!("python3 -m http.server --bind 127.0.0.1 {}", address.port());
        stack = stack
            .child(service("web", &web).ready(Ready::tcp(address.to_string())))
            .child(service("worker", "sh -c 'echo up; exec sleep 100000'").ready(Ready::line("up")))
            .child(Child::from(service("flaky", "sh -c 'sleep 0.1; exit 3'")).optional()); // the others do without it
    }
    let stack = stack.build()?;
    let (events, teller) = (stack.subscribe(), stack.clone());
    let telling = std::thread::spawn(move || narrate(&teller, events, given.is_empty()));
    let end = stack.run()?; // until Ctrl-C, SIGTERM, or a failure
    telling.join().expect("it only prints");
    println!("\n{end}");
    Ok(())
}
