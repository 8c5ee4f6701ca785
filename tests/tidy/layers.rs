//! A module imports only from its own layer and those below it.
//!
//! What counts as an import: every `crate::…`, `super::…` and `self::…` path, grouped ones too, outside tests. A name
//! that `lib.rs` re-exports counts as the module that it comes from. `lib.rs` itself may import everything.

use std::collections::HashMap;
use std::ops::Range;

use crate::source::{self, Source, closing, find_outside_brackets, is_word, words};
use crate::{Complaint, accept, expect_one, root};

/// Each module's layer. The longest path that fits wins; a module that nothing here fits is a failure.
const LAYERS: &[(&str, u8)] = &[
    ("sys", 0),
    ("error", 1),
    ("exit", 1),
    ("failure", 1),
    ("line", 1),
    ("notify", 1),
    ("panics", 1),
    ("policy", 1),
    ("process/state", 1),
    ("ring", 1),
    ("signal", 1),
    ("stop", 1),
    ("supervisor/strategy", 1),
    ("readable", 1),
    ("ready", 1),
    ("wait", 1),
    ("callbacks", 2),
    ("reaper", 2),
    ("shared_bytes", 2),
    ("spawners", 2),
    ("threads", 2),
    ("process", 3),
    ("forkserver", 4),
    ("supervisor", 5),
    ("task", 4),
    ("worker", 4),
    ("job", 5),
];

/// A path below the crate's root, in parts.
type ModulePath = Vec<String>;

/// A path as it is written in a source file.
#[derive(Debug)]
struct Written {
    at: usize,
    /// The first part is `crate`, `super`, `self` or a name; the last may be `*`.
    parts: ModulePath,
    /// The name it gets where it is imported.
    name: String,
}

#[test]
fn imports_point_downward() {
    let sources = source::load(root(), "src");
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"));
    accept(&check(&sources));
}

fn check(sources: &[Source]) -> Vec<Complaint> {
    let exports = sources.iter().find(|source| source.path == "src/lib.rs").map(root_names).unwrap_or_default();
    let in_layers = sources.iter().filter(|source| !module_of(&source.path).is_empty());
    in_layers.flat_map(|source| check_file(source, &exports)).collect()
}

fn check_file(source: &Source, exports: &HashMap<String, ModulePath>) -> Vec<Complaint> {
    let module = module_of(&source.path);
    let Some((_, own)) = layer_of(&module) else {
        let reason = format!("`{}` is missing from the layer table of {}", module.join("/"), file!());
        return vec![source.complaint(0, reason)];
    };
    let code = source.product();
    let inline = inline_modules(&code);
    let mut complaints = Vec::new();
    for written in references(&code) {
        let surrounding = inline.iter().filter(|(range, _)| range.contains(&written.at)).map(|(_, name)| name.clone());
        let here: ModulePath = module.iter().cloned().chain(surrounding).collect();
        let shown = written.parts.join("::");
        let target = absolute(&here, &written.parts);
        let reason = match resolve(&target, exports) {
            None => {
                format!("`{shown}` cannot be told to a layer: name what is meant by its module")
            }
            Some((to, layer)) if layer > own => {
                format!("layer {own} imports `{shown}`: `{to}` is of layer {layer}")
            }
            Some(_) => continue,
        };
        complaints.push(source.complaint(written.at, reason));
    }
    complaints
}

/// `src/process/state.rs` is `process/state`, `src/process/mod.rs` is `process`, `src/lib.rs` is the empty path.
fn module_of(path: &str) -> ModulePath {
    let stem = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: ModulePath = stem.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] {
        parts.pop();
    }
    parts
}

fn layer_of(path: &[String]) -> Option<(&'static str, u8)> {
    let fits = |prefix: &str| prefix.split('/').zip(path).filter(|(a, b)| a == b).count() == prefix.split('/').count();
    LAYERS.iter().filter(|(prefix, _)| fits(prefix)).max_by_key(|(prefix, _)| prefix.len()).copied()
}

/// The layer of an absolute path, by the table or by way of what `lib.rs` re-exports.
fn resolve(path: &[String], exports: &HashMap<String, ModulePath>) -> Option<(&'static str, u8)> {
    layer_of(path).or_else(|| layer_of(exports.get(path.first()?)?))
}

fn absolute(here: &[String], written: &[String]) -> ModulePath {
    let supers = written.iter().take_while(|part| *part == "super").count();
    let base = match written[0].as_str() {
        "crate" => &[],
        _ => &here[..here.len().saturating_sub(supers)],
    };
    base.iter().chain(&written[supers.max(1)..]).cloned().collect()
}

/// What `lib.rs` imports or re-exports, by the name that `crate::name` would use.
fn root_names(lib: &Source) -> HashMap<String, ModulePath> {
    let code = lib.product();
    let mut written = Vec::new();
    for (at, _) in words(&code).filter(|(_, word)| *word == "use") {
        read_paths(&code, at + "use".len(), &[], &mut written);
    }
    let below_root =
        |parts: ModulePath| parts.into_iter().skip_while(|part| part == "crate" || part == "self").collect();
    written.into_iter().map(|path| (path.name, below_root(path.parts))).collect()
}

/// Every path in `code` that starts at `crate`, `super` or `self`.
fn references(code: &str) -> Vec<Written> {
    let mut written = Vec::new();
    for (at, word) in words(code) {
        let before = code[..at].trim_end();
        let starts = matches!(word, "crate" | "super" | "self")
            && code[at + word.len()..].trim_start().starts_with("::")
            && !before.ends_with("::")
            // `pub(in crate::process)` says who may look in, not where we look.
            && !before.ends_with("(in");
        if starts {
            read_paths(code, at, &[], &mut written);
        }
    }
    written
}

/// Reads the path at `at`, or each path of a group, and returns the offset behind it.
fn read_paths(code: &str, at: usize, prefix: &[String], written: &mut Vec<Written>) -> usize {
    let mut parts = prefix.to_vec();
    let mut next = past_spaces(code, at);
    let start = next;
    loop {
        let rest = &code[next..];
        if rest.starts_with('{') {
            return read_group(code, next, &parts, written);
        }
        let length = if rest.starts_with('*') { 1 } else { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) };
        let part = &rest[..length];
        next += length;
        if part == "r" && code[next..].starts_with('#') {
            next += 1; // A raw identifier: its name follows.
            continue;
        }
        if !part.is_empty() && (part != "self" || parts.is_empty()) {
            parts.push(part.to_owned());
        }
        let after = past_spaces(code, next);
        if !code[after..].starts_with("::") {
            break;
        }
        next = past_spaces(code, after + 2);
    }
    let mut name = parts.last().cloned().unwrap_or_default();
    let after = past_spaces(code, next);
    if let Some(alias) = code[after..].strip_prefix("as ") {
        name = alias.chars().skip_while(|c| c.is_whitespace()).take_while(|c| is_word(*c)).collect();
    }
    written.push(Written { at: start, parts, name });
    next
}

fn read_group(code: &str, open: usize, prefix: &[String], written: &mut Vec<Written>) -> usize {
    let end = closing(code, open).unwrap_or(code.len() - 1);
    let mut at = open + 1;
    while !code[at..end].trim().is_empty() {
        let behind = read_paths(code, at, prefix, written);
        at = find_outside_brackets(&code[..end], behind, b",").map_or(end, |comma| comma + 1);
    }
    end + 1
}

fn past_spaces(code: &str, at: usize) -> usize {
    at + code[at..].len() - code[at..].trim_start().len()
}

/// The extent and name of each `mod name { … }`.
fn inline_modules(code: &str) -> Vec<(Range<usize>, String)> {
    let mut modules = Vec::new();
    for (at, _) in words(code).filter(|(_, word)| *word == "mod") {
        let rest = &code[at + "mod".len()..];
        let Some((name_at, name)) = words(rest).next() else {
            continue;
        };
        let behind = past_spaces(code, at + "mod".len() + name_at + name.len());
        if code[behind..].starts_with('{') {
            modules.push((behind..closing(code, behind).unwrap_or(code.len()), name.to_owned()));
        }
    }
    modules
}

#[cfg(test)]
fn complaints(path: &str, text: &str) -> Vec<Complaint> {
    let lib = "pub use error::Error;\npub use process::{self as running, Process as Handle, state::{self, State}};\n";
    check(&[Source::new("src/lib.rs", lib), Source::new(path, text)])
}

#[test]
fn an_upward_import_is_seen() {
    expect_one(&complaints("src/exit.rs", "\nuse crate::reaper::Reaper;\n"), 2, "`reaper` is of layer 2");
    expect_one(
        &complaints("src/reaper/mod.rs", "use crate::{sys,\n process::{\n state::S, Process}};"),
        3,
        "layer 2 imports",
    );
    expect_one(&complaints("src/reaper/timers.rs", "fn f() { super::super::process::f::<u8>() }"), 1, "`process`");
    expect_one(&complaints("src/sys/fd.rs", "use crate::error::Error;"), 1, "layer 0 imports");
    expect_one(&complaints("src/process/state.rs", "use super::Builder;"), 1, "layer 1 imports");
    expect_one(&complaints("src/exit.rs", "mod inner { use super::super::callbacks::Callbacks; }"), 1, "`callbacks`");
}

#[test]
fn an_upward_import_by_way_of_the_root_is_seen() {
    expect_one(&complaints("src/exit.rs", "use crate::Handle;"), 1, "`process` is of layer 3");
    expect_one(&complaints("src/exit.rs", "use crate::running;"), 1, "`process` is of layer 3");
    expect_one(&complaints("src/exit.rs", "use crate::*;"), 1, "cannot be told");
    expect_one(&complaints("src/exit.rs", "use crate::Unknown;"), 1, "cannot be told");
}

#[test]
fn a_module_missing_from_the_table_is_seen() {
    expect_one(&complaints("src/processor.rs", ""), 1, "missing from the layer table");
}

#[test]
fn downward_imports_tests_and_comments_pass() {
    let text = "//! See [`crate::process::Process`].\n\
                use crate::{Error, State, state, sys::{self, fd as r#type}};\n\
                pub(in crate::process) fn f() -> u8 { \"crate::process\"; crate::signal::g() as u8 }\n\
                #[cfg(test)]\nmod tests { use crate::process::Process; use super::*; }\n";
    accept(&complaints("src/process/state/table.rs", text));
    accept(&complaints("src/reaper/mod.rs", "use crate::Error; use self::timers::Timers; use super::sys;"));
}
