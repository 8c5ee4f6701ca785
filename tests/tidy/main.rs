//! House rules that no compiler checks.
//!
//! Each module holds one rule: what it allows at the top, the check, and a self-test in which a bad snippet is seen to
//! fail. A complaint names file, line and reason. The checks read the sources as text, with comments and literals
//! blanked out ([`source`]); they know no macros and no types, so what a macro produces is not seen.

mod dependencies;
mod layers;
mod leftovers;
mod links;
mod names;
mod size;
mod sleep;
mod source;
mod twins;
mod unsafety;

use std::fmt;
use std::path::Path;

/// Something that breaks a rule.
#[derive(Debug)]
struct Complaint {
    file: String,
    line: usize,
    reason: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

/// The directory of the package.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Ends the test with every complaint on a line of its own.
#[track_caller]
fn accept(complaints: &[Complaint]) {
    let lines: Vec<String> = complaints.iter().map(Complaint::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

/// For self-tests: exactly one complaint, at this line, whose reason contains `reason`.
#[track_caller]
fn expect_one(complaints: &[Complaint], line: usize, reason: &str) {
    let lines: Vec<String> = complaints.iter().map(Complaint::to_string).collect();
    assert_eq!(lines.len(), 1, "one complaint was due, not {lines:#?}");
    assert_eq!(complaints[0].line, line, "{lines:?}");
    assert!(complaints[0].reason.contains(reason), "{lines:?}");
}
