//! A module is named for what it holds.

use crate::source::{self, Source, words};
use crate::{Complaint, accept, expect_one, root};

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &["common", "helper", "helpers", "imp", "misc", "util", "utils"];

#[test]
fn modules_have_names_that_say_something() {
    let dirs = ["src", "tests", "benches", "examples"];
    let sources = dirs.into_iter().flat_map(|dir| source::load(root(), dir));
    accept(&sources.flat_map(|source| check(&source)).collect::<Vec<_>>());
}

fn check(source: &Source) -> Vec<Complaint> {
    let stem = source.path.trim_end_matches(".rs");
    let of_file = stem.split('/').map(|part| (0, part));
    let declared = words(&source.code).zip(words(&source.code).skip(1));
    let inline = declared.filter(|((_, word), _)| *word == "mod").map(|(_, name)| name);
    let empty = of_file.chain(inline).filter(|(_, name)| EMPTY_NAMES.contains(name));
    empty.map(|(at, name)| source.complaint(at, format!("`{name}` names nothing: say what is inside"))).collect()
}

#[test]
fn an_empty_name_is_seen() {
    expect_one(&check(&Source::new("tests/it/utils.rs", "")), 1, "`utils`");
    expect_one(&check(&Source::new("src/common/fd.rs", "")), 1, "`common`");
    expect_one(&check(&Source::new("src/fd.rs", "// mod imp {}\n\nmod imp { fn common() {} }\n")), 3, "`imp`");
    accept(&check(&Source::new("src/important.rs", "mod commons;\n")));
}
