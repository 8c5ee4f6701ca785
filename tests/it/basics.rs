//! Start, join, terminate, kill, restart: the life of one process.

use pkit::{Command, Process, RestartMode, State, Wait};

use crate::support::{LONG, eventually, is_alive, sh, tests};

tests! {
    fn a_run_from_start_to_end() {
        let process = Process::new(sh("exit 3"));
        assert_eq!(process.state(), State::Idle);
        assert!(process.join().is_err_and(|error| error.is_never_started()));
        let pid = process.start(true).unwrap();
        let exit = process.join().unwrap();
        assert_eq!(exit.code(), Some(3));
        assert_eq!(exit.pid(), pid);
        assert!(!exit.requested() && !exit.forced() && !exit.success());
        assert_eq!((process.state(), process.pid()), (State::Idle, None));
        assert_eq!(process.join().unwrap(), exit);
        assert_eq!(process.exit(), Some(exit));
    }

    fn the_hull_is_reused() {
        let process = Process::new(sh("exit 0"));
        for generation in 1..=20 {
            process.start(true).unwrap();
            assert!(process.join().unwrap().success());
            assert_eq!(process.status().generation, generation);
        }
    }

    fn restart_gives_a_new_run() {
        let process = Process::new(Command::new("sleep").arg("1000"));
        let first = process.start(true).unwrap();
        let second = process.restart(RestartMode::Terminate, true).unwrap();
        assert_ne!(first, second);
        assert!(!is_alive(first) && is_alive(second));
        process.restart(RestartMode::Kill, Wait::For(LONG)).unwrap();
        process.terminate(true).unwrap();
    }

    fn moving_over_from_std_is_a_rename() {
        macro_rules! build {
            ($command:ty) => {{
                let mut command = <$command>::new("sh");
                command.arg("-c").args(["echo $A $B $C; pwd"]).env("A", "a").env("B", "b").env_remove("B");
                command.envs([("C", "c")]).current_dir("/");
                command
            }};
        }
        let std = build!(std::process::Command).output().unwrap();
        let process = Process::builder(build!(Command)).capture(1024).build().unwrap();
        process.start(true).unwrap();
        process.join().unwrap();
        assert_eq!(process.output().stdout(), std.stdout);
    }

    fn the_last_handle_stops_it() {
        let process = Process::new(Command::new("sleep").arg("1000"));
        let pid = process.start(true).unwrap();
        let other = process.clone();
        drop(process);
        assert!(is_alive(pid));
        drop(other);
        eventually("the child is gone", || !is_alive(pid));
    }
}
