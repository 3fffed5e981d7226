//! One file's modules, imports and paths, told from its tokens.

use crate::tokens::{Token, tokens};

/// A path as written: `crate::engine::Event` is `["crate", "engine", "Event"]`.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// The module it stands in.
    pub(crate) module: Vec<String>,
    pub(crate) path: Vec<String>,
    /// It began with `::`, so its first segment is a crate.
    pub(crate) external: bool,
    pub(crate) line: usize,
    pub(crate) in_tests: bool,
}

/// What a file of `src` says about its neighbours.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) module: Vec<String>,
    /// Modules declared here, and whether only for tests.
    pub(crate) modules: Vec<(Vec<String>, bool)>,
    /// Imports: the name they bind in their module (none for a glob), and the path.
    pub(crate) imports: Vec<(Option<String>, Written)>,
    /// Paths outside imports.
    pub(crate) paths: Vec<Written>,
    /// Lines that hold code which is not under `#[cfg(test)]`.
    pub(crate) code_lines: usize,
}

impl Source {
    /// Reads the file at `path`, which begins with `src/`.
    pub(crate) fn read(path: &str, text: &str) -> Self {
        let mut source = Source {
            module: module_of(path),
            ..Source::default()
        };
        let tokens = tokens(text);
        source.code_lines = code_lines(&tokens);
        Walk {
            tokens: &tokens,
            at: 0,
            depth: 0,
            test_end: 0,
            open: Vec::new(),
            source: &mut source,
        }
        .run();
        source
    }
}

/// `src/engine/machine.rs` is `["engine", "machine"]`, `src/lib.rs` is the root.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" {
        Vec::new()
    } else {
        path.split('/').map(String::from).collect()
    }
}

fn code_lines(tokens: &[Token]) -> usize {
    let mut lines = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match test_item(tokens, at) {
            Some(end) => at = end,
            None => {
                lines.extend(tokens[at].first_line..=tokens[at].last_line);
                at += 1;
            }
        }
    }
    lines.dedup();
    lines.len()
}

struct Walk<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// Tokens before this index are under a `#[cfg(test)]`.
    test_end: usize,
    /// Inline modules around this place, each with the depth of its brace.
    open: Vec<(String, usize)>,
    source: &'a mut Source,
}

impl<'a> Walk<'a> {
    fn run(mut self) {
        while self.at < self.tokens.len() {
            if let Some(end) = test_item(self.tokens, self.at) {
                self.test_end = self.test_end.max(end);
            }
            match self.text(0) {
                "{" => self.depth += 1,
                "}" => {
                    self.depth = self.depth.saturating_sub(1);
                    self.open.retain(|(_, depth)| *depth < self.depth);
                }
                "mod" if self.tokens.get(self.at + 1).is_some_and(Token::is_word) => {
                    self.declaration()
                }
                // `impl Trait + use<'a>` names lifetimes, not a path.
                "use" if self.text(1) != "<" => {
                    self.at += 1;
                    self.import(&mut Vec::new(), false);
                    continue;
                }
                _ if self.path() => continue,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn text(&self, ahead: usize) -> &'a str {
        self.tokens
            .get(self.at + ahead)
            .map_or("", |token| &token.text)
    }

    fn written(&self, path: Vec<String>, external: bool) -> Written {
        let open = self.open.iter().map(|(name, _)| name.clone());
        Written {
            module: self.source.module.iter().cloned().chain(open).collect(),
            path,
            external,
            line: self.tokens[self.at.min(self.tokens.len() - 1)].first_line,
            in_tests: self.at < self.test_end,
        }
    }

    fn declaration(&mut self) {
        let name = self.text(1).to_owned();
        let declared = self.written(vec![name.clone()], false);
        let module = [declared.module, declared.path].concat();
        self.source.modules.push((module, declared.in_tests));
        if self.text(2) == "{" {
            self.open.push((name, self.depth));
        }
    }

    /// One tree of a `use`, up to and including its `,` or `;`, or up to the `}` around it.
    fn import(&mut self, prefix: &mut Vec<String>, mut external: bool) {
        let own = prefix.len();
        let mut alias = None;
        let mut leaf = true;
        loop {
            match self.text(0) {
                "" | "," | ";" | "}" => break,
                "{" => {
                    leaf = false;
                    self.at += 1;
                    while !matches!(self.text(0), "" | "}") {
                        self.import(prefix, external);
                    }
                }
                "::" => external |= prefix.is_empty(),
                "as" => {
                    alias = Some(self.text(1).to_owned());
                    self.at += 1;
                }
                // `$crate` in a macro.
                "$" => {}
                segment => prefix.push(segment.to_owned()),
            }
            self.at += 1;
        }
        if leaf && prefix.len() > own {
            let mut path = prefix.clone();
            let glob = path.pop_if(|last| last == "*").is_some();
            path.pop_if(|last| last == "self" && own > 0);
            let name = if glob {
                None
            } else {
                alias.or_else(|| path.last().cloned())
            };
            let written = self.written(path, external);
            self.source.imports.push((name, written));
        }
        prefix.truncate(own);
        if matches!(self.text(0), "," | ";") {
            self.at += 1;
        }
    }

    /// Takes a path that begins here, if one does.
    fn path(&mut self) -> bool {
        let before = |back: usize| {
            self.at
                .checked_sub(back)
                .map_or("", |at| &self.tokens[at].text)
        };
        let extern_crate = before(1) == "crate" && before(2) == "extern";
        let leading = self.text(0) == "::";
        let continued = matches!(before(1), "." | "::") || leading && before(1) == ">";
        let start = self.at + usize::from(leading);
        if continued || !self.tokens.get(start).is_some_and(Token::is_word) {
            return false;
        }
        let mut path = vec![self.tokens[start].text.clone()];
        let mut end = start + 1;
        while self.tokens.get(end).is_some_and(|token| token.text == "::")
            && self.tokens.get(end + 1).is_some_and(Token::is_word)
        {
            path.push(self.tokens[end + 1].text.clone());
            end += 2;
        }
        let external = leading || extern_crate;
        if path.len() < 2 && !external {
            return false;
        }
        let written = self.written(path, external);
        self.source.paths.push(written);
        self.at = end;
        true
    }
}

/// The end of the item whose `#[cfg(test)]` begins at `at`.
fn test_item(tokens: &[Token], at: usize) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    if (text(at), text(at + 1), text(at + 2)) != ("#", "[", "cfg") {
        return None;
    }
    let mut next = closing(tokens, at + 1);
    let condition = &tokens[at..next];
    let says = |word: &str| condition.iter().any(|token| token.text == word);
    if !says("test") || says("not") || says("any") {
        return None;
    }
    while text(next) == "#" {
        next = closing(tokens, next + 1);
    }
    if text(next) == "pub" {
        next += 1;
        if text(next) == "(" {
            next = closing(tokens, next);
        }
    }
    // A field, a variant or an arm has another end than an item; such a line just stays code.
    if !ITEMS.contains(&text(next)) {
        return None;
    }
    let import = text(next) == "use";
    while next < tokens.len() {
        match text(next) {
            ";" => return Some(next + 1),
            "{" if !import => return Some(closing(tokens, next)),
            "(" | "[" | "{" => next = closing(tokens, next),
            _ => next += 1,
        }
    }
    Some(next)
}

const ITEMS: [&str; 13] = [
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "macro_rules",
    "mod",
    "static",
    "struct",
    "trait",
    "type",
    "use",
];

/// The index behind the bracket that closes the one at `at`.
fn closing(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}
