//! The two stacks of a blue/green deployment.

use std::fmt;

use crate::engine::database::DatabaseId;

/// One of the two stacks behind an endpoint. Requests say which one they are meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Colour {
    /// The stack `blue`.
    Blue,
    /// The stack `green`.
    Green,
}

impl Colour {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Blue, Self::Green];

    /// As it is written on the wire; also the id of its database in the client.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// The colour of this name. What is none is `None`: a server that names something else has named
    /// nobody.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::BOTH
            .into_iter()
            .find(|colour| name.eq_ignore_ascii_case(colour.as_str()))
    }

    /// The colour of a database of the client.
    #[must_use]
    pub fn of(database: &DatabaseId) -> Option<Self> {
        Self::BOTH
            .into_iter()
            .find(|colour| *database == *colour.as_str())
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
