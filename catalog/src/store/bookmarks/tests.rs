//! What is new to a job, whatever was done to the table in between.

use crate::catalog::{Catalog, Contents, NewTable, TableKind, TableMeta};
use crate::commit::{Advance, Replaces, Write, WriteIntent, WrittenFile};
use crate::error::Error;
use crate::store::SqliteCatalog;
use crate::store::tests::{file, key, new_table};

use super::*;

struct Lake {
    catalog: SqliteCatalog,
    table: std::sync::Arc<TableMeta>,
    writes: usize,
}

impl Lake {
    async fn new() -> Self {
        let catalog = SqliteCatalog::in_memory().await.unwrap();
        let new = NewTable { kind: TableKind::Managed, ..new_table("t", vec![key("n", crate::catalog::KeyType::Int)]) };
        let table = catalog.create_table(new, Contents::default(), &"CREATE TABLE".into()).await.unwrap();
        Self { catalog, table, writes: 0 }
    }

    /// Writes files, each with the number of its partition.
    async fn write(&mut self, operation: &str, replaces: Replaces, files: &[(&str, i32)], advances: Vec<Advance>) -> Result<()> {
        self.writes += 1;
        let query_id = format!("q{}", self.writes);
        let files = files.iter().map(|(url, n)| WrittenFile {
            values: vec![(*n).into()],
            partition_location: format!("file:///data/t/n={n}/"),
            file: file(url, 10, Some(2)),
        });
        let write = Write {
            query_id: query_id.clone(),
            operation: operation.to_owned(),
            user: String::new(),
            replaces,
            files: files.collect(),
            refresh: None,
            advances,
            beside: Vec::new(),
        };
        self.catalog.begin_write(WriteIntent { query_id, location: self.table.location.clone(), table_id: None }).await?;
        self.table = self.catalog.commit_write(&self.table, write).await?;
        Ok(())
    }

    async fn insert(&mut self, files: &[(&str, i32)]) {
        self.write("INSERT", Replaces::Nothing, files, Vec::new()).await.unwrap();
    }

    /// Writes some files again, as one.
    async fn rewrite(&mut self, operation: &str, files: &[&str], into: (&str, i32)) {
        let scan = self.catalog.scan(&self.table, &KeyPredicate::All, None, 100).await.unwrap();
        let gone = scan.files.iter().filter(|file| files.contains(&file.file.url.as_str()));
        let gone = gone.map(|file| (file.partition_id, file.file.url.clone())).collect();
        let replaces = Replaces::Files { read_version: i64::MAX, files: gone };
        self.write(operation, replaces, &[into], Vec::new()).await.unwrap();
    }

    async fn new_files(&self) -> Result<Vec<String>> {
        let found = self.catalog.new_contents(&self.table, "j", 100).await?;
        let counted: u64 = found.contents.partitions.iter().map(|partition| partition.files).sum();
        assert_eq!(counted, found.contents.files.len() as u64);
        let mut urls: Vec<_> = found.contents.files.into_iter().map(|file| file.file.url).collect();
        urls.sort_unstable();
        Ok(urls)
    }

    async fn read(&self) {
        self.catalog.set_bookmark(&self.table, "j", Some(self.table.version)).await.unwrap();
    }
}

#[tokio::test]
async fn rows_are_new_once_however_often_they_are_written() {
    let mut lake = Lake::new().await;
    lake.insert(&[("a", 1), ("b", 1)]).await;
    assert_eq!(lake.new_files().await.unwrap(), ["a", "b"], "all is new to who has read nothing");
    lake.read().await;
    assert_eq!(lake.new_files().await.unwrap(), [""; 0]);
    lake.insert(&[("c", 1), ("d", 2)]).await;
    lake.rewrite("OPTIMIZE", &["a", "b", "c"], ("abc", 1)).await;
    assert_eq!(lake.new_files().await.unwrap(), ["c", "d"], "what was merged is read from where it was");
    lake.write("INSERT OVERWRITE", Replaces::TouchedPartitions, &[("e", 2)], Vec::new()).await.unwrap();
    assert_eq!(lake.new_files().await.unwrap(), ["c", "e"], "what was replaced is gone, what replaced it is new");
    lake.read().await;
    lake.rewrite("OPTIMIZE", &["abc"], ("f", 1)).await;
    assert_eq!(lake.new_files().await.unwrap(), [""; 0]);
    lake.rewrite("UPDATE", &["f"], ("g", 1)).await;
    let error = lake.new_files().await.unwrap_err().to_string();
    assert!(error.contains("UPDATE made version 7") && error.contains("system.advance('default.t', 'j')"), "{error}");
    lake.read().await;
    assert_eq!(lake.new_files().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_write_moves_its_job_or_is_not_made() {
    let mut lake = Lake::new().await;
    lake.insert(&[("a", 1)]).await;
    let step = |lake: &Lake, from, to| vec![Advance { table_id: lake.table.id, table: "t".to_owned(), job: "j".to_owned(), from, to }];
    let (first, newest) = (step(&lake, None, 2), lake.table.version);
    assert_eq!(newest, 2);
    lake.write("INSERT", Replaces::Nothing, &[("b", 1)], first.clone()).await.unwrap();
    assert_eq!(lake.new_files().await.unwrap(), ["b"]);
    let again = lake.write("INSERT", Replaces::Nothing, &[("c", 1)], first).await.unwrap_err();
    assert!(matches!(again, Error::Advanced { .. }), "{again}");
    assert_eq!(lake.new_files().await.unwrap(), ["b"], "neither the rows nor the step");
    let bookmarks = lake.catalog.bookmarks().await.unwrap();
    assert_eq!(bookmarks.iter().map(|bookmark| (bookmark.version, bookmark.newest)).collect::<Vec<_>>(), [(2, 3)]);
    assert!(lake.catalog.set_bookmark(&lake.table, "j", Some(9)).await.is_err());
    lake.catalog.set_bookmark(&lake.table, "j", None).await.unwrap();
    assert_eq!(lake.new_files().await.unwrap(), ["a", "b"]);
}

#[tokio::test]
async fn what_is_no_longer_known_is_not_taken_for_nothing() {
    let mut lake = Lake::new().await;
    lake.insert(&[("a", 1)]).await;
    lake.read().await;
    lake.insert(&[("b", 1)]).await;
    lake.insert(&[("c", 1)]).await;
    lake.catalog.expire(Some(&lake.table), i64::MAX, 100, false).await.unwrap();
    let error = lake.new_files().await.unwrap_err().to_string();
    assert!(error.contains("up to version 2") && error.contains("no longer known"), "{error}");
    lake.read().await;
    lake.catalog.expire(Some(&lake.table), i64::MAX, 100, false).await.unwrap();
    assert_eq!(lake.new_files().await.unwrap(), [""; 0], "nothing has changed since");
}
