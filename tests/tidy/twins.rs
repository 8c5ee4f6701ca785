//! `tests/fallback` runs the tests of `tests/it`, all of them.

use std::collections::BTreeSet;
use std::fs;

use crate::root;

#[test]
fn fallback_has_the_modules_of_it() {
    let [it, fallback] =
        ["it", "fallback"].map(|name| fs::read_to_string(root().join(format!("tests/{name}/main.rs"))));
    let (it, fallback) = (it.expect("it is there"), fallback.expect("it is there"));
    assert!(modules(&it).len() > 20);
    assert_eq!(modules(&it), modules(&fallback), "in tests/it/main.rs, and in tests/fallback/main.rs");
    assert_eq!(modules(&fallback), paths(&fallback), "each is that of `it`");
}

/// Of a `main.rs`: the names in `mod name;`.
fn modules(main: &str) -> BTreeSet<&str> {
    main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect()
}

/// The modules of `it` that its `#[path]`s name.
fn paths(main: &str) -> BTreeSet<&str> {
    let paths = main.lines().filter_map(|line| line.strip_prefix("#[path = \"../it/")?.strip_suffix("\"]"));
    paths.filter_map(|path| path.strip_suffix("/mod.rs").or(path.strip_suffix(".rs"))).collect()
}

#[test]
fn a_module_or_a_path_is_read() {
    let main = "#[path = \"../it/fork/mod.rs\"]\nmod fork;\n#[path = \"../it/lines.rs\"]\nmod lines;\nmod more;\n";
    assert_eq!(modules(main), BTreeSet::from(["fork", "lines", "more"]));
    assert_eq!(paths(main), BTreeSet::from(["fork", "lines"]));
}
