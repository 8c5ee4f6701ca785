//! Prose is finished: no placeholder waits to be filled in, and no word stands twice where one was filled in.

use std::fs;

use crate::source::{self, Source};
use crate::{Complaint, accept, expect_one, links, root};

#[test]
fn prose_holds_no_leftovers() {
    let mut complaints = Vec::new();
    for page in links::pages() {
        let text = fs::read_to_string(root().join(&page)).expect("a page is UTF-8");
        complaints.extend(check(&page, &text));
    }
    for source in ["src", "benches", "examples"].into_iter().flat_map(|dir| source::load(root(), dir)) {
        complaints.extend(check(&source.path, &documentation(&source)));
    }
    accept(&complaints);
}

fn check(file: &str, text: &str) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let mut complain = |reason| complaints.push(Complaint { file: file.to_owned(), line: at + 1, reason });
        // Behind a quote it is the brace of a format string.
        if line.find("{{").is_some_and(|braces| !line[..braces].contains('"')) {
            complain("`{{`: a placeholder was not filled in".to_owned());
        }
        let words: Vec<&str> = line.split(' ').collect();
        let is_twice =
            |two: &&[&str]| two[0] == two[1].trim_end_matches(['.', ',']) && two[0].contains(char::is_alphabetic);
        if let Some(two) = words.windows(2).find(is_twice) {
            complain(format!("`{}` stands twice", two[0]));
        }
    }
    complaints
}

/// The doc comments; every other line is empty.
fn documentation(source: &Source) -> String {
    let doc = |line| ["///", "//!"].iter().find_map(|mark| str::trim_start(line).strip_prefix(mark)).unwrap_or("");
    source.text.lines().flat_map(|line| [doc(line), "\n"]).collect()
}

#[test]
fn leftovers_are_seen() {
    expect_one(&check("README.md", "# Speed\n\n| start | {{start}} |\n"), 3, "not filled in");
    expect_one(&check("README.md", "It is fast,\nand costs 3.1 KiB KiB.\n"), 2, "`KiB` stands twice");
    let source = Source::new("src/x.rs", "fn f() { g({{ h }}) }\n\n    /// Takes {{limit}}.\n");
    expect_one(&check("src/x.rs", &documentation(&source)), 3, "not filled in");
    accept(&check("docs/a.md", "println!(\"{{{n}}}\"); // A brace, and 2 2 | - | - |.\n"));
}
