//! `CALL system.crawl`: tables are made of directories of which nothing is known, and follow them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::error::DataFusionError;
use url::Url;
use windlass_catalog::catalog::{Contents, NewPartition, NewTable, TableChange, TableKind, TableMeta};
use windlass_catalog::crawl::{FoundTable, table_name, tables_below};
use windlass_catalog::ddl::{Crawl, DatabaseName, RepairMode};
use windlass_catalog::discover::Layout;
use windlass_catalog::{Error as CatalogError, keys};
use windlass_engine::formats::{FileFormat, Sniffed, Storage, sniff};
use windlass_proto::Kind;

use super::repair::Comparison;
use super::{Names, Row, full_name};
use crate::error::{Error, Result};

/// What became of a directory.
struct Crawled {
    table: Option<String>,
    format: Option<FileFormat>,
    action: &'static str,
    partitions: usize,
    files: usize,
    columns: usize,
}

impl Crawled {
    fn row(self, location: &str) -> Row {
        let Self { table, format, action, partitions, files, columns } = self;
        let counts = [partitions, files, columns].map(|count| Some(count.to_string()));
        let first = [table, Some(location.to_owned()), format.map(|format| format.to_string()), Some(action.to_owned())];
        first.into_iter().chain(counts).chain([None]).collect()
    }
}

/// The line of a directory that makes no table.
fn skipped(location: &str, why: String) -> Row {
    vec![None, Some(location.to_owned()), None, Some("skipped".to_owned()), None, None, None, Some(why)]
}

impl Names<'_> {
    /// Registers the tables below a location, or what is new in those that are; a line for each. What cannot be a table is left out, and
    /// its line says why.
    ///
    /// A table is known by where it lies, whatever its name. Running it again finds nothing to do.
    pub(super) async fn crawl(&self, crawl: &Crawl) -> Result<Vec<Row>> {
        let name = crawl.database.clone().unwrap_or_else(|| self.current_database.to_owned());
        let database = self.database(&DatabaseName { catalog: None, name }).await?.name;
        let root = self.location(&crawl.location)?;
        let found = tables_below(&root, self.store(&root)?.as_ref()).await?;
        if found.is_empty() {
            return Err(Error::invalid(format!("location '{root}' holds no files")));
        }
        let known = self.tables_by_location().await?;
        let mut names: BTreeSet<_> = self.catalog().tables(Some(&database)).await?.into_iter().map(|table| table.name).collect();
        let mut lines = Vec::with_capacity(found.len());
        for table in found {
            let location = table.location.clone();
            let here = known.get(&location).map_or(&[][..], Vec::as_slice);
            let done = match here.iter().find(|known| known.database == database || known.kind.owns_files()) {
                _ if table.is_loose => Err(Error::invalid("its files lie beside the directories of other tables")),
                Some(known) if known.kind.owns_files() => Err(Error::invalid(format!("it belongs to table '{}'", full_name(known)))),
                Some(known) => self.follow(known, crawl.dry_run).await,
                None => self.make(table, &root, &database, &mut names, crawl).await,
            };
            lines.push(match done {
                Ok(crawled) => crawled.row(&location),
                Err(error) if matches!(error.kind(), Kind::Invalid | Kind::Unsupported | Kind::AlreadyExists) => {
                    skipped(&location, error.to_string())
                }
                Err(error) => return Err(error),
            });
        }
        Ok(lines)
    }

    async fn tables_by_location(&self) -> Result<HashMap<String, Vec<Arc<TableMeta>>>> {
        let mut found = HashMap::<String, Vec<_>>::new();
        for summary in self.catalog().tables(None).await?.into_iter().filter(|summary| summary.kind != TableKind::View) {
            if let Some(table) = self.catalog().table(&summary.database, &summary.name).await? {
                found.entry(table.location.clone()).or_default().push(table);
            }
        }
        Ok(found)
    }

    /// Adds what is new in the directory of a table.
    async fn follow(&self, table: &Arc<TableMeta>, dry_run: bool) -> Result<Crawled> {
        if table.is_delta() {
            // Its log is read whenever the table is.
            return Ok(Crawled {
                table: Some(full_name(table)),
                format: Some(table.storage.format),
                action: "unchanged",
                partitions: 0,
                files: 0,
                columns: 0,
            });
        }
        let Comparison { schema, mapping, contents, counts } = self.compare_with_directory(table, RepairMode::Add, true).await?;
        let columns = schema.fields().len() - table.schema.fields().len();
        let [partitions, _, files, removed] = counts;
        let is_changed = columns + partitions + files + removed > 0;
        if is_changed && !dry_run {
            let mut table = Arc::clone(table);
            let mut storage = table.storage.clone();
            let fields = &schema.fields()[table.schema.fields().len()..];
            let is_new = |word: &String| fields.iter().any(|field| word.ends_with(&format!(".{}", field.name())));
            storage.serde.extend(mapping.into_iter().filter(|(word, _)| is_new(word)));
            if storage != table.storage {
                table = self.change(&table, "CRAWL", TableChange::Storage(storage)).await?;
            }
            if columns > 0 {
                table = self.change(&table, "CRAWL", TableChange::Columns(schema)).await?;
            }
            self.commit(&table, "CRAWL", contents).await?;
        }
        let action = match (is_changed, dry_run) {
            (false, _) => "unchanged",
            (true, true) => "would change",
            (true, false) => "changed",
        };
        Ok(Crawled { table: Some(full_name(table)), format: Some(table.storage.format), action, partitions, files, columns })
    }

    /// Makes a table of a directory.
    async fn make(&self, found: FoundTable, root: &Url, database: &str, names: &mut BTreeSet<String>, crawl: &Crawl) -> Result<Crawled> {
        let store = self.store(&self.location(&found.location)?)?;
        let Sniffed { mut storage, properties } = match found.is_delta {
            true => Sniffed { storage: Storage::of(FileFormat::Delta), properties: BTreeMap::new() },
            false => sniff(&store, &found.files).await.map_err(|error| unreadable(&found.location, error))?,
        };
        let discovery = self.discover(&found.location, Layout::Inferred, None, (&storage, &properties)).await?;
        storage.serde.extend(discovery.mapping);
        check(&storage, &properties, &discovery.schema)?;
        let name = free_name(&found.folders, root, &crawl.table_prefix, names)?;
        let add_partitions: Vec<_> = discovery
            .partitions
            .into_iter()
            .map(|found| NewPartition { values: found.values, location: found.location, files: found.files })
            .collect();
        let files = add_partitions.iter().map(|partition| partition.files.len()).sum();
        let (partitions, columns) = (if discovery.keys.is_empty() { 0 } else { add_partitions.len() }, discovery.schema.fields().len());
        let (format, full_name) = (storage.format, format!("{database}.{name}"));
        if !crawl.dry_run {
            let table = NewTable {
                database: database.to_owned(),
                name: name.clone(),
                kind: TableKind::External,
                location: found.location,
                schema: discovery.schema,
                keys: discovery.keys,
                comment: None,
                properties,
                storage,
                view: None,
            };
            let contents = Contents { add_partitions, ..Contents::default() };
            self.catalog().create_table(table, contents, &self.by.doing("CRAWL")).await?;
        }
        names.insert(name);
        let action = if crawl.dry_run { "would create" } else { "created" };
        Ok(Crawled { table: Some(full_name), format: Some(format), action, partitions, files, columns })
    }
}

fn check(storage: &Storage, properties: &BTreeMap<String, String>, schema: &Schema) -> Result<()> {
    storage.validate(properties, schema).map_err(|error| Error::invalid(error.to_string()))
}

/// A directory's own name, or if that is taken those of all directories down to it.
fn free_name(folders: &[String], root: &Url, prefix: &str, taken: &BTreeSet<String>) -> Result<String> {
    let root = root.path_segments().and_then(|segments| segments.rev().find(|segment| !segment.is_empty())).or_else(|| root.host_str());
    let of_root = keys::unescape(root.unwrap_or("table"));
    let own = folders.last().map_or(of_root.as_str(), String::as_str);
    let names = [table_name([own]), table_name([of_root.as_str()].into_iter().chain(folders.iter().map(String::as_str)))];
    let mut names = names.map(|name| format!("{prefix}{name}")).into_iter();
    match names.clone().find(|name| !taken.contains(name)) {
        Some(free) => Ok(free),
        None => Err(CatalogError::AlreadyExists { what: "table", name: names.next().unwrap_or_default() }.into()),
    }
}

fn unreadable(location: &str, error: DataFusionError) -> Error {
    match error {
        DataFusionError::ObjectStore(cause) => CatalogError::ObjectStore { url: location.to_owned(), cause: *cause }.into(),
        error => Error::invalid(error.strip_backtrace()),
    }
}
