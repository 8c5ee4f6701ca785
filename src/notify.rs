//! The messages of the readiness protocol of `sd_notify(3)`.
//!
//! A child sends datagrams of newline-separated `NAME=value` lines to the socket named by `NOTIFY_SOCKET`. [`parse`]
//! turns one datagram into the messages that mean something to a supervisor, in the order of their lines. The protocol
//! is meant to grow: a name or value that is not known is skipped, and says nothing about the lines beside it.
//!
//! What arrives was written by a process that may be broken or hostile. No input panics; a number that does not fit is
//! skipped like an unknown line; a status is bounded and cleaned here, once, since it ends up in terminals and logs.
//!
//! Differences from systemd: `RELOADING=1`, `WATCHDOG_USEC=`, `EXTEND_TIMEOUT_USEC=` and `BARRIER=1` are not known here, and a carriage return
//! is no line separator (one before the newline is dropped), so that none can smuggle a message into a status.
//!
//! What is *not* decided here: whether the sender may speak for the process, and whether a `MAINPID=` names a process
//! of ours. Descriptors that come along (`BARRIER=1`, `FDSTORE=1`) are the receiver's to close.

use std::mem::discriminant;

/// The most bytes that are kept of a status.
pub(crate) const STATUS_MAX: usize = 1024;

/// One message of a child to its supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// `READY=1`: start-up, or a reload, is finished.
    Ready,
    /// `STOPPING=1`: it has begun to shut down.
    Stopping,
    /// `STATUS=`: one line for people: UTF-8, no control characters, at most [`STATUS_MAX`] bytes. Empty clears it.
    Status(String),
    /// `MAINPID=`: its main process, from 1 to `i32::MAX`. A claim, to be checked before anything is done to it.
    MainPid(u32),
    /// `WATCHDOG=1`: it is alive.
    Watchdog,
    /// `WATCHDOG=trigger`: it found itself broken, and asks to be treated as one that missed its interval.
    WatchdogTrigger,
}

/// The messages in one datagram, in order, of each kind the last. Never panics; what is not understood is skipped.
pub(crate) fn parse(datagram: &[u8]) -> Vec<Message> {
    // Some clients send the NUL at the end of their C string, which systemd permits as well.
    let datagram = datagram.strip_suffix(b"\0").unwrap_or(datagram);
    let mut messages: Vec<Message> = Vec::new();
    for message in datagram.rsplit(|&byte| byte == b'\n').filter_map(message) {
        // So there are few, however many lines somebody sends.
        if !messages.iter().any(|later| discriminant(later) == discriminant(&message)) {
            messages.push(message);
        }
    }
    messages.reverse();
    messages
}

/// The message in one line, if it is one.
fn message(line: &[u8]) -> Option<Message> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let equals = line.iter().position(|&byte| byte == b'=')?;
    let value = &line[equals + 1..];
    match (&line[..equals], value) {
        (b"READY", b"1") => Some(Message::Ready),
        (b"STOPPING", b"1") => Some(Message::Stopping),
        (b"STATUS", _) => Some(Message::Status(clean(value))),
        (b"MAINPID", _) => pid(value).map(Message::MainPid),
        (b"WATCHDOG", b"1") => Some(Message::Watchdog),
        (b"WATCHDOG", b"trigger") => Some(Message::WatchdogTrigger),
        _ => None,
    }
}

fn pid(value: &[u8]) -> Option<u32> {
    let pid = number(value)?;
    // The kernel's pid_t is signed; 0 and negative numbers name groups in kill(2), and must never pass for a pid.
    if pid == 0 { None } else { i32::try_from(pid).ok()?.try_into().ok() }
}

/// A decimal number; white space around it is allowed, as in systemd.
fn number(value: &[u8]) -> Option<u64> {
    str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

/// A status that can be shown: what could move a cursor, break a line or turn text around becomes U+FFFD.
fn clean(status: &[u8]) -> String {
    // A lossy conversion never shrinks, and a character has at most 4 bytes. So one cut in two by this bound lies
    // beyond STATUS_MAX, and is left out below.
    let head = &status[..status.len().min(STATUS_MAX + 4)];
    let mut clean = String::with_capacity(head.len().min(STATUS_MAX));
    for character in String::from_utf8_lossy(head).chars() {
        let character = if is_unsafe_to_show(character) { char::REPLACEMENT_CHARACTER } else { character };
        if clean.len() + character.len_utf8() > STATUS_MAX {
            break;
        }
        clean.push(character);
    }
    clean
}

/// Control characters (C0, DEL, C1), the line and paragraph separators, and those that change the direction of text.
fn is_unsafe_to_show(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use proptest::prelude::*;

    fn status(text: &str) -> Message {
        Message::Status(text.to_owned())
    }

    #[test]
    fn every_message_is_understood() {
        let known: [(&str, Message); 8] = [
            ("READY=1", Message::Ready),
            ("STOPPING=1", Message::Stopping),
            ("STATUS=accepting a=b", status("accepting a=b")),
            ("STATUS=", status("")),
            ("MAINPID=4711", Message::MainPid(4711)),
            ("MAINPID=2147483647", Message::MainPid(i32::MAX as u32)),
            ("WATCHDOG=1", Message::Watchdog),
            ("WATCHDOG=trigger", Message::WatchdogTrigger),
        ];
        for (line, message) in &known {
            for ending in ["", "\n", "\0", "\n\0", "\r\n"] {
                let found = parse(format!("{line}{ending}").as_bytes());
                assert_eq!(found, slice::from_ref(message), "{line:?} {ending:?}");
            }
        }
        let all = known.iter().map(|(line, _)| *line).collect::<Vec<_>>().join("\n");
        let of_each_the_last = [0, 1, 3, 5, 6, 7].map(|at| known[at].1.clone());
        assert_eq!(parse(all.as_bytes()), of_each_the_last);
    }

    #[test]
    fn what_is_not_understood_is_skipped() {
        for line in [
            "",
            "\0",
            "=",
            "READY",
            "READY=",
            "READY=0",
            "READY=11",
            " READY=1",
            "ready=1",
            "XREADY=1",
            "READY=1 ",
            "STOPPING=yes",
            "MAINPID=",
            "MAINPID=0",
            "MAINPID=-1",
            "MAINPID=2147483648",
            "MAINPID=99999999999999999999",
            "MAINPID=0x10",
            "MAINPID=1 2",
            "WATCHDOG=2",
            "WATCHDOG_USEC=-1",
            "WATCHDOG_USEC=18446744073709551616",
            "EXTEND_TIMEOUT_USEC=1s",
            "BARRIER=1",
            "RELOADING=1",
            "WATCHDOG_USEC=20000000",
            "EXTEND_TIMEOUT_USEC=500",
            "FDSTORE=1",
            "FDNAME=READY=1",
            "MONOTONIC_USEC=1",
            "READY=1\rSTATUS=x",
        ] {
            assert_eq!(parse(line.as_bytes()), [], "{line:?}");
            let beside = format!("STOPPING=1\n{line}\nREADY=1");
            assert_eq!(parse(beside.as_bytes()), [Message::Stopping, Message::Ready], "{line:?}");
        }
    }

    #[test]
    fn a_status_is_bounded_and_safe_to_show() {
        assert_eq!(
            parse(b"STATUS=\x1b[31mred\x07\t\xc2\x9b\x7f"),
            [status("\u{fffd}[31mred\u{fffd}\u{fffd}\u{fffd}\u{fffd}")]
        );
        assert_eq!(parse(b"STATUS=caf\xe9 \xff\xc3\xa9"), [status("caf\u{fffd} \u{fffd}é")]);
        assert_eq!(parse("STATUS=a\u{202e}b\u{2028}c\u{2066}d".as_bytes()), [status("a\u{fffd}b\u{fffd}c\u{fffd}d")]);
        assert_eq!(parse(b"STATUS=a\rREADY=1"), [status("a\u{fffd}READY=1")]);

        let exact = "x".repeat(STATUS_MAX);
        assert_eq!(parse(format!("STATUS={exact}").as_bytes()), [status(&exact)]);
        assert_eq!(parse(format!("STATUS={exact}y").as_bytes()), [status(&exact)]);
        // A character that does not fit is left out, not cut in two.
        for (fill, character) in [(STATUS_MAX - 1, 'é'), (STATUS_MAX - 3, '🦀'), (STATUS_MAX - 1, '\u{1}')] {
            let fill = "x".repeat(fill);
            assert_eq!(parse(format!("STATUS={fill}{character}🦀").as_bytes()), [status(&fill)]);
        }
    }

    /// A line that means nothing, without a newline in it.
    fn garbage() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "(X_[A-Z]{0,5}|MAINPID|WATCHDOG|READY)=[a-z]{0,5}[\\PC]{0,5}".prop_map(String::into_bytes),
        ]
        .prop_map(|line| line.into_iter().filter(|&byte| byte != b'\n').collect::<Vec<u8>>())
        .prop_filter("garbage must mean nothing", |line| message(line).is_none())
    }

    fn known() -> impl Strategy<Value = (Vec<u8>, Message)> {
        prop_oneof![
            Just((b"READY=1".to_vec(), Message::Ready)),
            Just((b"STOPPING=1".to_vec(), Message::Stopping)),
            Just((b"WATCHDOG=1".to_vec(), Message::Watchdog)),
            Just((b"WATCHDOG=trigger".to_vec(), Message::WatchdogTrigger)),
            (1..=i32::MAX as u32).prop_map(|pid| (format!("MAINPID={pid}").into_bytes(), Message::MainPid(pid))),
            "[ -~é🦀]{0,60}".prop_map(|text| (format!("STATUS={text}").into_bytes(), Message::Status(text))),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            name in "(STATUS|MAINPID|WATCHDOG)",
        ) {
            parse(&bytes);
            let datagram = [name.as_bytes(), b"=", &bytes].concat();
            for message in parse(&datagram) {
                if let Message::Status(text) = message {
                    prop_assert!(text.len() <= STATUS_MAX);
                    prop_assert!(!text.chars().any(is_unsafe_to_show));
                }
            }
        }

        #[test]
        fn known_messages_are_found_among_garbage(
            lines in prop::collection::vec(prop_oneof![
                garbage().prop_map(|line| (line, None)),
                known().prop_map(|(line, message)| (line, Some(message))),
            ], 0..20),
        ) {
            let datagram = lines.iter().map(|(line, _)| &line[..]).collect::<Vec<_>>().join(&b'\n');
            let all = lines.into_iter().filter_map(|(_, message)| message).collect::<Vec<_>>();
            let is_last = |at: usize| !all[at + 1..].iter().any(|later| discriminant(later) == discriminant(&all[at]));
            let expected = (0..all.len()).filter(|at| is_last(*at)).map(|at| all[at].clone()).collect::<Vec<_>>();
            prop_assert_eq!(parse(&datagram), expected);
        }
    }
}
