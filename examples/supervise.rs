//! Real services, supervised: started in order, each when the one before is ready; restarted; stopped in reverse on Ctrl-C, killed
//! on the next. Or commands of yours, which `sh` reads behind `exec`: `-- 'redis-server --port 7070' 'nginx -g "daemon off;"'`

use std::thread::{JoinHandle, scope, spawn};
use std::time::{Duration, SystemTime};

use pkit::{Builder, Command, Event, EventKind, Events, Process, Ready, Restart, Signal, Status};
use signal_hook::{consts::SIGINT, consts::SIGTERM, iterator::Signals};

fn service(name: &str, script: &str) -> Builder {
    let (policy, who) = (Restart::always().limit(4, Duration::from_secs(30)), name.to_owned());
    let command = Command::new("sh").args(["-c", &format!("exec {script}")]).clone();
    Process::builder(command).name(name).restart(policy).on_line(move |line| println!("{:12}{who}: {line}", ""))
}

fn narrate(events: Events, began: SystemTime) -> JoinHandle<()> {
    let since = move |event: &Event| event.at.duration_since(began).unwrap_or_default().as_secs_f64();
    let tell = move |event: &Event| println!("{:>8.3} s  {event}", since(event));
    spawn(move || drop(events.inspect(tell).find(|event| matches!(event.kind, EventKind::Failed(_)))))
}

fn table(statuses: impl Iterator<Item = Status>) {
    println!("\n{:<12} {:<9} {:>8} {:>8}  LAST EXIT", "NAME", "STATE", "PID", "RESTARTS");
    statuses.for_each(|status| println!("{status}"));
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let given: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--").collect();
    let mut builders: Vec<_> = given.iter().map(|line| service(line.split(' ').next().unwrap_or(line), line)).collect();
    if given.is_empty() {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let web = format!("python3 -m http.server --bind 127.0.0.1 {}", address.port());
        builders.push(service("web", &web).ready(Ready::tcp(address.to_string())));
        builders.push(service("worker", "sh -c 'echo up; exec sleep 100000'").ready(Ready::line("up")));
        builders.push(service("flaky", "sh -c 'sleep 0.1; exit 3'"));
    }
    let services = builders.into_iter().map(Builder::build).collect::<Result<Vec<_>, _>>()?;
    let began = SystemTime::now();
    let mut narrators: Vec<_> = services.iter().map(|process| narrate(process.subscribe(), began)).collect();
    services.iter().try_for_each(|process| process.start(true).map(drop))?;
    if let ([_, worker, _], true) = (&services[..], given.is_empty()) {
        worker.signal(Signal::KILL)?; // As a crash would: its policy brings it back.
        narrators.pop().map(JoinHandle::join); // That of `flaky`, which is given up in the end.
    }
    table(services.iter().map(Process::status));
    println!("\nCtrl-C stops them all, in reverse order; a second one kills them.");
    signals.forever().next();
    let listening = signals.handle();
    scope(|scope| {
        scope.spawn(|| signals.forever().next().map(|_| services.iter().try_for_each(|process| process.kill(false))));
        let stopped = services.iter().rev().try_for_each(|process| process.terminate(true));
        listening.close();
        stopped
    })?;
    let ends: Vec<_> = services.into_iter().map(|process| process.status()).collect();
    narrators.into_iter().for_each(|narrator| narrator.join().expect("it only prints"));
    table(ends.into_iter());
    Ok(())
}
