//! A real server in a test: on a free port, ready when the test begins, gone when it ends, whatever happens in between.
//!
//! `cargo run --example integration_test`; the same code stands in a `#[test]`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use pkit::{Command, Process, Ready};

/// A web server for one test.
struct Server {
    process: Process,
    port: u16,
}

impl Server {
    fn start() -> pkit::Result<Server> {
        let port = free_port();
        let mut command = Command::new("python3");
        command.args(["-m", "http.server", "--bind", "127.0.0.1"]).arg(port.to_string());
        let process = Process::builder(command)
            .name("web server")
            .ready(Ready::tcp(format!("127.0.0.1:{port}")))
            .capture(64 * 1024)
            .build()?;
        process.start(Duration::from_secs(20))?;
        Ok(Server { process, port })
    }
}

/// Also when the test panics. (The last handle dropped stops the process as well, but does not wait for its end.)
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.terminate(true);
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start()?;
    let mut client = TcpStream::connect(("127.0.0.1", server.port))?;
    client.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.0 200"));

    // What the server logged is at hand when an assertion fails.
    server.process.wait_for_line(Duration::from_secs(10), |line| line.contains("GET / HTTP/1.0"))?;
    let pid = server.process.pid().expect("it runs");
    drop(server);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "nothing is left");
    println!("the server answered, logged the request, and is gone");
    Ok(())
}
