//! Files, functions and examples stay small enough to be read at one go.

use crate::source::{self, Source, closing, find_outside_brackets, words};
use crate::{Complaint, accept, expect_one, root};

const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 60;
const EXAMPLE_LINES: usize = 60;

#[test]
fn files_are_short() {
    let sources = source::load(root(), "src");
    accept(&sources.iter().filter_map(long_file).collect::<Vec<_>>());
}

#[test]
fn functions_are_short() {
    let sources = source::load(root(), "src");
    accept(&sources.iter().flat_map(long_functions).collect::<Vec<_>>());
}

#[test]
fn examples_are_short() {
    let sources = source::load(root(), "examples");
    accept(&sources.iter().filter_map(long_example).collect::<Vec<_>>());
}

/// Tests count for nothing: a file may have as many as it needs.
fn long_file(source: &Source) -> Option<Complaint> {
    let lines = source.product_lines();
    let reason = format!("{lines} lines without its tests, more than {FILE_LINES}: does it hold two things?");
    (lines > FILE_LINES).then(|| source.complaint(0, reason))
}

fn long_functions(source: &Source) -> Vec<Complaint> {
    let long = functions(source).into_iter().filter(|(.., lines)| *lines > FUNCTION_LINES);
    let reason = |name, lines| format!("`{name}` has {lines} lines, more than {FUNCTION_LINES}");
    long.map(|(at, name, lines)| source.complaint(at, reason(name, lines))).collect()
}

fn long_example(source: &Source) -> Option<Complaint> {
    let lines = source.text.lines().count();
    let reason = format!("{lines} lines, more than {EXAMPLE_LINES}: an example shows one thing");
    (lines > EXAMPLE_LINES).then(|| source.complaint(0, reason))
}

/// Offset, name and number of lines, from `fn` to the closing brace, of every function with a body outside tests.
fn functions(source: &Source) -> Vec<(usize, String, usize)> {
    let code = source.product();
    let mut functions = Vec::new();
    for ((at, word), (name_at, name)) in words(&code).zip(words(&code).skip(1)) {
        // In `fn(u8) -> u8`, a type, a bracket follows.
        if word != "fn" || !code[at + word.len()..name_at].trim().is_empty() {
            continue;
        }
        let Some(open) = find_outside_brackets(&code, name_at, b"{;") else {
            continue;
        };
        if let Some(end) = code[open..].starts_with('{').then(|| closing(&code, open)).flatten() {
            functions.push((at, name.to_owned(), source.line(end) - source.line(at) + 1));
        }
    }
    functions
}

#[test]
fn a_long_file_is_seen() {
    let long = "fn f() {}\n".repeat(FILE_LINES + 1);
    expect_one(&Vec::from_iter(long_file(&Source::new("src/x.rs", &long))), 1, "401 lines");
    let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    accept(&Vec::from_iter(long_file(&Source::new("src/y.rs", &tested))));
}

#[test]
fn a_long_function_is_seen() {
    let body = "    g(|h: fn(u8) -> u8| [h; 2]);\n".repeat(FUNCTION_LINES - 1);
    let long = format!("\nfn short() {{}}\npub(crate) fn f<T>(a: [T; 3]) -> T where T: Copy {{\n{body}}}\n");
    expect_one(&long_functions(&Source::new("src/x.rs", &long)), 3, "`f` has 61 lines");
    accept(&long_functions(&Source::new("src/x.rs", "fn short() {}\n")));
}

#[test]
fn a_long_example_is_seen() {
    let long = "// Says much.\n".repeat(EXAMPLE_LINES + 1);
    expect_one(&Vec::from_iter(long_example(&Source::new("examples/x.rs", &long))), 1, "61 lines");
    accept(&Vec::from_iter(long_example(&Source::new("examples/x.rs", &long[14..]))));
}
