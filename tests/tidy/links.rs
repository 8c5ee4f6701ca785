//! Relative links in the prose lead somewhere, down to the heading.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::{Complaint, accept, expect_one, root};

#[test]
fn relative_links_lead_somewhere() {
    let mut complaints = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(root().join(&page)).expect("a page is UTF-8");
        complaints.extend(check(&page, &text, &|path| read(&root().join(path))));
    }
    accept(&complaints);
}

/// What a link leads to.
enum Target {
    Page(String),
    Directory,
    Missing,
}

pub(crate) fn pages() -> Vec<String> {
    let top = ["README.md", "CHANGELOG.md"].into_iter().map(str::to_owned);
    let docs = fs::read_dir(root().join("docs")).into_iter().flatten();
    let docs = docs.map(|entry| format!("docs/{}", entry.expect("docs can be listed").file_name().to_string_lossy()));
    let mut pages: Vec<String> = top.chain(docs.filter(|page| page.ends_with(".md"))).collect();
    pages.retain(|page| root().join(page).exists());
    pages.sort();
    pages
}

fn read(path: &Path) -> Target {
    if path.is_dir() {
        return Target::Directory;
    }
    fs::read(path).map_or(Target::Missing, |bytes| Target::Page(String::from_utf8_lossy(&bytes).into_owned()))
}

fn check(page: &str, text: &str, read: &dyn Fn(&Path) -> Target) -> Vec<Complaint> {
    let prose = without_code(text);
    let mut complaints = Vec::new();
    for (line, link) in prose.lines().enumerate().flat_map(|(at, line)| links(line).into_iter().map(move |l| (at, l))) {
        let has_scheme =
            link.split_once(':').is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric()));
        if !has_scheme && let Err(reason) = follow(page, text, &link, read) {
            complaints.push(Complaint { file: page.to_owned(), line: line + 1, reason: format!("`{link}`: {reason}") });
        }
    }
    complaints
}

fn follow(page: &str, text: &str, link: &str, read: &dyn Fn(&Path) -> Target) -> Result<(), &'static str> {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let (path, target) = if path.is_empty() {
        (PathBuf::from(page), Target::Page(text.to_owned()))
    } else {
        let path = beside(page, path).ok_or("leads out of the repository")?;
        let target = read(&path);
        (path, target)
    };
    match (target, anchor) {
        (Target::Missing, _) => Err("no such file"),
        (Target::Directory, Some(_)) => Err("a directory has no headings"),
        (Target::Directory, None) | (Target::Page(_), None) => Ok(()),
        (Target::Page(text), Some(anchor)) if path.extension().is_some_and(|md| md == "md") => {
            anchors(&text).contains(&anchor.to_owned()).then_some(()).ok_or("no such heading")
        }
        (Target::Page(text), Some(anchor)) => {
            let line: Option<usize> = anchor.trim_start_matches('L').split('-').next().and_then(|n| n.parse().ok());
            line.is_some_and(|line| line <= text.lines().count()).then_some(()).ok_or("no such line")
        }
    }
}

/// `path` as seen from the directory of `page`; none if that is outside the repository.
fn beside(page: &str, path: &str) -> Option<PathBuf> {
    let mut found = Path::new(page).parent()?.to_path_buf();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => found.push(name),
            Component::CurDir => {}
            Component::ParentDir => found.pop().then_some(())?,
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(found)
}

/// The text with fenced blocks and code spans blanked out; lines stay where they are.
fn without_code(text: &str) -> String {
    let mut fence = None;
    let mut prose = String::new();
    for line in text.lines() {
        let start = line.trim_start();
        let marker = ["```", "~~~"].into_iter().find(|marker| start.starts_with(marker));
        match (fence, marker) {
            (None, None) => {
                // A span without an end is no span.
                let closed = line.matches('`').count() / 2 * 2;
                let parts = line.split('`').enumerate();
                prose.extend(parts.filter(|(part, _)| part % 2 == 0 || *part > closed).map(|(_, text)| text));
            }
            (None, Some(_)) => fence = marker,
            (Some(open), Some(close)) if open == close => fence = None,
            (Some(_), _) => {}
        }
        prose.push('\n');
    }
    prose
}

/// The targets of inline links, images, reference definitions and HTML attributes on a line.
fn links(line: &str) -> Vec<String> {
    let definition =
        line.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target);
    let inline = line.split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or(rest));
    let html = ["href=\"", "src=\""].into_iter().flat_map(|name| line.split(name).skip(1));
    let html = html.map(|rest| rest.split('"').next().unwrap_or(rest));
    let targets = definition.into_iter().chain(inline).chain(html);
    // A title may follow the target, and angle brackets may hold it.
    let bare = targets.filter_map(|target| target.split_whitespace().next());
    bare.map(|target| target.trim_matches(['<', '>']).to_owned()).collect()
}

/// The anchors that GitHub makes of headings, and those set by hand.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    let kept = without_fences(text);
    for line in kept.lines() {
        for attribute in ["<a id=\"", "<a name=\""] {
            anchors.extend(line.split(attribute).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
        let title = line.trim_start_matches('#');
        let level = line.len() - title.len();
        if !(1..=6).contains(&level) || !title.starts_with(' ') {
            continue;
        }
        let slug = slug(title.trim().trim_end_matches('#').trim_end());
        let before = seen.entry(slug.clone()).and_modify(|n| *n += 1).or_insert(0);
        anchors.push(if *before == 0 { slug } else { format!("{slug}-{before}") });
    }
    anchors
}

/// The text without fenced blocks, in which `#` starts a comment and no heading.
fn without_fences(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~");
        inside ^= fence;
        if !inside && !fence {
            kept.push_str(line);
        }
        kept.push('\n');
    }
    kept
}

fn slug(title: &str) -> String {
    // Of a link in a heading only its text is kept.
    let mut text = String::new();
    for (part, piece) in title.split("](").enumerate() {
        text.push_str(if part == 0 { piece } else { piece.split_once(')').map_or("", |(_, rest)| rest) });
    }
    let kept = text.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
fn complaints(text: &str) -> Vec<Complaint> {
    let read = |path: &Path| match path.to_str() {
        Some("docs/b.md") => {
            Target::Page("# The `sys` layer: why?\n```sh\n# not a heading\n```\n## Same\n## Same\n".into())
        }
        Some("src/lib.rs") => Target::Page("//! One\n".into()),
        Some("src") => Target::Directory,
        _ => Target::Missing,
    };
    check("docs/a.md", text, &read)
}

#[test]
fn a_broken_link_is_seen() {
    expect_one(&complaints("\n[x](c.md)\n"), 2, "no such file");
    expect_one(&complaints("[x]: ../nowhere.md \"title\"\n"), 1, "no such file");
    expect_one(&complaints("<img src=\"picture.svg\">\n"), 1, "no such file");
    expect_one(&complaints("[x](../../other/README.md)\n"), 1, "out of the repository");
    expect_one(&complaints("[x](/src/lib.rs)\n"), 1, "out of the repository");
    expect_one(&complaints("[x](b.md#not-a-heading)\n"), 1, "no such heading");
    expect_one(&complaints("# Here\n[x](#there)\n"), 2, "no such heading");
    expect_one(&complaints("[x](../src/lib.rs#L2)\n"), 1, "no such line");
}

#[test]
fn good_links_and_code_pass() {
    accept(&complaints("# Here\n[x](#here) ![y](b.md#the-sys-layer-why) [z](b.md#same-1 \"title\") [s](../src)\n"));
    accept(&complaints("[x](https://example.org/a#b) <mailto:a@example.org> [l](../src/lib.rs#L1)\n"));
    accept(&complaints("```md\n[x](c.md)\n```\n`[y](c.md)` and `[z](c.md)`\n"));
}
