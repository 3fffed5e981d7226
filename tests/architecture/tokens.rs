//! Rust text to tokens: enough to find paths and count lines, without a parser.

/// An identifier, a number, `::` or one character of punctuation. A literal's text is not kept.
#[derive(Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) first_line: usize,
    pub(crate) last_line: usize,
}

/// What stands for a string, a byte string or a character.
pub(crate) const LITERAL: &str = "\"";

impl Token {
    pub(crate) fn is_word(&self) -> bool {
        self.text
            .starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// The tokens of `text`; comments and the content of literals are gone.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        rest: text,
        line: 1,
    };
    let mut tokens = Vec::new();
    while let Some(first) = lexer.rest.chars().next() {
        let first_line = lexer.line;
        if let Some(text) = lexer.next(first) {
            tokens.push(Token {
                text,
                first_line,
                last_line: lexer.line,
            });
        }
    }
    tokens
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
}

impl Lexer<'_> {
    /// Consumes what begins with `first`: a token, or nothing for white space and comments.
    fn next(&mut self, first: char) -> Option<String> {
        if first.is_whitespace() {
            self.skip(first.len_utf8());
            return None;
        }
        if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
            return None;
        }
        if self.rest.starts_with("/*") {
            self.block_comment();
            return None;
        }
        if let Some(length) = self.raw_string().or_else(|| self.quoted()) {
            self.skip(length);
            return Some(LITERAL.into());
        }
        if self.rest.starts_with("r#") {
            self.skip(2);
        }
        let length = match first {
            ':' if self.rest.starts_with("::") => 2,
            // A lifetime; what is a character was taken above.
            '\'' => 1 + word_length(&self.rest[1..]),
            _ => word_length(self.rest).max(first.len_utf8()),
        };
        Some(self.skip(length))
    }

    fn skip(&mut self, length: usize) -> String {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken.into()
    }

    /// They nest.
    fn block_comment(&mut self) {
        let mut depth = 0;
        loop {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
            } else {
                self.skip(self.rest.chars().next().map_or(0, char::len_utf8));
            }
            if depth == 0 || self.rest.is_empty() {
                return;
            }
        }
    }

    /// The length of `r"…"`, `br#"…"#`, `cr"…"` when one begins here.
    fn raw_string(&self) -> Option<usize> {
        let body = ["r", "br", "cr"].iter().find_map(|prefix| {
            self.rest
                .strip_prefix(prefix)
                .filter(|body| body.trim_start_matches('#').starts_with('"'))
        })?;
        let hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let start = self.rest.len() - body.len() + hashes + 1;
        let length = self.rest[start..]
            .find(&end)
            .map(|at| start + at + end.len());
        Some(length.unwrap_or(self.rest.len()))
    }

    /// The length of `"…"`, `b"…"`, `c"…"`, `'x'` or `b'x'` when one begins here.
    fn quoted(&self) -> Option<usize> {
        let body = self.rest.strip_prefix(['b', 'c']).unwrap_or(self.rest);
        let prefix = self.rest.len() - body.len();
        let mut inside = body.char_indices().skip(1);
        match body.chars().next()? {
            quote @ '"' => {
                while let Some((at, c)) = inside.next() {
                    match c {
                        '\\' => drop(inside.next()),
                        c if c == quote => return Some(prefix + at + 1),
                        _ => {}
                    }
                }
                Some(self.rest.len())
            }
            '\'' => {
                let (_, content) = inside.next()?;
                let (at, closing) = inside.next()?;
                if content == '\\' {
                    // The escaped character may be a quote itself, so the end is sought behind it.
                    let end = body[at + closing.len_utf8()..].find('\'')?;
                    return Some(prefix + at + closing.len_utf8() + end + 1);
                }
                (closing == '\'').then_some(prefix + at + 1)
            }
            _ => None,
        }
    }
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len())
}
