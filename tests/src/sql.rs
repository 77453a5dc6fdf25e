//! Statements that end the test if they fail where they must not, or do not where they must.

use windlass_client::Connection;

use crate::rows;

/// The rows of a statement.
pub async fn cells(connection: &Connection, sql: &str) -> Vec<Vec<String>> {
    rows::cells(&connection.collect(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")))
}

/// What is said of a statement that fails.
pub async fn error(connection: &Connection, sql: &str) -> String {
    match connection.collect(sql).await {
        Ok(_) => panic!("no error from: {sql}"),
        Err(error) => error.to_string(),
    }
}
