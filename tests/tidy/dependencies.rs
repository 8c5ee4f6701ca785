//! The core depends on five crates and on nothing else.

use std::collections::BTreeSet;
use std::env;
use std::process::Command;

use crate::root;

const CORE: [&str; 5] = ["libc", "log", "nix", "signal-hook", "thiserror"];

#[test]
fn the_core_has_five_dependencies() {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "--offline", "--depth", "1", "--no-default-features", "-e", "normal", "--prefix", "none"])
        .current_dir(root())
        .output()
        .expect("cargo can be run");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).expect("cargo writes UTF-8");
    assert_eq!(unexpected(&tree), Vec::<String>::new(), "Cargo.toml:1: the core must depend on {CORE:?}");
}

/// What is there and should not be, or the other way round, in the output of `cargo tree --prefix none`.
fn unexpected(tree: &str) -> Vec<String> {
    let names = tree.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let names: BTreeSet<&str> = names.collect();
    names.symmetric_difference(&BTreeSet::from(CORE)).map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_dependency_too_many_or_too_few_is_seen() {
    let tree = "pkit v0.1.0 (/pkit)\nlibc v0.2\nlog v0.4\nnix v0.31\nsignal-hook v0.4\nthiserror v2.0\n";
    assert_eq!(unexpected(tree), Vec::<String>::new());
    assert_eq!(unexpected(&format!("{tree}serde v1.0\n")), ["serde"]);
    assert_eq!(unexpected(&tree.replace("log v0.4\n", "")), ["log"]);
}
