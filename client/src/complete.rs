//! Completion from keywords, the catalog and, where neither knows a word, functions. Names are fetched behind the person's back; typing never
//! waits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reedline::{Completer, CompletionResult, Span, Suggestion};

use crate::connection::Connection;
use crate::error::Result;
use crate::output::Cells;
use crate::script::{Quotes, returns_rows, split};

/// Columns that are fetched: enough for a few thousand tables, little enough to search at each key.
const COLUMNS_MAX: usize = 50_000;
const SUGGESTIONS_MAX: usize = 60;

const KEYWORDS: &str = "ADD ALL ALTER ANALYZE AND AS ASC BETWEEN BY CALL CASE CAST CLUSTERED COLUMNS COPY COUNT CREATE CROSS DATABASE \
    DATABASES DATE DELETE DESC DESCRIBE DISTINCT DROP ELSE END EXCEPT EXISTS EXPLAIN EXTERNAL EXTRACT FALSE FOR FROM FULL GROUP HAVING IF \
    IN INNER INSERT INTERSECT INTERVAL INTO IS JOIN LATERAL LEFT LIKE LIMIT LOCATION MATERIALIZED MERGE MSCK NOT NULL OFFSET ON OPTIMIZE \
    OR ORDER OUTER OVER OVERWRITE PARQUET PARTITION PARTITIONED PARTITIONS QUALIFY REFRESH RENAME REPAIR REPLACE RESET RIGHT SELECT SET \
    SHOW STORED SYNC TABLE TABLES TBLPROPERTIES THEN TIMESTAMP TO TRUE TRUNCATE UNION UNNEST UPDATE USE USING VALUES VERSION VIEW WHEN \
    WHERE WINDOW WITH";

/// Whether a word is one of SQL's, in any case.
pub fn is_keyword(word: &str) -> bool {
    KEYWORDS.split_whitespace().any(|keyword| keyword.eq_ignore_ascii_case(word))
}

/// The names that completion knows. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Names(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Databases, tables with and without their database, and columns.
    catalog: BTreeSet<String>,
    functions: BTreeSet<String>,
}

impl Names {
    /// Fetches the names in the background; on failure the old ones stay.
    pub fn refresh(&self, connection: &Connection) {
        let (names, connection) = (self.clone(), connection.clone());
        tokio::spawn(async move {
            if let Ok(fresh) = fetch(&connection).await {
                *names.known() = fresh;
            }
        });
    }

    /// As [`Names::refresh`], if `script` may have changed the catalog, or the dialect.
    pub fn refresh_after(&self, script: &str, quotes: Quotes, connection: &Connection) {
        if split(script, quotes).statements.iter().any(|statement| !returns_rows(statement.sql)) {
            self.refresh(connection);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of the catalog and keywords that start with `prefix`, letters of either case alike, at most 60.
    fn starting_with(&self, prefix: &str) -> Vec<String> {
        let known = self.known();
        let mut found: Vec<String> = known.catalog.iter().filter(|name| starts_with(name, prefix)).take(SUGGESTIONS_MAX).cloned().collect();
        let lower = prefix.chars().all(char::is_lowercase);
        let keywords = KEYWORDS.split_whitespace().filter(|word| starts_with(word, prefix));
        found.extend(keywords.map(|word| if lower { word.to_lowercase() } else { word.to_string() }));
        found.truncate(SUGGESTIONS_MAX);
        found
    }

    /// The same of functions.
    fn functions_starting_with(&self, prefix: &str) -> Vec<String> {
        self.known().functions.iter().filter(|name| starts_with(name, prefix)).take(SUGGESTIONS_MAX).cloned().collect()
    }
}

fn starts_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

async fn fetch(connection: &Connection) -> Result<Known> {
    let sql = format!("SELECT table_schema, table_name, column_name FROM information_schema.columns LIMIT {COLUMNS_MAX}");
    let mut known = Known::default();
    for batch in connection.collect(&sql).await? {
        let cells = Cells::new(&batch)?;
        for row in 0..batch.num_rows() {
            if let (Some(database), Some(table), Some(column)) = (cells.text(0, row)?, cells.text(1, row)?, cells.text(2, row)?) {
                known.catalog.extend([format!("{database}.{table}"), database, table, column]);
            }
        }
    }
    for batch in connection.collect("SHOW FUNCTIONS").await? {
        let cells = Cells::new(&batch)?;
        for row in 0..batch.num_rows() {
            known.functions.extend(cells.text(0, row)?);
        }
    }
    Ok(known)
}

/// Completes the word before the cursor.
pub struct SqlCompleter {
    names: Names,
}

impl SqlCompleter {
    /// Completes from keywords and `names`.
    pub fn new(names: Names) -> Self {
        Self { names }
    }
}

impl Completer for SqlCompleter {
    fn complete(&mut self, line: &str, position: usize) -> CompletionResult {
        let head = &line[..position];
        let start = head
            .rfind(|c: char| !(c.is_alphanumeric() || "_.".contains(c)))
            .map_or(0, |at| at + head[at..].chars().next().map_or(0, char::len_utf8));
        let word = &head[start..];
        // `db.ta` completes as a whole; `alias.col` by its last part.
        let after_dot = word.rfind('.').map_or(0, |dot| dot + 1);
        let whole = if word.is_empty() { Vec::new() } else { self.names.starting_with(word) };
        let (start, found) = match whole.is_empty() && !word.is_empty() {
            true if after_dot > 0 => (start + after_dot, self.names.starting_with(&word[after_dot..])),
            true => (start, self.names.functions_starting_with(word)),
            false => (start, whole),
        };
        let suggest = |value: String| Suggestion { value, span: Span::new(start, position), ..Suggestion::default() };
        CompletionResult::fresh(found.into_iter().map(suggest).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_complete_by_prefix_and_keep_the_case_of_keywords() {
        let names = Names::default();
        names.known().catalog.extend(["tpch", "tpch.orders", "orders", "o_orderkey"].map(String::from));
        names.known().functions.extend(["order_of", "date_trunc"].map(String::from));
        let mut completer = SqlCompleter::new(names);
        let mut complete = |line: &str| {
            let result = completer.complete(line, line.len());
            result.suggestions().iter().map(|s| format!("{}@{}", s.value, s.span.start)).collect::<Vec<_>>()
        };
        assert_eq!(complete("sel"), ["select@0"]);
        assert_eq!(complete("SEL"), ["SELECT@0"]);
        assert_eq!(complete("select * from TPCH.o"), ["tpch.orders@14"]);
        assert_eq!(complete("é(o_"), ["o_orderkey@3"]);
        assert_eq!(complete("where x.o_o"), ["o_orderkey@8"]);
        assert_eq!(complete("select Date_t"), ["date_trunc@7"]);
        assert_eq!(complete("select ord"), ["orders@7", "order@7"], "functions would only be in the way");
        assert!(complete("x.date_t").is_empty());
        assert!(complete("select ").is_empty());
    }
}
