//! The rules, over files held in memory so that a planted violation can be told from a clean tree.

use std::collections::{HashMap, HashSet};

use crate::source::{Source, Written};
use crate::tokens::tokens;

/// Beyond about 400 lines a file is probably two ideas; beyond this it is.
pub(crate) const MAX_CODE_LINES: usize = 700;

/// Drivers, each with the one backend that may name it, and those that are built upon it.
const DRIVERS: [(&str, &str); 5] = [
    ("redis", "redis"),
    ("tonic", "grpc"),
    ("prost", "e6data"),
    ("tokio_postgres", "postgres"),
    ("postgres", "postgres"),
];

/// A backend that speaks the protocol of another one is built upon it.
const BUILT_UPON: [(&str, &str); 1] = [("e6data", "grpc")];

const PACKAGE: &str = "multidb";

/// More steps than any chain of re-exports has; only a cycle takes as many.
const MAX_REEXPORTS: usize = 32;

/// `src` as modules that name each other.
pub(crate) struct House {
    files: Vec<(String, Source)>,
    modules: HashSet<Vec<String>>,
    test_modules: HashSet<Vec<String>>,
    /// What a name in a module stands for.
    aliases: HashMap<Vec<String>, Written>,
}

/// Where a path leads.
enum Target {
    Here(Vec<String>),
    Crate(String),
}

impl House {
    /// Reads files given as (path, text), the paths beginning with `src/`.
    pub(crate) fn new(files: &[(String, String)]) -> Self {
        let files: Vec<_> = files
            .iter()
            .map(|(path, text)| (path.clone(), Source::read(path, text)))
            .collect();
        let declared = || files.iter().flat_map(|(_, source)| &source.modules);
        let modules = files.iter().map(|(_, source)| source.module.clone());
        let aliases = files
            .iter()
            .flat_map(|(_, source)| &source.imports)
            .filter_map(|(name, written)| {
                let name = name.clone()?;
                Some((
                    [written.module.clone(), vec![name]].concat(),
                    written.clone(),
                ))
            });
        Self {
            modules: modules
                .chain(declared().map(|(module, _)| module.clone()))
                .collect(),
            test_modules: declared()
                .filter(|(_, in_tests)| *in_tests)
                .map(|(module, _)| module.clone())
                .collect(),
            aliases: aliases.collect(),
            files,
        }
    }

    /// Every path from a room to one it must not know.
    pub(crate) fn wrong_way(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (file, source) in &self.files {
            let Some(room) = Room::of(&source.module) else {
                found.push(format!("{file}: belongs to no room"));
                continue;
            };
            let imports = source.imports.iter().map(|(_, written)| written);
            for written in imports.chain(&source.paths) {
                let in_tests = written.in_tests || self.is_test(&written.module);
                let target = self.canonical(written);
                if !room.may_name(&target, in_tests) {
                    let (line, path) = (written.line, written.path.join("::"));
                    found.push(format!(
                        "{file}:{line}: {} names {target} by `{path}`",
                        room.name()
                    ));
                }
            }
        }
        found
    }

    /// Every file with more code than [`MAX_CODE_LINES`].
    pub(crate) fn too_long(&self) -> Vec<String> {
        let files = self
            .files
            .iter()
            .filter(|(_, source)| !self.is_test(&source.module));
        let long = files.filter(|(_, source)| source.code_lines > MAX_CODE_LINES);
        long.map(|(file, source)| format!("{file}: {} lines of code", source.code_lines))
            .collect()
    }

    pub(crate) fn mod_rs(&self) -> Vec<String> {
        self.files
            .iter()
            .map(|(file, _)| file)
            .filter(|file| file.ends_with("/mod.rs"))
            .cloned()
            .collect()
    }

    fn is_test(&self, module: &[String]) -> bool {
        (1..=module.len()).any(|length| self.test_modules.contains(&module[..length]))
    }

    /// Follows imports and re-exports to where the path was declared.
    fn canonical(&self, written: &Written) -> Target {
        let mut target = self.resolve(written, None);
        for _ in 0..MAX_REEXPORTS {
            let Target::Here(path) = &target else { break };
            let longest = (1..=path.len())
                .rev()
                .find(|&length| self.aliases.contains_key(&path[..length]));
            let Some(length) = longest else { break };
            let (name, rest) = path.split_at(length);
            target = match self.resolve(&self.aliases[name], Some(name)) {
                Target::Here(module) if module == name => break,
                Target::Here(module) => Target::Here([&module, rest].concat()),
                driver => driver,
            };
        }
        target
    }

    /// One step: what the first segment stands for.
    /// `binding` is the name that an import binds, which it does not use itself.
    fn resolve(&self, written: &Written, binding: Option<&[String]>) -> Target {
        let Written {
            module,
            path,
            external,
            ..
        } = written;
        let Some(first) = path.first() else {
            return Target::Here(Vec::new());
        };
        match first.as_str() {
            PACKAGE if *external => return Target::Here(path[1..].to_vec()),
            _ if *external => return Target::Crate(first.clone()),
            "crate" => return Target::Here(path[1..].to_vec()),
            "self" | "super" => {
                let path = path.strip_prefix(&["self".to_owned()]).unwrap_or(path);
                let up = path
                    .iter()
                    .take_while(|segment| *segment == "super")
                    .count();
                let kept = module.len().saturating_sub(up);
                return Target::Here([&module[..kept], &path[up..]].concat());
            }
            _ => {}
        }
        let local = [module.as_slice(), &path[..1]].concat();
        let known = self.modules.contains(&local) || self.aliases.contains_key(&local);
        if known && binding != Some(&local) {
            return Target::Here([module.as_slice(), path].concat());
        }
        if first == PACKAGE {
            Target::Here(path[1..].to_vec())
        } else {
            Target::Crate(first.clone())
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(path) => write!(f, "crate::{}", path.join("::")),
            Self::Crate(name) => write!(f, "the crate {name}"),
        }
    }
}

/// A part of the house.
enum Room {
    /// `lib.rs`, which shows the other rooms to users.
    Root,
    Engine,
    Backends,
    Backend(String),
    /// What connections are made of, and how synchronous code waits: for the backends.
    Shared(String),
    Telemetry,
    Testing,
}

impl Room {
    fn of(module: &[String]) -> Option<Self> {
        let segments: Vec<_> = module.iter().map(String::as_str).collect();
        Some(match segments.as_slice() {
            [] => Self::Root,
            ["engine", ..] => Self::Engine,
            ["backends"] => Self::Backends,
            ["backends", backend, ..] => Self::Backend((*backend).to_owned()),
            [shared @ ("runtime" | "sockets"), ..] => Self::Shared((*shared).to_owned()),
            ["telemetry", ..] => Self::Telemetry,
            ["testing", ..] => Self::Testing,
            _ => return None,
        })
    }

    fn name(&self) -> String {
        match self {
            Self::Root => "the crate's root".into(),
            Self::Engine => "engine".into(),
            Self::Backends => "backends".into(),
            Self::Backend(name) => format!("backend {name}"),
            Self::Shared(name) => (*name).clone(),
            Self::Telemetry => "telemetry".into(),
            Self::Testing => "testing".into(),
        }
    }

    fn may_name(&self, target: &Target, in_tests: bool) -> bool {
        let path = match target {
            Target::Here(path) => path,
            Target::Crate(name) => return self.may_drive(name),
        };
        let own: &[&[&str]] = match self {
            Self::Root => &[&[]],
            Self::Engine => &[&["engine"]],
            Self::Backends => &[&["backends"], &["engine"]],
            Self::Backend(name) => &[
                &["backends", name],
                &["backends", self.base().unwrap_or(name)],
                &["engine"],
                &["runtime"],
                &["sockets"],
            ],
            Self::Shared(name) => &[&[name], &["engine", "backend"], &["engine", "error"]],
            Self::Telemetry => &[
                &["telemetry"],
                &["engine", "event"],
                &["engine", "snapshot"],
                &["engine", "statistics"],
                // What events consist of.
                &["engine", "backend", "Verdict"],
                &["engine", "circuit", "CircuitState"],
            ],
            // The stand-in speaks e6data's wire, which is written down there.
            Self::Testing => &[&["testing"], &["engine"], &["backends", "e6data"]],
        };
        // A test may use the scripted backend; what it tests may not know it.
        let of_tests: &[&[&str]] = if in_tests { &[&["testing"]] } else { &[] };
        own.iter().chain(of_tests).any(|room| {
            let start = path.iter().map(String::as_str).take(room.len());
            start.eq(room.iter().copied())
        })
    }

    /// The backend that this one is built upon.
    fn base(&self) -> Option<&'static str> {
        let Self::Backend(name) = self else {
            return None;
        };
        let found = BUILT_UPON.iter().find(|(built, _)| built == name);
        found.map(|(_, base)| *base)
    }

    fn may_drive(&self, name: &str) -> bool {
        let owner = DRIVERS.iter().find(|(driver, _)| *driver == name);
        owner.is_none_or(|(_, owner)| match self {
            Self::Root => true,
            Self::Backend(backend) => backend == owner || self.base() == Some(*owner),
            Self::Testing => *owner == "e6data",
            Self::Engine | Self::Backends | Self::Shared(_) | Self::Telemetry => false,
        })
    }
}

/// Whether the crate's root says `#![forbid(unsafe_code)]`, alone or among others, outside comments.
pub(crate) fn forbids_unsafe(library: &str) -> bool {
    let words: Vec<_> = tokens(library)
        .into_iter()
        .map(|token| token.text)
        .collect();
    words.windows(5).enumerate().any(|(at, start)| {
        start == ["#", "!", "[", "forbid", "("]
            && words[at + 5..]
                .iter()
                .take_while(|word| *word != ")")
                .any(|word| word == "unsafe_code")
    })
}

/// Every marker of unfinished work in files given as (path, text), comments included.
pub(crate) fn left_for_later(files: &[(String, String)]) -> Vec<String> {
    // In two halves, so that this list is not found by itself.
    let markers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!"),
        concat!("unimplement", "ed!"),
    ];
    let mut found = Vec::new();
    for (file, text) in files {
        for (index, line) in text.lines().enumerate() {
            let marker = markers.iter().find(|marker| has_word(line, marker));
            found.extend(marker.map(|marker| format!("{file}:{}: {marker}", index + 1)));
        }
    }
    found
}

fn has_word(line: &str, word: &str) -> bool {
    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        !joins(before.chars().next_back()) && (word.ends_with('!') || !joins(after.chars().next()))
    })
}
