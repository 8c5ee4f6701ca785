//! Files, functions and examples stay small enough to be read at one go.

use crate::source::{self, Source, closing, find_outside_brackets, words};
use crate::{Complaint, accept, expect_one, root};

const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 60;
const EXAMPLE_LINES: usize = 60;

/// Files of `src` that may be longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];

/// Functions of `src` that may be longer, as `file::function`, and why.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

#[test]
fn files_are_short() {
    let sources = source::load(root(), "src");
    accept(&sources.iter().filter_map(|source| long_file(source, LONG_FILES)).collect::<Vec<_>>());
}

#[test]
fn functions_are_short() {
    let sources = source::load(root(), "src");
    accept(&sources.iter().flat_map(|source| long_functions(source, LONG_FUNCTIONS)).collect::<Vec<_>>());
}

#[test]
fn examples_are_short() {
    let sources = source::load(root(), "examples");
    accept(&sources.iter().filter_map(long_example).collect::<Vec<_>>());
}

/// Tests count for nothing: a file may have as many as it needs.
fn long_file(source: &Source, allowed: &[(&str, &str)]) -> Option<Complaint> {
    let lines = source.product_lines();
    let listed = allowed.iter().any(|(file, _)| *file == source.path);
    match (lines > FILE_LINES, listed) {
        (true, false) => {
            let reason = format!("{lines} lines without its tests, more than {FILE_LINES}: does it hold two things?");
            Some(source.complaint(0, reason))
        }
        (false, true) => Some(source.complaint(0, format!("no longer needs its entry in {}", file!()))),
        (true, true) | (false, false) => None,
    }
}

fn long_functions(source: &Source, allowed: &[(&str, &str)]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (at, name, lines) in functions(source) {
        let path = format!("{}::{name}", source.path);
        let listed = allowed.iter().any(|(function, _)| *function == path);
        if lines > FUNCTION_LINES && !listed {
            complaints.push(source.complaint(at, format!("`{name}` has {lines} lines, more than {FUNCTION_LINES}")));
        }
    }
    let in_this_file = allowed.iter().filter_map(|(path, _)| path.strip_prefix(&format!("{}::", source.path)));
    let long: Vec<String> = functions(source).into_iter().filter(|f| f.2 > FUNCTION_LINES).map(|f| f.1).collect();
    for name in in_this_file.filter(|name| !long.iter().any(|long| long == name)) {
        complaints.push(source.complaint(0, format!("`{name}` no longer needs its entry in {}", file!())));
    }
    complaints
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
    expect_one(&Vec::from_iter(long_file(&Source::new("src/x.rs", &long), &[])), 1, "401 lines");
    let list = &[("src/x.rs", "why")];
    accept(&Vec::from_iter(long_file(&Source::new("src/x.rs", &long), list)));
    let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    accept(&Vec::from_iter(long_file(&Source::new("src/y.rs", &tested), &[])));
    expect_one(&Vec::from_iter(long_file(&Source::new("src/x.rs", ""), list)), 1, "no longer needs");
}

#[test]
fn a_long_function_is_seen() {
    let body = "    g(|h: fn(u8) -> u8| [h; 2]);\n".repeat(FUNCTION_LINES - 1);
    let long = format!("\nfn short() {{}}\npub(crate) fn f<T>(a: [T; 3]) -> T where T: Copy {{\n{body}}}\n");
    expect_one(&long_functions(&Source::new("src/x.rs", &long), &[]), 3, "`f` has 61 lines");
    accept(&long_functions(&Source::new("src/x.rs", &long), &[("src/x.rs::f", "why")]));
    let list = &[("src/x.rs::short", "why")];
    expect_one(&long_functions(&Source::new("src/x.rs", "fn short() {}\n"), list), 1, "no longer needs");
}

#[test]
fn a_long_example_is_seen() {
    let long = "// Says much.\n".repeat(EXAMPLE_LINES + 1);
    expect_one(&Vec::from_iter(long_example(&Source::new("examples/x.rs", &long))), 1, "61 lines");
    accept(&Vec::from_iter(long_example(&Source::new("examples/x.rs", &long[14..]))));
}
