//! The house's order: a room imports only from floors below it, and keeps itself tidy.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Every room, with its floor: a file of `src` without its ending, and the folder of that name.
const ROOMS: [(u8, &str); 31] = [
    (0, "wire"),
    (0, "key"),
    (1, "config"),
    (1, "metrics"),
    (1, "shutdown"),
    (1, "service_manager"),
    (2, "telemetry"),
    (2, "net"),
    (2, "key_ring"),
    (2, "relay/capacity"),
    (3, "acme"),
    (3, "relay/request"),
    (3, "relay/throttle"),
    (4, "relay/registry"),
    (4, "relay/route"),
    (4, "relay/plane"),
    (4, "relay/passage"),
    (5, "relay/record"),
    (5, "relay/admission"),
    (5, "relay/auth"),
    (5, "relay/pairing"),
    (5, "relay/splice"),
    (6, "relay"),
    (7, "relay/entrance"),
    (7, "cluster"),
    (8, "http"),
    (9, "front_door"),
    (10, "gateway"),
    (11, "cli"),
    (12, "lib"),
    (12, "main"),
];

/// What may lie at the top, besides what begins with a dot.
const TOP: [&str; 9] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "config.toml",
    "deploy",
    "proto",
    "src",
    "tests",
];

/// Names that say nothing about what they own.
const NAMELESS: [&str; 6] = ["utils", "util", "common", "helpers", "types", "misc"];

/// Lines of a file before its tests.
const LONGEST: usize = 400;

struct Source {
    /// `relay/splice/flow` of `src/relay/splice/flow.rs`.
    module: String,
    text: String,
}

impl Source {
    fn all() -> Vec<Self> {
        let src = root().join("src");
        let mut sources = Vec::new();
        let mut dirs = vec![src.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|ending| ending == "rs") {
                    let module = path.strip_prefix(&src).expect("within").with_extension("");
                    let text = fs::read_to_string(&path).expect("text");
                    sources.push(Self { module: module.display().to_string(), text });
                }
            }
        }
        assert!(sources.len() > 30, "these are not the sources");
        sources
    }

    /// What comes before the tests.
    fn code(&self) -> &str {
        self.text.split("#[cfg(test)]").next().expect("something")
    }

    /// What its `use` lines and paths name, each from the crate's root: `relay/request/End`.
    fn imports(&self) -> BTreeSet<String> {
        let code: String = self.code().lines().filter(|line| !is_comment(line)).collect();
        let mut imports = BTreeSet::new();
        for start in ["crate::", "super::"] {
            for (at, _) in code.match_indices(start) {
                // `$crate::`, or the second super of two.
                let before = code[..at].chars().next_back();
                if before.is_none_or(|before| before.is_whitespace() || "(<&{,!=[".contains(before))
                {
                    let mut paths = Vec::new();
                    tree(&code[at..], "", &mut paths);
                    imports.extend(paths.iter().map(|path| self.rooted(path)));
                }
            }
        }
        imports
    }

    fn rooted(&self, path: &str) -> String {
        let mut base: Vec<_> = self.module.split('/').collect();
        let mut rest: Vec<_> = path.split('/').collect();
        if rest[0] == "crate" {
            return rest[1..].join("/");
        }
        while rest.first() == Some(&"super") {
            rest.remove(0);
            base.pop();
        }
        base.extend(rest);
        base.join("/")
    }
}

/// The paths of the `use` tree at the start of `code`; what follows it is returned.
fn tree<'a>(code: &'a str, prefix: &str, paths: &mut Vec<String>) -> &'a str {
    let end =
        code.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(code.len());
    let path = match prefix {
        "" => code[..end].to_owned(),
        prefix => format!("{prefix}/{}", &code[..end]),
    };
    let rest = &code[end..];
    let Some(after) = rest.strip_prefix("::") else {
        paths.push(path.trim_end_matches(['/', '*']).trim_end_matches("/self").to_owned());
        return rest;
    };
    let Some(mut inner) = after.strip_prefix('{') else { return tree(after, &path, paths) };
    loop {
        inner = inner.trim_start_matches([' ', ',', '\n']);
        if let Some(rest) = inner.strip_prefix('}') {
            return rest;
        }
        let rest = tree(inner, &path, paths);
        assert!(rest.len() < inner.len(), "not a use tree: {inner:.80}");
        inner = rest;
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// The room of a module or of something in it: the longest name that fits.
fn room(path: &str) -> Option<(u8, &'static str)> {
    let fits = |name: &str| {
        path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    ROOMS.into_iter().filter(|(_, name)| fits(name)).max_by_key(|(_, name)| name.len())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_room_imports_only_from_floors_below_it() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for source in Source::all() {
        let (floor, name) = room(&source.module)
            .unwrap_or_else(|| panic!("{} is in no room: add it to ROOMS", source.module));
        for import in source.imports() {
            // A macro or a re-export at the crate's root would have no room; there are none.
            let (below, other) =
                room(&import).unwrap_or_else(|| panic!("{}: no room {import}", source.module));
            seen += 1;
            if name != other && below >= floor {
                broken
                    .push(format!("{} (floor {floor}) imports {import} ({below})", source.module));
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn imports_are_read_as_rust_reads_them() {
    let read = |module: &str, text: &str| {
        let source = Source { module: module.into(), text: text.into() };
        source.imports().into_iter().collect::<Vec<_>>().join(" ")
    };
    for (module, text, paths) in [
        ("a", "use crate::b::C;", "b/C"),
        ("a", "use crate::{b, c::{self, D, e::F}, g::*};", "b c c/D c/e/F g"),
        ("a/b", "use super::c::D;", "a/c/D"),
        ("a/b/c", "use super::super::d::E;", "a/d/E"),
        ("a", "fn f(x: &crate::b::C) -> crate::d::E {}", "b/C d/E"),
        ("a", "// use crate::b;\n/// [crate::c]", ""),
        ("a", "use crate::b;\n#[cfg(test)]\nmod tests { use crate::z; }", "b"),
    ] {
        assert_eq!(read(module, text), paths, "{text}");
    }
}

#[test]
fn every_room_exists_and_says_what_it_owns() {
    let sources = Source::all();
    for (_, name) in ROOMS {
        assert!(sources.iter().any(|source| source.module == name), "{name} is no file");
    }
    for source in &sources {
        assert!(source.text.starts_with("//! "), "{} does not say what it owns", source.module);
        let nameless = source.module.split('/').any(|part| NAMELESS.contains(&part));
        assert!(!nameless, "{} says nothing about what it owns", source.module);
        let lines = source.code().lines().count();
        assert!(lines <= LONGEST, "{} has {lines} lines before its tests", source.module);
    }
}

/// As git has it: what a run leaves behind is nobody's fault.
#[test]
fn nothing_else_lies_at_the_top() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        println!("SKIPPED: this is no git checkout, or there is no git");
        return;
    };
    let listed = String::from_utf8(listed.stdout).unwrap();
    let top: BTreeSet<_> = listed
        .split_terminator('\0')
        .filter_map(|path| Path::new(path).components().next()?.as_os_str().to_str())
        .collect();
    let strange: Vec<_> =
        top.iter().filter(|name| !name.starts_with('.') && !TOP.contains(name)).collect();
    assert!(strange.is_empty(), "{strange:?} should be somewhere below");
}

/// The README says of each threat which test shows that it is met: `file::name`.
#[test]
fn every_test_that_the_readme_names_exists() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, security) = readme.split_once("\n## Security\n").expect("the section");
    let security = security.split("\n## ").next().unwrap();
    let named: Vec<_> =
        security.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::")).collect();
    assert!(named.len() > 30, "only {} tests are named", named.len());
    let mut files = Vec::new();
    let mut dirs = vec![root().join("src"), root().join("tests")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    for (file, name) in named {
        let mut texts = files.iter().filter(|path| path.file_stem().unwrap() == file);
        let is_test = |text: String| {
            text.rsplit_once(&format!("fn {name}(")).is_some_and(|(before, _)| {
                let attributes = before.rsplit("\n\n").next().unwrap();
                attributes.contains("#[test]") || attributes.contains("#[tokio::test")
            })
        };
        let found = texts.any(|path| is_test(fs::read_to_string(path).unwrap()));
        assert!(found, "no test {file}::{name}");
    }
}
