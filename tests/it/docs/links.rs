//! Links within the repository lead to files and headings that exist.

use std::collections::BTreeSet;

use super::{pages, paths, read, root};

/// The targets of `[text](target)` outside code.
fn targets(page: &str) -> Vec<String> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in page.lines() {
        in_code ^= line.starts_with("```");
        let links = line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        let images = line.split("src=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0));
        found.extend(links.chain(images).filter(|_| !in_code).map(str::to_owned));
    }
    found
}

/// The anchors that GitHub makes of headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page
        .lines()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    let anchor = |heading: &str| {
        let kept =
            heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
        kept.replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut complaints = Vec::new();
    let both: BTreeSet<_> = pages().into_iter().chain(paths::pages()).collect();
    for page in both {
        let text = read(&page);
        for target in targets(&text).iter().filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = root().join(&page).parent().unwrap().to_owned();
            let file = if path.is_empty() { root().join(&page) } else { folder.join(path) };
            if !file.exists() {
                complaints.push(format!("{page}: {target}: no such file"));
            } else if !anchor.is_empty() && !anchors(&std::fs::read_to_string(&file).unwrap()).contains(anchor) {
                complaints.push(format!("{page}: {target}: no such heading"));
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn anchors_are_those_of_github() {
    let page = "# What a router has to know\n## `NOTIFY`, and locks\n";
    assert_eq!(anchors(page), BTreeSet::from(["what-a-router-has-to-know".to_owned(), "notify-and-locks".to_owned()]));
    assert_eq!(targets("see [a](b.md#c) and [d](e)\n```\n[f](g)\n```\n"), ["b.md#c", "e"]);
}
