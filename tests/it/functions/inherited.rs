//! What a function has of this program: what is so at the moment of its start.

use std::env;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal as Raw, signal};
use nix::sys::stat::{Mode, umask};
use pkit::{Process, Target};

use super::printed;
use crate::program::{Program, role, say_to, stay};
use crate::support::{is_root, open_descriptors, tests};

fn surroundings(_: ()) {
    let mask = umask(Mode::empty());
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap() & (1 << (libc::SIGUSR1 - 1)) != 0;
    let (soft, _) = getrlimit(Resource::RLIMIT_CORE).unwrap();
    println!(
        "{} {} {:o} {soft} {ignored} {:?}",
        env::current_dir().unwrap().display(),
        env::var("PKIT_COLOUR").unwrap_or_default(),
        mask.bits(),
        env::var("PKIT_FORK_SERVER")
    );
}

fn ignore(handler: SigHandler) {
    // SAFETY: nobody else changes it in this process.
    #[allow(unsafe_code)]
    unsafe {
        signal(Raw::SIGUSR1, handler).unwrap();
    }
}

/// Prints what could be an answer. What its streams are.
fn loud(n: u32) -> (u32, Vec<String>) {
    use std::io::Write;
    std::io::stdout().write_all(&[0, 42, b'\n']).unwrap();
    println!("hello");
    eprintln!("hello");
    let streams = open_descriptors().into_iter().filter(|(number, _)| *number < 3);
    (n, streams.map(|(_, target)| target).collect())
}

tests! {
    #[allow(unsafe_code, reason = "the program has no streams")]
    fn a_program_without_streams_gives_none_of_its_own_descriptors() {
        if role().is_some() {
            let out = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
            // SAFETY: what prints from here on fails.
            (0..3).for_each(|fd| _ = unsafe { libc::close(fd) });
            let mut results: Vec<_> = (0..3).map(|n| pkit::run(loud, n)).collect();
            pkit::preload(|| _ = loud(0)).unwrap();
            let worker = pkit::Worker::new().unwrap();
            results.extend((3..6).map(|n| worker.invoke(loud, n)));
            say_to(std::fs::File::from(out), format!("{results:?}"));
            stay();
        }
        let null = || vec!["/dev/null".to_owned(); 3];
        let expected: Vec<_> = (0..6).map(|n| Ok::<_, ()>((n, null()))).collect();
        assert_eq!(Program::start("closes its streams").line(), Some(format!("{expected:?}")));
    }

    #[allow(unsafe_code, reason = "the program loses its streams")]
    fn a_stream_that_was_closed_since_is_not_there() {
        if role().is_some() {
            let before = pkit::run(loud, 1).unwrap();
            let out = std::io::stdout().as_fd().try_clone_to_owned().unwrap();
            // SAFETY: what prints from here on fails.
            (0..3).for_each(|fd| _ = unsafe { libc::close(fd) });
            let after = pkit::run(loud, 2).unwrap();
            say_to(std::fs::File::from(out), format!("{} {:?}", before.1[1].starts_with("pipe:"), after.1));
            stay();
        }
        let said = Program::start("loses its streams").line().unwrap();
        assert_eq!(said, format!("true {:?}", vec!["/dev/null"; 3]));
    }

    fn surroundings_are_those_of_the_moment() {
        let (_, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
        let no_variable = "Err(NotPresent)";
        for (directory, mask, soft, ignored) in [("/tmp", 0o27, 0, true), ("/usr", 0o2, hard.min(4096), false)] {
            env::set_current_dir(directory).unwrap();
            umask(Mode::from_bits_truncate(mask));
            setrlimit(Resource::RLIMIT_CORE, soft, hard).unwrap();
            ignore(if ignored { SigHandler::SigIgn } else { SigHandler::SigDfl });
            let builder = Process::builder(Target::function(surroundings, ())).env("PKIT_COLOUR", directory);
            let expected = format!("{directory} {directory} {mask:o} {soft} {ignored} {no_variable}\n");
            assert_eq!(printed(builder), expected);
        }
    }

    fn the_environment_is_that_of_the_moment() {
        fn colour(_: ()) {
            print!("{:?} {:?}", env::var_os("PKIT_COLOUR"), env::var_os("HOME").is_some());
        }
        let print = || printed(Process::builder(Target::function(colour, ())));
        assert_eq!(print(), "None true");
        // SAFETY: this process has no thread that reads it meanwhile.
        #[allow(unsafe_code)]
        unsafe {
            env::set_var("PKIT_COLOUR", "red");
        }
        assert_eq!(print(), "Some(\"red\") true");
        assert_eq!(printed(Process::builder(Target::function(colour, ())).env_clear()), "None false");
    }

    fn rights_that_were_given_up_are_not_there_either() {
        if !is_root() {
            return crate::support::skipped("only root can become another user");
        }
        fn who(_: ()) {
            print!("{}", nix::unistd::getuid());
        }
        let print = || printed(Process::builder(Target::function(who, ())));
        assert_eq!(print(), "0");
        let server = pkit::testing::fork_server();
        nix::unistd::setresuid(65534.into(), 65534.into(), 0.into()).unwrap();
        assert_eq!(print(), "65534");
        assert_ne!(pkit::testing::fork_server(), server);
        nix::unistd::setresuid(0.into(), 0.into(), 0.into()).unwrap();
    }

    fn a_directory_that_may_not_be_entered_is_no_obstacle() {
        fn here(_: ()) -> PathBuf {
            std::fs::read_link("/proc/self/cwd").unwrap()
        }
        if role().is_some() {
            if is_root() {
                nix::unistd::setresuid(65534.into(), 65534.into(), 65534.into()).unwrap();
            }
            env::set_current_dir("/").unwrap();
            let mut seen = vec![pkit::run(here, ())];
            let server = pkit::testing::fork_server();
            let directory = tempfile::tempdir().unwrap();
            env::set_current_dir(directory.path()).unwrap();
            let path = env::current_dir().unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
            seen.push(pkit::spawn_with(|process| process.current_dir("/"), here, ()).and_then(pkit::Task::wait));
            let worker = pkit::Worker::builder().process(|process| process.current_dir("/")).build().unwrap();
            seen.push(worker.invoke(here, ()));
            let mut servers = vec![pkit::testing::fork_server() == server];
            seen.extend([pkit::run(here, ()), pkit::run(here, ())]);
            let other = pkit::testing::fork_server();
            seen.extend([pkit::run(here, ()), pkit::Worker::new().and_then(|worker| worker.invoke(here, ()))]);
            servers.extend([other == server, pkit::testing::fork_server() == other]);
            pkit::preload(|| env::set_current_dir("/").unwrap()).unwrap();
            seen.push(pkit::run(here, ()));
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            let seen = seen.into_iter().map(|seen| match seen {
                Ok(seen) if seen == path => "here".into(),
                Ok(seen) => seen.display().to_string(),
                Err(error) => error.to_string(),
            });
            crate::program::say(format!("{:?} {servers:?}", seen.collect::<Vec<_>>()));
            drop(directory);
            stay();
        }
        let mut program = Program::start("is where it may not go");
        let refused = "cannot start `here`: enter this program's directory: Permission denied (os error 13)";
        let expected = ["/", "/", "/", "here", "here", "here", "here", refused];
        assert_eq!(program.line(), Some(format!("{expected:?} {:?}", [true, false, true])));
    }

    fn a_root_directory_that_was_changed_holds() {
        fn is_in_jail(_: ()) -> bool {
            Path::new("/it is the jail").exists()
        }
        if role().is_some() {
            let jail = env::var("PKIT_JAIL").unwrap();
            let before = pkit::run(is_in_jail, ()).unwrap();
            nix::unistd::chroot(&*jail).unwrap();
            env::set_current_dir("/").unwrap();
            let after = [(); 2].map(|()| pkit::run(is_in_jail, ()).map_err(|error| error.to_string()));
            crate::program::say(format!("{before} {after:?}"));
            stay();
        }
        // All that a program needs, in a root directory of its own.
        const MAKE: &str = "for d in proc dev usr lib lib64; do [ -d /$d ] || continue; \
            mkdir $PKIT_JAIL/$d && mount --rbind /$d $PKIT_JAIL/$d || exit 1; done; exec \"$@\"";
        let made = std::process::Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none", "/tmp"]).status();
        if !made.is_ok_and(|status| status.success()) {
            return crate::support::skipped("there is no right to mount");
        }
        let jail = tempfile::tempdir().unwrap();
        std::fs::write(jail.path().join("it is the jail"), "").unwrap();
        let variable = format!("PKIT_JAIL={}", jail.path().display());
        let by = ["env", &variable, "unshare", "-m", "sh", "-c", MAKE, "sh"];
        assert_eq!(Program::start_by(&by, "enters a jail").line().as_deref(), Some("false [Ok(true), Ok(true)]"));
    }

    fn what_a_function_changes_is_its_own() {
        fn change(_: ()) {
            env::set_current_dir("/").unwrap();
            umask(Mode::from_bits_truncate(0o777));
            setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
            ignore(SigHandler::SigIgn);
            // SAFETY: it has one thread.
            #[allow(unsafe_code)]
            unsafe {
                env::set_var("PKIT_COLOUR", "black");
            }
        }
        let print = || printed(Process::builder(Target::function(surroundings, ())));
        let before = print();
        printed(Process::builder(Target::function(change, ())));
        assert_eq!(print(), before);
    }

    fn a_directory_that_is_gone_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        env::set_current_dir(directory.path()).unwrap();
        drop(directory);
        fn here(_: ()) {
            print!("{}", Path::new(".").exists());
        }
        assert_eq!(printed(Process::builder(Target::function(here, ()))), "true");
        env::set_current_dir("/").unwrap();
    }
}
