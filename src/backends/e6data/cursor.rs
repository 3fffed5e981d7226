//! One query after the other, for code that is written for a cursor.

use super::client::E6dataConnection;
use super::decode::{Batch, Column, Row};
use super::error::{E6dataError, E6dataErrorKind};
use super::parameter::Parameter;
use super::query::{Analysis, Progress, Query};

/// Executes one query after the other, and holds the last one. Made by [`E6dataConnection::cursor`].
///
/// A query that is replaced, or dropped with the cursor, is cleared on its own stack in the background.
#[derive(Debug)]
pub struct Cursor {
    connection: E6dataConnection,
    query: Option<Query>,
}

impl Cursor {
    pub(super) fn new(connection: E6dataConnection) -> Self {
        Self {
            connection,
            query: None,
        }
    }

    /// Executes a statement, and returns the server's name for the query.
    ///
    /// # Errors
    /// As [`E6dataConnection::query`].
    pub async fn execute(&mut self, statement: &str) -> Result<&str, E6dataError> {
        self.execute_with(statement, &[]).await
    }

    /// As [`Cursor::execute`], with a value for every `?` of the statement.
    ///
    /// # Errors
    /// As [`E6dataConnection::query`].
    pub async fn execute_with(
        &mut self,
        statement: &str,
        parameters: &[Parameter],
    ) -> Result<&str, E6dataError> {
        self.query = None;
        let query = self.connection.query_with(statement, parameters).await?;
        Ok(self.query.insert(query).id())
    }

    /// The query that it holds.
    #[must_use]
    pub fn query(&self) -> Option<&Query> {
        self.query.as_ref()
    }

    /// The columns of the query that it holds; none without one.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        self.query.as_ref().map_or(&[], Query::columns)
    }

    /// How many rows the server says there are; -1 without a query.
    #[must_use]
    pub fn row_count(&self) -> i64 {
        self.query.as_ref().map_or(-1, Query::row_count)
    }

    /// See [`Query::next_batch`].
    ///
    /// # Errors
    /// As there, and [`E6dataErrorKind::NoQuery`].
    pub async fn next_batch(&mut self) -> Result<Option<Batch>, E6dataError> {
        self.held()?.next_batch().await
    }

    /// See [`Query::fetch_one`].
    ///
    /// # Errors
    /// As there, and [`E6dataErrorKind::NoQuery`].
    pub async fn fetch_one(&mut self) -> Result<Option<Row>, E6dataError> {
        self.held()?.fetch_one().await
    }

    /// See [`Query::fetch_many`].
    ///
    /// # Errors
    /// As there, and [`E6dataErrorKind::NoQuery`].
    pub async fn fetch_many(&mut self, count: usize) -> Result<Vec<Row>, E6dataError> {
        self.held()?.fetch_many(count).await
    }

    /// See [`Query::fetch_all`].
    ///
    /// # Errors
    /// As there, and [`E6dataErrorKind::NoQuery`].
    pub async fn fetch_all(&mut self) -> Result<Vec<Row>, E6dataError> {
        self.held()?.fetch_all().await
    }

    /// See [`Query::progress`].
    ///
    /// # Errors
    /// As there.
    pub async fn progress(&mut self) -> Result<Progress, E6dataError> {
        self.held()?.progress().await
    }

    /// See [`Query::explain`].
    ///
    /// # Errors
    /// As there.
    pub async fn explain(&mut self) -> Result<String, E6dataError> {
        self.held()?.explain().await
    }

    /// See [`Query::explain_analyze`].
    ///
    /// # Errors
    /// As there.
    pub async fn explain_analyze(&mut self) -> Result<Analysis, E6dataError> {
        self.held()?.explain_analyze().await
    }

    /// Lets go of the query that it holds, if it holds one. See [`Query::clear`].
    ///
    /// # Errors
    /// As there.
    pub async fn clear(&mut self) -> Result<(), E6dataError> {
        match self.query.take() {
            Some(query) => query.clear().await,
            None => Ok(()),
        }
    }

    /// Stops the query that it holds. See [`Query::cancel`].
    ///
    /// # Errors
    /// As there, and [`E6dataErrorKind::NoQuery`].
    pub async fn cancel(&mut self) -> Result<(), E6dataError> {
        self.held()?;
        match self.query.take() {
            Some(query) => query.cancel().await,
            None => Ok(()),
        }
    }

    fn held(&mut self) -> Result<&mut Query, E6dataError> {
        let none = || E6dataError::new(E6dataErrorKind::NoQuery);
        self.query.as_mut().ok_or_else(none)
    }
}
