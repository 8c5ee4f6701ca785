//! A late exit, timer, callback or line never touches the next run.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pkit::{Backoff, Process, Ready, Restart, RestartMode, Signal, Stdio, Stop};

use crate::support::{LONG, is_alive, say, sh, tests};

tests! {
    fn output_is_of_its_own_run() {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let into = Arc::clone(&lines);
        let process = Process::builder(sh("echo $$; exec sleep 1000"))
            .on_line(move |line| into.lock().unwrap().push(line.text().into_owned()))
            .build()
            .unwrap();
        let mut pid = process.start(true).unwrap();
        let mut pids = vec![pid.to_string()];
        for _ in 0..100 {
            let line = process.wait_for_line(LONG, |_| true).unwrap();
            assert_eq!(line.text(), pid.to_string());
            let old = pid;
            pid = process.restart(RestartMode::Kill, true).unwrap();
            pids.push(pid.to_string());
            assert!(!is_alive(old) && is_alive(pid));
            assert_eq!(process.exit().unwrap().pid(), old);
        }
        process.wait_for_line(LONG, |_| true).unwrap();
        process.terminate(true).unwrap();
        assert_eq!(*lines.lock().unwrap(), pids);
    }

    fn restarts_by_the_policy_keep_lines_apart() {
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let (lines, exits) = (Arc::clone(&told), Arc::clone(&told));
        let process = Process::builder(sh("echo $$; exit 1"))
            .on_line(move |line| lines.lock().unwrap().push(line.text().into_owned()))
            .on_exit(move |_, exit| exits.lock().unwrap().push(exit.pid().to_string()))
            .restart(Restart::on_failure().backoff(Backoff::none()).limit(100, LONG))
            .build()
            .unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        let told = told.lock().unwrap();
        assert_eq!(told.len(), 202);
        assert!(told.chunks(2).all(|run| run[0] == run[1]), "{told:?}");
    }

    fn a_timer_of_the_stop_ladder_spares_the_next_run() {
        let grace = Duration::from_millis(30);
        let process = Process::builder(sh("exec sleep 1000")).stop(Stop::signal(Signal::TERM, grace)).build().unwrap();
        for _ in 0..5 {
            process.start(true).unwrap();
            process.terminate(true).unwrap();
            let pid = process.start(true).unwrap();
            // Twice as long as the ladder that was left behind.
            assert_eq!(process.join_timeout(2 * grace).unwrap(), None);
            assert_eq!(process.pid(), Some(pid));
            process.kill(true).unwrap();
        }
    }

    fn a_limit_of_readiness_spares_the_next_run() {
        let limit = Duration::from_millis(150);
        let process = Process::builder(sh("read x; echo up; exec sleep 1000"))
            .stdin(Stdio::piped())
            .ready(Ready::line("up"))
            .ready_within(limit)
            .build()
            .unwrap();
        process.start(false).unwrap();
        process.terminate(true).unwrap();
        process.start(false).unwrap();
        say(&mut process.stdin().unwrap(), "up");
        process.wait_until(LONG, |status| status.state == pkit::State::Ready).unwrap();
        assert_eq!(process.join_timeout(2 * limit).unwrap(), None);
    }
}
