//! What a worker can do to who uses it, if it goes mad: nothing but end.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};
use nix::unistd::{ForkResult, Pid, alarm, fork, setsid};
use pkit::{Command, Process, TaskError, Worker};
use serde_bytes::ByteBuf;

use super::square;
use crate::support::{LONG, eventually, is_alive, tests};

/// Where the rings are in the memory of this process, and how long.
fn rings() -> (u64, u64) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("pkit-ring")).unwrap();
    let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
    let [from, to] = [from, to].map(|number| u64::from_str_radix(number, 16).unwrap());
    (from, to - from)
}

/// Overwrites what is shared, from there on, with bytes that look random.
fn scribble((from, length, seed): (u64, usize, u64)) {
    let (start, _) = rings();
    let mut state = seed;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(length)
    .collect();
    let memory = File::options().write(true).open("/proc/self/mem").unwrap();
    memory.write_all_at(&bytes, start + from).unwrap();
}

/// A socket whose last close takes ten minutes, or until nobody has the other end any more, which comes with it.
fn slow_to_close() -> [TcpStream; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    while client.write(&[0; 65_536]).is_ok() {}
    setsockopt(&client, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 600 }).unwrap();
    [client, other]
}

/// Sends that to every socket that it has. How often that went well.
fn send(bytes: &[u8], descriptors: &[RawFd]) -> usize {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights = if descriptors.is_empty() { &[][..] } else { &rights };
    let sent = |fd| sendmsg::<()>(fd, &[IoSlice::new(bytes)], rights, MsgFlags::MSG_DONTWAIT, None).is_ok();
    (3..64).filter(|fd| sent(*fd)).count()
}

fn flood((bytes, times): (Vec<u8>, usize)) -> usize {
    (0..times).map(|_| send(&bytes, &[])).sum()
}

/// Sends the only descriptor of such a socket.
fn send_what_is_slow_to_close(bytes: ByteBuf) {
    let [slow, other] = slow_to_close();
    assert!(send(&bytes, &[slow.as_raw_fd()]) > 0);
    drop(slow);
    std::mem::forget(other);
    crate::functions::park(());
}

/// Sends such a one as if it were a file, and goes on.
fn send_one_more(signal: u8) {
    let [slow, other] = slow_to_close();
    assert!(send(&[signal], &[slow.as_raw_fd()]) > 0);
    std::mem::forget(other);
}

/// Gives its value so often, with such ones, and ends.
fn answer_with_what_is_slow_to_close(times: usize) -> u8 {
    for _ in 0..times {
        let slow = slow_to_close();
        assert!(send(&[0, 7], &slow.each_ref().map(AsRawFd::as_raw_fd)) > 0);
    }
    std::process::exit(0);
}

/// Sends as a file what cannot be mapped, and goes on.
fn send_what_cannot_be_mapped(flags: i32) {
    let memory = memfd_create("sealed", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    (&File::from(memory.try_clone().unwrap())).write_all(&[1; 100_000]).unwrap();
    fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::all())).unwrap();
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let again =
        File::options().write(flags == libc::O_WRONLY).read(flags != libc::O_WRONLY).custom_flags(flags).open(path);
    assert!(send(&[2], &[again.unwrap().as_raw_fd()]) > 0);
}

/// Sends a good file with so many things beside it that are none, and goes on.
fn send_a_file_and_others(others: usize) {
    let memory = memfd_create("sealed", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    (&File::from(memory.try_clone().unwrap())).write_all(&[1; 100_000]).unwrap();
    fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::all())).unwrap();
    let slow = slow_to_close();
    let others = std::iter::repeat_n(slow[0].as_raw_fd(), others);
    assert!(send(&[2], &[memory.as_raw_fd()].into_iter().chain(others).collect::<Vec<_>>()) > 0);
    std::mem::forget(slow);
}

/// As a daemon does, and opens something of its own.
fn close_all_and_open_many(_: ()) {
    for fd in 3..100 {
        let _ = nix::unistd::close(fd);
    }
    (0..40).for_each(|_| std::mem::forget(UnixStream::pair().unwrap()));
}

/// Closes what it does not know, and opens something of its own in its place.
fn close_all(_: ()) {
    for fd in 3..100 {
        let _ = nix::unistd::close(fd);
    }
    std::mem::forget(UnixStream::pair().unwrap());
}

fn set_non_blocking(_: ()) {
    for fd in 3..64 {
        // SAFETY: fcntl(2) takes numbers.
        #[allow(unsafe_code)]
        let _ = unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    }
}

fn cpu_time(_: ()) -> Duration {
    crate::support::cpu_time()
}

/// Sends so often that, with so many descriptors.
fn flood_and_stay((bytes, descriptors, times): (ByteBuf, usize, usize)) {
    (0..times).for_each(|_| _ = send(&bytes, &vec![0; descriptors]));
    crate::functions::park(());
}

/// At SIGTERM it leaves a process behind that is not of its group.
fn leave_one_that_writes(path: std::path::PathBuf) {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM]).unwrap();
    std::fs::write(&path, "begun").unwrap();
    signals.forever().next();
    let ring = rings().0 + 2 * RING;
    let memory = File::open("/proc/self/mem").unwrap();
    let before = number(&memory, ring);
    // Each is an answer that tells of a file, over and over, however often the ring is gone round.
    let message = [4, 0, 0, 0, 99, 1, 0, 0];
    let all: Vec<u8> = (0..RING - 4096).map(|at| message[(at.wrapping_sub(before) % 8) as usize]).collect();
    // SAFETY: the copy does nothing but system calls.
    #[allow(unsafe_code)]
    let forked = unsafe { fork() }.unwrap();
    let ForkResult::Parent { child } = forked else { write_on(ring, before, &all) };
    while number(&memory, ring) == before {
        std::thread::yield_now();
    }
    std::fs::write(path, child.to_string()).unwrap();
    std::process::exit(0);
}

fn write_on(ring: u64, before: u64, all: &[u8]) -> ! {
    // Whatever becomes of the test.
    alarm::set(200);
    setsid().unwrap();
    let memory = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
    memory.write_all_at(all, ring + 4096).unwrap();
    loop {
        let read = number(&memory, ring + 136);
        let written = before + (read.saturating_sub(before) + 200_000) / 8 * 8;
        memory.write_all_at(&written.to_ne_bytes(), ring).unwrap();
        send(&[1], &[]);
    }
}

fn number(memory: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, at).unwrap();
    u64::from_ne_bytes(bytes)
}

fn is_refused<T>(end: &Result<T, TaskError>) -> bool {
    matches!(end, Err(TaskError::Codec(why)) if why.contains("was stopped"))
}

/// Says, in the ring of answers, that the argument of a call that nobody made was taken.
fn tells_of_nothing(_: ()) {
    let (start, _) = rings();
    let memory = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
    let ring = start + 2 * RING;
    let written = number(&memory, ring);
    // (`Outcome::Taken` is the sixth, of call 126.)
    let message = [12, 0, 0, 0, 126, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    memory.write_all_at(&message, ring + 4096 + written % (256 * 1024)).unwrap();
    memory.write_all_at(&(written + 16).to_ne_bytes(), ring).unwrap();
    // Its own answer would come to the same place.
    loop {
        std::thread::park();
    }
}

/// Answers with a file of ten tebibytes, which holds nothing but that number.
fn boast(_: ()) -> ByteBuf {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create("boast", flags).unwrap());
    let length = 10_u64 << 40;
    file.set_len(length).unwrap();
    // As postcard writes a length: seven bits each, the lowest first.
    let mut head: Vec<u8> = (0..7).map(|byte| ((length - 7) >> (7 * byte)) as u8 | 0x80).collect();
    *head.last_mut().unwrap() &= 0x7f;
    file.write_all_at(&head, 0).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all())).unwrap();
    let files = [file.as_raw_fd()];
    for fd in 3..64 {
        // (`Outcome::ValueInFile` is the second.)
        let parts = [IoSlice::new(&[1])];
        let _ = sendmsg::<()>(fd, &parts, &[ControlMessage::ScmRights(&files)], MsgFlags::MSG_DONTWAIT, None);
    }
    std::process::exit(0)
}

const SOON: Duration = Duration::from_millis(20);
const RING: u64 = 4096 + 256 * 1024;

tests! {
    fn a_file_that_cost_nothing_costs_nobody_anything() {
        let error = pkit::run(boast, ()).unwrap_err();
        assert!(matches!(&error, TaskError::Codec(why) if why.contains("larger than what was written")), "{error:?}");
    }

    fn garbage_in_the_rings_is_an_error_and_the_end_of_the_worker() {
        let worker = Worker::new().unwrap();
        let mut seen = 0;
        for seed in 0..60 {
            // The one before may end of it only now.
            eventually("the next one answers", || worker.invoke(square, 2).is_ok());
            let home = worker.pid().unwrap();
            // The headers of the rings, what is in them, or all of both.
            let (from, length) = [(2 * RING, 256), (2 * RING + 4096, 4096), (RING, 256), (0, 256), (0, 3 * RING as usize)][seed as usize % 5];
            let _ = worker.schedule(scribble, (from, length, seed)).unwrap().wait_timeout(SOON);
            let mut next = worker.schedule(square, 3).unwrap();
            match next.wait_timeout(SOON) {
                Ok(9) => {}
                Err(error @ (TaskError::Codec(_) | TaskError::Crashed(_))) => {
                    seen += usize::from(matches!(error, TaskError::Codec(_)));
                    eventually("it is stopped", || !is_alive(home));
                }
                Err(TaskError::TimedOut) => {
                    // It waits for what it overwrote itself; that looks like work.
                    // (Or it has ended just now.)
                    let _ = kill(Pid::from_raw(home as i32), Signal::SIGKILL);
                    let end = next.wait_timeout(LONG);
                    assert!(matches!(end, Err(TaskError::Codec(_) | TaskError::Crashed(_))), "{end:?}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(seen > 0, "garbage was seen");
    }

    fn what_is_said_of_a_call_that_nobody_made_ends_the_worker() {
        let worker = Worker::new().unwrap();
        worker.invoke(square, 2).unwrap();
        let mut task = worker.schedule(tells_of_nothing, ()).unwrap();
        // Who sleeps is not woken by what is only written: so it is looked at again and again.
        let mut ended = None;
        eventually("it is looked at", || {
            ended = task.wait_timeout(SOON).err().filter(|error| !matches!(error, TaskError::TimedOut));
            ended.is_some()
        });
        let error = ended.unwrap();
        assert!(matches!(&error, TaskError::Codec(why) if why.contains("was stopped")), "{error:?}");
        assert_eq!(worker.invoke(square, 3).unwrap(), 9);
    }

    fn what_comes_with_no_message_of_a_worker_holds_up_nobody() {
        for bytes in [vec![], vec![9], vec![7; 70_000]] {
            let worker = Worker::new().unwrap();
            let (done, is_done) = mpsc::channel();
            worker.schedule(send_what_is_slow_to_close, bytes.into()).unwrap().on_done(move |end| done.send(end).unwrap());
            assert!(is_refused(&is_done.recv_timeout(LONG).unwrap()));
            let other = Process::new(Command::new("true"));
            other.start(true).unwrap();
            assert!(other.join_timeout(LONG).unwrap().is_some(), "the reaper is there");
        }
    }

    fn a_file_that_no_worker_sends_ends_it_and_holds_up_nobody() {
        let worker = Worker::new().unwrap();
        worker.invoke(send_one_more, 2).unwrap();
        // It comes in place of the file with the value.
        let large = worker.schedule(|n: usize| ByteBuf::from(vec![1; n]), 100_000).unwrap().wait();
        assert!(is_refused(&large), "{large:?}");

        // One that nobody takes is closed somewhere else.
        let worker = Worker::new().unwrap();
        worker.invoke(send_one_more, 2).unwrap();
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || {
            drop(worker);
            done.send(()).unwrap();
        });
        is_done.recv_timeout(LONG / 6).expect("it is dropped before the other end lets go");
    }

    fn a_file_that_cannot_be_mapped_ends_it() {
        for flags in [libc::O_PATH, libc::O_WRONLY] {
            let worker = Worker::new().unwrap();
            worker.invoke(send_what_cannot_be_mapped, flags).unwrap();
            let large = worker.schedule(|n: usize| ByteBuf::from(vec![1; n]), 100_000).unwrap().wait();
            assert!(is_refused(&large), "{large:?}");
        }
    }

    fn what_goes_with_a_file_and_is_none_ends_it() {
        for others in [1, 16, 17, 200] {
            let worker = Worker::new().unwrap();
            let sent = worker.invoke(send_a_file_and_others, others);
            assert!(sent.is_ok() || is_refused(&sent), "{sent:?}");
            let task = worker.schedule(|n: usize| ByteBuf::from(vec![1; n]), 100_000).unwrap();
            let (told, is_told) = mpsc::channel();
            std::thread::spawn(move || told.send(task.wait()).unwrap());
            let large = is_told.recv_timeout(LONG / 6).expect("nobody waits until it is closed");
            // (Another worker does it, where this one was refused before.)
            assert!(is_refused(&large) || (others > 16 && large.is_ok()), "{others}: {large:?}");
        }
    }

    fn what_comes_with_the_value_of_a_task_holds_nobody_up() {
        for times in 1..3 {
            let task = pkit::spawn(answer_with_what_is_slow_to_close, times).unwrap();
            let (told, is_told) = mpsc::channel();
            std::thread::spawn(move || told.send(task.wait()).unwrap());
            let value = is_told.recv_timeout(LONG / 6).expect("it waits for its process, and for nothing else");
            assert_eq!(value.unwrap(), 7);
        }
    }

    fn values_that_nobody_takes_are_no_mappings() {
        let worker = Worker::new().unwrap();
        let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        let before = mappings();
        let large = |n: usize| ByteBuf::from(vec![1; n]);
        let tasks: Vec<_> = (0..200).map(|_| worker.schedule(large, 100_000).unwrap()).collect();
        eventually("all are done", || tasks.iter().all(pkit::Task::is_done));
        assert!(mappings() < before + 100);
        assert!(tasks.into_iter().all(|task| task.wait().unwrap().len() == 100_000));
    }

    fn one_that_opens_other_sockets_in_place_of_its_own_ends() {
        for signals in [&[][..], &[Signal::SIGSTOP, Signal::SIGCONT]] {
            let worker = Worker::new().unwrap();
            // One that has to tell us of its answer ends at once.
            eventually("it goes on", || worker.invoke(close_all_and_open_many, ()).is_ok());
            // What waits for its channel begins again.
            let pid = Pid::from_raw(worker.pid().unwrap() as i32);
            signals.iter().for_each(|signal| kill(pid, *signal).unwrap());
            let (told, is_told) = mpsc::channel();
            let large = worker.schedule(|bytes: ByteBuf| bytes.len(), vec![1; 100_000].into()).unwrap();
            large.on_done(move |end| told.send(end).unwrap());
            let end = is_told.recv_timeout(LONG).expect("it ends");
            assert!(matches!(end, Err(TaskError::Crashed(_))), "{end:?}");
            assert_eq!(worker.invoke(square, 3).unwrap(), 9);
        }
    }

    fn one_that_does_not_block_waits_all_the_same() {
        let worker = Worker::new().unwrap();
        worker.invoke(set_non_blocking, ()).unwrap();
        worker.concurrent(square, 2).unwrap().wait().unwrap();
        let before = worker.invoke(cpu_time, ()).unwrap();
        // (Nothing else takes its time.)
        assert!(worker.concurrent(crate::functions::park, ()).unwrap().wait_timeout(Duration::from_millis(500)).is_err());
        let spent = worker.invoke(cpu_time, ()).unwrap() - before;
        assert!(spent < Duration::from_millis(100), "{spent:?} of CPU time in half a second");
    }

    fn one_that_closes_all_descriptors_ends() {
        let worker = Worker::new().unwrap();
        worker.invoke(square, 2).unwrap();
        let mut end = Ok(());
        eventually("it has ended", || {
            let (told, is_told) = mpsc::channel();
            worker.schedule(close_all, ()).unwrap().on_done(move |end| told.send(end).unwrap());
            // Who reads the answers just then has this one.
            end = is_told.recv_timeout(LONG).expect("it ends");
            end.is_err()
        });
        assert!(matches!(end, Err(TaskError::Crashed(_))), "{end:?}");
        assert_eq!(worker.invoke(square, 3).unwrap(), 9);
    }

    fn one_that_a_worker_left_behind_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let worker = Worker::new().unwrap();
        let leaves = worker.concurrent(leave_one_that_writes, path.clone()).unwrap();
        let state = || std::fs::read_to_string(&path).unwrap_or_default();
        eventually("it has begun", || state() == "begun");
        let (told, is_told) = mpsc::channel();
        let terminates = std::thread::spawn(move || {
            worker.terminate();
            told.send(()).unwrap();
        });
        // (Half a minute where all is read that it writes.)
        let is_told = is_told.recv_timeout(LONG / 6);
        let left = Pid::from_raw(state().parse().unwrap());
        assert!(is_alive(left.as_raw() as u32));
        kill(left, Signal::SIGKILL).unwrap();
        is_told.unwrap();
        terminates.join().unwrap();
        assert!(matches!(leaves.wait(), Err(TaskError::Cancelled)));
    }

    fn garbage_in_the_channel_ends_whoever_waits() {
        let worker = Worker::new().unwrap();
        let refused = |flood: (Vec<u8>, usize, usize)| {
            let flood = (flood.0.into(), flood.1, flood.2);
            let mut task = worker.schedule(flood_and_stay, flood).unwrap();
            assert!(is_refused(&task.wait_timeout(LONG)), "who waits for an answer");
        };
        for bytes in [vec![], vec![9], vec![7; 70_000]] {
            refused((bytes.clone(), 0, 1));
            refused((bytes, 253, 20));
        }
        // Files, and no answers that tell of them.
        refused((vec![2], 1, 1_000));
        let (done, is_done) = mpsc::channel();
        let task = worker.schedule(flood_and_stay, (vec![2].into(), 1, 2)).unwrap();
        task.on_done(move |end| done.send(end).unwrap());
        assert!(is_refused(&is_done.recv_timeout(LONG).unwrap()), "nobody waits");
    }

    fn garbage_in_the_channel_is_ignored_or_the_end_of_the_worker() {
        let worker = Worker::new().unwrap();
        for bytes in [vec![], vec![0], vec![1], vec![2], vec![9; 5], vec![1; 100], vec![7; 60_000]] {
            match worker.invoke(flood, (bytes.clone(), 500)) {
                Ok(sent) => assert!(sent > 0 || bytes.is_empty(), "{bytes:?}"),
                Err(TaskError::Codec(_) | TaskError::Crashed(_)) => {}
                Err(other) => panic!("{other:?}"),
            }
            eventually("it is done", || worker.invoke(square, 3).is_ok_and(|nine| nine == 9));
            let large = |bytes: ByteBuf| bytes;
            eventually("it comes back", || worker.invoke(large, vec![3; 100_000].into()).is_ok_and(|large| large[99_999] == 3));
        }
    }
}
