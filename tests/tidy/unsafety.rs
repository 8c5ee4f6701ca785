//! `unsafe` stays in `src/sys/`, and each use of it says why it is sound.

use crate::source::{self, Source, words};
use crate::{Complaint, accept, expect_one, root};

/// Files outside `src/sys/` that may declare an unsafe function or trait, and pass its caller's promise on to `sys`;
/// and why.
const MAY_DECLARE: &[(&str, &str)] =
    &[("src/process/target.rs", "`Target::fork` is public and unsafe: its contract is the caller's to keep")];

#[test]
fn unsafe_stays_in_sys() {
    let sources = source::load(root(), "src");
    accept(&sources.iter().flat_map(|source| outside_sys(source, MAY_DECLARE)).collect::<Vec<_>>());
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let sources = source::load(root(), "src");
    accept(&sources.iter().flat_map(unexplained).collect::<Vec<_>>());
}

fn outside_sys(source: &Source, may_declare: &[(&str, &str)]) -> Vec<Complaint> {
    if source.path.starts_with("src/sys/") || source.path == "src/sys.rs" {
        return Vec::new();
    }
    let code = source.product();
    let listed = may_declare.iter().any(|(file, _)| *file == source.path);
    let (mut complaints, mut declared) = (Vec::new(), false);
    for (at, _) in words(&code).filter(|(_, word)| *word == "unsafe") {
        let declares = matches!(follower(&code, at), "fn" | "impl" | "trait");
        declared |= declares;
        if !listed {
            complaints.push(source.complaint(at, "`unsafe` outside src/sys/"));
        }
    }
    if listed && !declared {
        complaints.push(source.complaint(0, format!("no longer needs its entry in {}", file!())));
    }
    complaints
}

fn unexplained(source: &Source) -> Vec<Complaint> {
    let uses = words(&source.code).filter(|(_, word)| *word == "unsafe").map(|(at, _)| at);
    let unexplained =
        uses.filter(|at| matches!(follower(&source.code, *at), "{" | "impl") && !is_explained(source, *at));
    unexplained.map(|at| source.complaint(at, "no `// SAFETY:` directly above")).collect()
}

/// The word or the bracket behind the `unsafe` at `at`.
fn follower(code: &str, at: usize) -> &str {
    let rest = code[at + "unsafe".len()..].trim_start();
    if rest.starts_with('{') { "{" } else { words(rest).next().map_or("", |(_, word)| word) }
}

/// Whether a comment with `SAFETY:` stands right above the line, or above the statement that the line continues.
fn is_explained(source: &Source, at: usize) -> bool {
    let line = source.line(at) - 1;
    let text: Vec<&str> = source.text.lines().take(line).map(str::trim).collect();
    let code: Vec<&str> = source.code.lines().take(line).map(str::trim).collect();
    for above in (0..line).rev() {
        if text[above].starts_with("//") {
            let comment = text[..=above].iter().rev().take_while(|text| text.starts_with("//"));
            return comment.into_iter().any(|text| text.contains("SAFETY:"));
        }
        let attribute = code[above].starts_with("#[");
        if code[above].is_empty() || !attribute && code[above].ends_with([';', '{', '}', ',']) {
            return false;
        }
    }
    false
}

#[test]
fn unsafe_outside_sys_is_seen() {
    let block = Source::new("src/reaper.rs", "// unsafe\nfn f() { \"unsafe\"; }\nfn g() { unsafe { h() } }\n");
    expect_one(&outside_sys(&block, &[]), 3, "outside src/sys/");
    let list = &[("src/target.rs", "why")];
    let declared = "pub unsafe fn f() {}\n";
    expect_one(&outside_sys(&Source::new("src/other.rs", declared), list), 1, "outside src/sys/");
    accept(&outside_sys(&Source::new("src/target.rs", declared), list));
    let both = format!("{declared}fn g() {{ unsafe {{ f() }} }}\n");
    accept(&outside_sys(&Source::new("src/target.rs", &both), list));
    expect_one(&outside_sys(&Source::new("src/target.rs", "fn f() {}\n"), list), 1, "no longer needs");
}

#[test]
fn an_unexplained_unsafe_block_is_seen() {
    let bare = "fn f() {\n    // Reads it.\n    unsafe { g() }\n}\n";
    expect_one(&unexplained(&Source::new("src/sys/fd.rs", bare)), 3, "SAFETY");
    let too_far = "// SAFETY: h.\nlet i = j;\nlet k = unsafe { g() };\n";
    expect_one(&unexplained(&Source::new("src/sys/fd.rs", too_far)), 3, "SAFETY");
    expect_one(&unexplained(&Source::new("src/sys/fd.rs", "\nunsafe impl Send for F {}\n")), 2, "SAFETY");
    let good = "/// # Safety\n/// h\nunsafe fn f() {\n    // SAFETY: h,\n    // and i.\n    #[allow(x)]\n    let j =\n        unsafe { g() };\n}\n";
    accept(&unexplained(&Source::new("src/sys/fd.rs", good)));
}
