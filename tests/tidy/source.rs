//! A source file as the rules see it: the same text, byte for byte in place, with comments and literals blanked out.

use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::Complaint;

/// One Rust source file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the package, with `/` between its parts.
    pub(crate) path: String,
    pub(crate) text: String,
    /// As long as `text`: every byte of a comment or literal is a space, every line break is kept.
    pub(crate) code: String,
    /// What is compiled for tests only, in order and without overlap.
    tests: Vec<Range<usize>>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let code = blank(text);
        let tests = test_ranges(&code);
        Source { path: path.to_owned(), text: text.to_owned(), code, tests }
    }

    /// The code that is compiled for users; tests are blanked out.
    pub(crate) fn product(&self) -> String {
        self.masked(false)
    }

    /// The code that is compiled for tests only; the rest is blanked out.
    pub(crate) fn test_code(&self) -> String {
        self.masked(true)
    }

    /// How many lines are not for tests only.
    pub(crate) fn product_lines(&self) -> usize {
        let in_tests: usize = self.tests.iter().map(|range| self.text[range.clone()].lines().count()).sum();
        self.text.lines().count().saturating_sub(in_tests)
    }

    /// The line, counted from 1, of a byte offset.
    pub(crate) fn line(&self, offset: usize) -> usize {
        1 + self.text[..offset].matches('\n').count()
    }

    pub(crate) fn complaint(&self, offset: usize, reason: impl Into<String>) -> Complaint {
        Complaint { file: self.path.clone(), line: self.line(offset), reason: reason.into() }
    }

    fn masked(&self, keep_tests: bool) -> String {
        let mut code = self.code.clone().into_bytes();
        let mut from = 0;
        for range in &self.tests {
            let blanked = if keep_tests { from..range.start } else { range.clone() };
            fill(&mut code[blanked]);
            from = range.end;
        }
        if keep_tests {
            fill(&mut code[from..]);
        }
        String::from_utf8(code).expect("the ranges end at ASCII characters")
    }
}

/// Every `.rs` file below `dir`, sorted by path. Files of `#[cfg(test)] mod name;` count as tests throughout.
pub(crate) fn load(root: &Path, dir: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    collect(root, dir, &mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let test_modules: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let inside =
            |module: &String| source.path == format!("{module}.rs") || source.path.starts_with(&format!("{module}/"));
        if test_modules.iter().any(inside) {
            source.tests = vec![Range { start: 0, end: source.code.len() }];
        }
    }
    sources
}

/// The words of `code`, keywords and names alike, with their offsets.
pub(crate) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += code[at..].find(is_word)?;
        let start = at;
        at += code[at..].find(|c| !is_word(c)).unwrap_or(code.len() - at);
        Some((start, &code[start..at]))
    })
}

pub(crate) fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The offset of the bracket that closes the one at `open`, of whatever kind.
pub(crate) fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The offset of the first of `wanted` at or after `from` that stands in no bracket opened after `from`.
pub(crate) fn find_outside_brackets(code: &str, from: usize, wanted: &[u8]) -> Option<usize> {
    let mut at = from;
    while let Some(&byte) = code.as_bytes().get(at) {
        if wanted.contains(&byte) {
            return Some(at);
        }
        at = match byte {
            b'(' | b'[' | b'{' => closing(code, at)? + 1,
            b')' | b']' | b'}' => return None,
            _ => at + 1,
        };
    }
    None
}

fn collect(root: &Path, dir: &str, sources: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(root.join(dir)) else {
        return;
    };
    for entry in entries {
        let entry = entry.expect("a directory of the package can be listed");
        let path = format!("{dir}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().expect("its kind is known").is_dir() {
            collect(root, &path, sources);
        } else if path.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).expect("a source file is UTF-8");
            sources.push(Source::new(&path, &text));
        }
    }
}

/// The files, without `.rs`, that `#[cfg(test)] mod name;` in this one stands for.
fn test_modules(source: &Source) -> Vec<String> {
    let stem = source.path.trim_end_matches(".rs");
    let dir = ["/mod", "/lib", "/main"].iter().find_map(|own| stem.strip_suffix(own)).unwrap_or(stem);
    let in_range = |range: &Range<usize>| {
        let item = source.code[range.clone()].strip_suffix(';')?;
        let (rest, name) = item.rsplit_once(char::is_whitespace)?;
        rest.trim_end().ends_with("mod").then(|| format!("{dir}/{name}"))
    };
    source.tests.iter().filter_map(in_range).collect()
}

/// Overwrites code with spaces; line breaks stay.
fn fill(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

/// Blanks out comments and the literals that can hold arbitrary text.
fn blank(text: &str) -> String {
    let mut code = text.as_bytes().to_vec();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let word: usize = text[at..].chars().take_while(|c| is_word(*c)).map(char::len_utf8).sum();
        let end = match &text[at..at + word] {
            "" | "b" | "c" => literal_end(text, at + word),
            "r" | "br" | "cr" => raw_string_end(text, at + word),
            _ => None,
        };
        if let Some(end) = end {
            fill(&mut code[at..end]);
        }
        // A word is passed as a whole, so that its last letter is never taken for a prefix.
        at = end.unwrap_or(at + word.max(c.len_utf8()));
    }
    String::from_utf8(code).expect("a comment or literal is blanked as a whole")
}

/// The end of the comment or literal that starts at `at`, if one does.
fn literal_end(text: &str, at: usize) -> Option<usize> {
    let rest = &text[at..];
    let end = match rest.as_bytes() {
        [b'/', b'/', ..] => rest.find('\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment_length(rest),
        [b'"', ..] => quoted_length(rest, b'"'),
        [b'\'', b'\\', ..] => quoted_length(rest, b'\''),
        [b'\'', ..] => {
            let held = rest[1..].chars().next()?;
            let quote = 1 + held.len_utf8();
            if !rest[quote..].starts_with('\'') {
                return None; // A lifetime or a label.
            }
            quote + 1
        }
        _ => return None,
    };
    Some(at + end)
}

/// The end of the raw string whose `#`s or quote start at `at`; a raw identifier (`r#type`) is none.
fn raw_string_end(text: &str, at: usize) -> Option<usize> {
    let rest = &text[at..];
    let hashes = rest.bytes().take_while(|byte| *byte == b'#').count();
    let body = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |found| found + end.len());
    Some(at + hashes + 1 + length)
}

fn block_comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted_length(rest: &str, quote: u8) -> usize {
    let mut at = 1;
    while let Some(&byte) = rest.as_bytes().get(at) {
        match byte {
            b'\\' => at += 2,
            _ if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The items under `#[cfg(test)]`, attributes included; the whole file under `#![cfg(test)]`.
fn test_ranges(code: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(found) = code[at..].find("[cfg(") {
        let bracket = at + found;
        let open = bracket + "[cfg".len();
        at = open;
        let Some(close) = closing(code, open) else {
            break;
        };
        if !only_for_tests(&code[open + 1..close]) {
            continue;
        }
        if code[..bracket].ends_with("#!") {
            return vec![Range { start: 0, end: code.len() }];
        }
        at = item_end(code, closing(code, bracket).unwrap_or(close) + 1);
        ranges.push(bracket.saturating_sub(1)..at);
    }
    ranges
}

/// Whether a `cfg` predicate holds in tests alone: `test`, or `all(…)` with `test` in it.
fn only_for_tests(predicate: &str) -> bool {
    let predicate = predicate.trim();
    let all = predicate.strip_prefix("all(").and_then(|rest| rest.strip_suffix(')'));
    predicate == "test" || all.is_some_and(|all| all.split(',').any(|part| part.trim() == "test"))
}

/// The end of the item, field or statement at `at`, past its own attributes.
fn item_end(code: &str, at: usize) -> usize {
    let mut at = at;
    loop {
        at += code[at..].len() - code[at..].trim_start().len();
        if !code[at..].starts_with("#[") {
            break;
        }
        at = closing(code, at + 1).map_or(code.len(), |close| close + 1);
    }
    let keyword = words(&code[at..]).map(|(_, word)| word).find(|word| !matches!(*word, "pub" | "crate" | "super"));
    let (wanted, block): (&[u8], bool) = match keyword.unwrap_or("") {
        "use" | "static" | "type" | "let" => (b";", false),
        "fn" | "mod" | "impl" | "struct" | "enum" | "trait" | "unsafe" | "async" | "const" | "extern" => (b";{", true),
        _ => (b";{,", true),
    };
    match find_outside_brackets(code, at, wanted) {
        Some(end) if block && code[end..].starts_with('{') => closing(code, end).map_or(code.len(), |close| close + 1),
        Some(end) => end + 1,
        // The last field or variant of a list without a comma.
        None => at + code[at..].find(['}', ')']).unwrap_or(code.len() - at),
    }
}

#[test]
fn comments_and_literals_are_blanked_in_place() {
    let text = "a // b\nc /* d /* e */ f */ g \"h\\\"i\" 'j' '\\'' &'k l r#\"m\"n\"# b\"o\" r#type bar\"p\" é\n";
    let code = blank(text);
    let kept: Vec<&str> = words(&code).map(|(_, word)| word).collect();
    assert_eq!(kept, ["a", "c", "g", "k", "l", "r", "type", "bar", "é"]);
    assert_eq!((code.len(), code.lines().count()), (text.len(), 2));
}

#[test]
fn test_items_are_told_from_product_code() {
    let text = "use a;\n#[cfg(test)]\nuse b::{c, d};\nfn e() {}\n#[cfg(all(test, loom))]\n#[allow(x)]\nmod f { fn g() {} }\n\
                #[cfg(any(test, feature = \"h\"))]\nfn i() {}\nstruct J { #[cfg(test)] k: u8, l: u8 }\n#[cfg(test)]\nmod m;\n";
    let source = Source::new("src/n.rs", text);
    let product = source.product();
    let kept: Vec<&str> = words(&product).map(|(_, word)| word).collect();
    let expected = "use a fn e cfg any test feature fn i struct J l u8";
    assert_eq!(kept.join(" "), expected);
    assert_eq!(test_modules(&source), ["src/n/m"]);
    assert_eq!(source.product_lines(), 4);
}
