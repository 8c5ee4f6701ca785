//! Starting a process means waiting until it can be used. Each kind of readiness, with a small service for it.
//!
//! `cargo run --example readiness`

use std::time::{Duration, Instant};

use pkit::{Command, Process, Ready};

fn main() -> pkit::Result<()> {
    let dir = std::env::temp_dir().join(format!("pkit-readiness-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory for temporary files");
    let socket = dir.join("socket");
    let file = dir.join("pid");

    let run = |program: &str, code: &str| Command::new(program).args(["-c", code]).current_dir(&dir).clone();
    let (python, sh) = (|code| run("python3", code), |code| run("sh", code));
    let notify = "import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect('\\0' + os.environ['NOTIFY_SOCKET'][1:])
s.send(b'STATUS=warming up'); s.send(b'READY=1\\nSTATUS=serving'); time.sleep(1000)";
    let listen = "import socket, time
s = socket.socket(socket.AF_UNIX); s.bind('socket'); s.listen(); time.sleep(1000)";
    let services = [
        ("a line", sh("echo listening; sleep 1000"), Ready::line("listening")),
        ("a descriptor", sh("echo >&5; sleep 1000"), Ready::fd(5)),
        ("sd_notify", python(notify), Ready::notify()),
        ("a socket", python(listen), Ready::unix(&socket)),
        ("a file", sh("echo $$ > pid; sleep 1000"), Ready::file(&file)),
        ("a check", sh("sleep 1000"), Ready::check(|process| process.pid().is_some())),
    ];
    for (name, command, ready) in services {
        let began = Instant::now();
        let service = Process::builder(command).name(name).ready(ready).build()?;
        let pid = service.start(Duration::from_secs(20))?;
        let text = service.status().text.unwrap_or_default();
        println!("{name}: pid {pid} is {} after {:?} {text}", service.state(), began.elapsed());
        service.terminate(true)?;
    }

    let broken = Process::builder(sh("exit 3")).ready(Ready::line("never")).build()?;
    let error = broken.start(true).expect_err("it ends before it is ready");
    println!("{error}");
    assert_eq!(error.exit().and_then(pkit::Exit::code), Some(3));
    std::fs::remove_dir_all(&dir).expect("it is ours");
    Ok(())
}
