//! For synchronous code: the same client, and calls that wait on the calling thread.
//!
//! A thin front of the async client. What it runs in the background lives on this crate's runtime of one
//! thread; everything else of the client is reached by [`wait`](crate::blocking::wait).
//!
//! ```no_run
//! use multidb::e6data::E6dataClient;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = E6dataClient::builder()
//!     .host("db.example")
//!     .user("me@example.com")
//!     .password("token")
//!     .catalog("glue")
//!     .database("sales")
//!     .connect_blocking()?;
//!
//! let query = client.blocking_connection().query("SELECT name, total FROM orders")?;
//! for row in query {
//!     let row = row?;
//!     println!("{}: {}", row.get::<String>(0)?, row.value(1).unwrap());
//! }
//! # Ok(())
//! # }
//! ```

use std::io;

use super::builder::E6dataBuilder;
use super::client::{self, E6dataClient, TableColumn};
use super::decode::{Batch, Column, Row};
use super::error::{E6dataError, E6dataErrorKind};
use super::parameter::Parameter;
use super::query::{self, Analysis, Progress};
use crate::engine::error::{Error, ErrorKind};
use crate::runtime::try_wait;

/// As [`E6dataConnection`](super::E6dataConnection), blocking.
#[derive(Clone, Debug)]
pub struct E6dataConnection(client::E6dataConnection);

/// As [`Query`](super::Query), blocking. An iterator over the rows that are left.
#[derive(Debug)]
pub struct Query(query::Query);

/// As [`Cursor`](super::Cursor), blocking.
#[derive(Debug)]
pub struct Cursor(super::cursor::Cursor);

impl E6dataBuilder {
    /// As [`E6dataBuilder::connect`], blocking.
    ///
    /// # Errors
    /// As there.
    pub fn connect_blocking(self) -> Result<E6dataClient, E6dataError> {
        waited(try_wait(self.connect()))
    }
}

impl E6dataClient {
    /// As [`E6dataClient::connection`], for synchronous code.
    #[must_use]
    pub fn blocking_connection(&self) -> E6dataConnection {
        E6dataConnection(self.connection())
    }
}

impl E6dataConnection {
    /// The same with another catalog; empty: none.
    #[must_use]
    pub fn with_catalog(self, catalog: impl AsRef<str>) -> Self {
        Self(self.0.with_catalog(catalog))
    }

    /// The same with another schema; empty: none.
    #[must_use]
    pub fn with_database(self, database: impl AsRef<str>) -> Self {
        Self(self.0.with_database(database))
    }

    /// A cursor, for code that is written for one.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor(self.0.cursor())
    }

    /// Runs a statement, and returns once its rows can be read.
    ///
    /// # Errors
    /// As [`E6dataConnection::query`](super::E6dataConnection::query).
    pub fn query(&self, statement: &str) -> Result<Query, E6dataError> {
        self.query_with(statement, &[])
    }

    /// As [`E6dataConnection::query`], with a value for every `?` of the statement.
    ///
    /// # Errors
    /// As there.
    pub fn query_with(
        &self,
        statement: &str,
        parameters: &[Parameter],
    ) -> Result<Query, E6dataError> {
        waited(try_wait(self.0.query_with(statement, parameters))).map(Query)
    }

    /// What the server makes of a statement without running it.
    ///
    /// # Errors
    /// As [`E6dataConnection::query`].
    pub fn dry_run(&self, statement: &str) -> Result<String, E6dataError> {
        waited(try_wait(self.0.dry_run(statement)))
    }

    /// The schemas of the catalog.
    ///
    /// # Errors
    /// As [`E6dataConnection::query`].
    pub fn schemas(&self) -> Result<Vec<String>, E6dataError> {
        waited(try_wait(self.0.schemas()))
    }

    /// The tables of a schema.
    ///
    /// # Errors
    /// As [`E6dataConnection::query`].
    pub fn tables(&self, schema: &str) -> Result<Vec<String>, E6dataError> {
        waited(try_wait(self.0.tables(schema)))
    }

    /// The columns of a table.
    ///
    /// # Errors
    /// As [`E6dataConnection::query`].
    pub fn columns(&self, schema: &str, table: &str) -> Result<Vec<TableColumn>, E6dataError> {
        waited(try_wait(self.0.columns(schema, table)))
    }
}

impl Query {
    /// The server's name for it.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.id()
    }

    /// The columns, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        self.0.columns()
    }

    /// How many rows the server says there are.
    #[must_use]
    pub fn row_count(&self) -> i64 {
        self.0.row_count()
    }

    /// See [`Query::next_batch`](super::Query::next_batch).
    ///
    /// # Errors
    /// As there.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, E6dataError> {
        waited(try_wait(self.0.next_batch()))
    }

    /// See [`Query::fetch_one`](super::Query::fetch_one).
    ///
    /// # Errors
    /// As there.
    pub fn fetch_one(&mut self) -> Result<Option<Row>, E6dataError> {
        waited(try_wait(self.0.fetch_one()))
    }

    /// See [`Query::fetch_many`](super::Query::fetch_many).
    ///
    /// # Errors
    /// As there.
    pub fn fetch_many(&mut self, count: usize) -> Result<Vec<Row>, E6dataError> {
        waited(try_wait(self.0.fetch_many(count)))
    }

    /// See [`Query::fetch_all`](super::Query::fetch_all).
    ///
    /// # Errors
    /// As there.
    pub fn fetch_all(&mut self) -> Result<Vec<Row>, E6dataError> {
        waited(try_wait(self.0.fetch_all()))
    }

    /// See [`Query::progress`](super::Query::progress).
    ///
    /// # Errors
    /// As there.
    pub fn progress(&mut self) -> Result<Progress, E6dataError> {
        waited(try_wait(self.0.progress()))
    }

    /// See [`Query::explain`](super::Query::explain).
    ///
    /// # Errors
    /// As there.
    pub fn explain(&mut self) -> Result<String, E6dataError> {
        waited(try_wait(self.0.explain()))
    }

    /// See [`Query::explain_analyze`](super::Query::explain_analyze).
    ///
    /// # Errors
    /// As there.
    pub fn explain_analyze(&mut self) -> Result<Analysis, E6dataError> {
        waited(try_wait(self.0.explain_analyze()))
    }

    /// See [`Query::clear`](super::Query::clear).
    ///
    /// # Errors
    /// As there.
    pub fn clear(self) -> Result<(), E6dataError> {
        waited(try_wait(self.0.clear()))
    }

    /// See [`Query::cancel`](super::Query::cancel).
    ///
    /// # Errors
    /// As there.
    pub fn cancel(self) -> Result<(), E6dataError> {
        waited(try_wait(self.0.cancel()))
    }
}

impl Iterator for Query {
    type Item = Result<Row, E6dataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.fetch_one().transpose()
    }
}

impl Cursor {
    /// Executes a statement, and returns the server's name for the query.
    ///
    /// # Errors
    /// As [`E6dataConnection::query`].
    pub fn execute(&mut self, statement: &str) -> Result<&str, E6dataError> {
        self.execute_with(statement, &[])
    }

    /// As [`Cursor::execute`], with a value for every `?` of the statement.
    ///
    /// # Errors
    /// As [`E6dataConnection::query`].
    pub fn execute_with(
        &mut self,
        statement: &str,
        parameters: &[Parameter],
    ) -> Result<&str, E6dataError> {
        waited(try_wait(self.0.execute_with(statement, parameters)))
    }

    /// The columns of the query that it holds; none without one.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        self.0.columns()
    }

    /// How many rows the server says there are; -1 without a query.
    #[must_use]
    pub fn row_count(&self) -> i64 {
        self.0.row_count()
    }

    /// See [`Cursor::fetch_one`](super::Cursor::fetch_one).
    ///
    /// # Errors
    /// As there.
    pub fn fetch_one(&mut self) -> Result<Option<Row>, E6dataError> {
        waited(try_wait(self.0.fetch_one()))
    }

    /// See [`Cursor::fetch_many`](super::Cursor::fetch_many).
    ///
    /// # Errors
    /// As there.
    pub fn fetch_many(&mut self, count: usize) -> Result<Vec<Row>, E6dataError> {
        waited(try_wait(self.0.fetch_many(count)))
    }

    /// See [`Cursor::fetch_all`](super::Cursor::fetch_all).
    ///
    /// # Errors
    /// As there.
    pub fn fetch_all(&mut self) -> Result<Vec<Row>, E6dataError> {
        waited(try_wait(self.0.fetch_all()))
    }

    /// See [`Cursor::clear`](super::Cursor::clear).
    ///
    /// # Errors
    /// As there.
    pub fn clear(&mut self) -> Result<(), E6dataError> {
        waited(try_wait(self.0.clear()))
    }

    /// See [`Cursor::cancel`](super::Cursor::cancel).
    ///
    /// # Errors
    /// As there.
    pub fn cancel(&mut self) -> Result<(), E6dataError> {
        waited(try_wait(self.0.cancel()))
    }
}

/// A system that has no thread left for a runtime has none for a client.
fn waited<T>(ended: io::Result<Result<T, E6dataError>>) -> Result<T, E6dataError> {
    ended.unwrap_or_else(|error| {
        let closed = Error::new(ErrorKind::Closed);
        Err(E6dataError::new(E6dataErrorKind::Engine(closed.kind().clone())).caused_by(error))
    })
}
