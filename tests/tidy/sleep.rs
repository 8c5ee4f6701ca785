//! A test waits for events, never for time.
//!
//! A child that is the program `sleep` is fine: its name stands in a string.

use crate::source::{self, Source, words};
use crate::{Complaint, accept, expect_one, root};

#[test]
fn no_test_and_no_example_sleeps() {
    let whole = ["tests", "examples"].into_iter().flat_map(|dir| source::load(root(), dir));
    let mut complaints: Vec<Complaint> = whole.flat_map(|source| check(&source, &source.code)).collect();
    let in_src = source::load(root(), "src");
    complaints.extend(in_src.iter().flat_map(|source| check(source, &source.test_code())));
    accept(&complaints);
}

fn check(source: &Source, code: &str) -> Vec<Complaint> {
    let found = words(code).filter(|(at, word)| sleeps(code, *at, word));
    found.map(|(at, _)| source.complaint(at, "sleeps: wait for the event itself")).collect()
}

/// Whether the word at `at` makes a thread or task wait for time alone.
fn sleeps(code: &str, at: usize, word: &str) -> bool {
    let (before, after) = (code[..at].trim_end(), code[at + word.len()..].trim_start());
    let called = after.starts_with('(') && !before.ends_with("fn");
    match word {
        "sleep" => called || before.ends_with("thread::") || before.ends_with("time::"),
        "sleep_ms" | "sleep_until" | "usleep" | "nanosleep" | "clock_nanosleep" => called,
        "after" | "at" | "interval" => before.ends_with("Timer::"),
        _ => false,
    }
}

#[test]
fn a_sleep_is_seen() {
    let lines = |code: &str| check(&Source::new("tests/it/x.rs", code), code).len();
    assert_eq!(lines("std::thread::sleep(ms(5));"), 1);
    assert_eq!(lines("use std::thread::sleep as wait;"), 1);
    assert_eq!(lines("use std::{thread::{spawn, sleep}}; fn f() { sleep (ms(5)) }"), 1);
    assert_eq!(lines("tokio::time::sleep(ms(5)).await; Timer::after(ms(5)).await;"), 2);
    let child = Source::new("tests/it/x.rs", "// sleep(1)\nCommand::new(\"sleep\").arg(\"5\"); fn sleep() {}\n");
    accept(&check(&child, &child.code));
    let unit =
        Source::new("src/x.rs", "fn f() { thread::sleep(d) }\n#[cfg(test)]\nmod t { fn g() { thread::sleep(d) } }\n");
    expect_one(&check(&unit, &unit.test_code()), 3, "sleeps");
}
