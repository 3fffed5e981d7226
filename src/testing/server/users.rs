//! Who may do what.

use std::collections::{BTreeMap, BTreeSet};

/// All users, the default one included.
#[derive(Debug)]
pub(super) struct Users(BTreeMap<String, User>);

/// One user, as `ACL SETUSER` has made it.
#[derive(Clone, Debug, Default)]
pub(super) struct User {
    pub(super) on: bool,
    /// Let in whatever it says.
    pub(super) open: bool,
    pub(super) passwords: BTreeSet<Vec<u8>>,
    all_commands: bool,
    /// For commands, and for subcommands (`client|kill`), of their own.
    rules: BTreeMap<&'static str, bool>,
    pub(super) all_keys: bool,
}

pub(super) const DEFAULT: &str = "default";

impl Users {
    /// The default user alone, who may do everything.
    pub(super) fn new(password: Option<&str>) -> Self {
        let mut default = User::powerful();
        match password {
            Some(password) => drop(default.passwords.insert(password.into())),
            None => default.open = true,
        }
        Self(BTreeMap::from([(DEFAULT.to_owned(), default)]))
    }

    pub(super) fn get(&self, name: &str) -> Option<&User> {
        self.0.get(name)
    }

    pub(super) fn set(&mut self, name: &str, user: User) {
        self.0.insert(name.to_owned(), user);
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    pub(super) fn names(&self) -> impl ExactSizeIterator<Item = &String> {
        self.0.keys()
    }

    /// Whether whoever connects is let in as the default user.
    pub(super) fn is_open(&self) -> bool {
        self.get(DEFAULT).is_some_and(|user| user.on && user.open)
    }

    /// Whether this is the password of a user who may come in.
    pub(super) fn lets_in(&self, name: &str, password: &[u8]) -> bool {
        let user = self.get(name).filter(|user| user.on);
        user.is_some_and(|user| user.open || user.passwords.contains(password))
    }
}

impl User {
    /// Everything is allowed to it, once it has a password.
    pub(super) fn powerful() -> Self {
        Self {
            on: true,
            all_commands: true,
            all_keys: true,
            ..Self::default()
        }
    }

    /// Whether it may run a command: by the rule for a subcommand, else by that for the whole command.
    pub(super) fn may_run(&self, command: &str) -> bool {
        let container = command.split('|').next().unwrap_or(command);
        let rule = self
            .rules
            .get(command)
            .or_else(|| self.rules.get(container));
        rule.copied().unwrap_or(self.all_commands)
    }

    /// The last word on a command counts, and ends what was said of its subcommands.
    pub(super) fn rule(&mut self, command: &'static str, allow: bool) {
        let prefix = format!("{command}|");
        self.rules.retain(|known, _| !known.starts_with(&prefix));
        self.rules.insert(command, allow);
    }

    /// The last word on all commands.
    pub(super) fn rule_all(&mut self, allow: bool) {
        self.all_commands = allow;
        self.rules.clear();
    }
}
