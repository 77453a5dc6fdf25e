//! Where tables lie, and what lies there.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;
use windlass_catalog::Error as CatalogError;
use windlass_catalog::catalog::{DEFAULT_DATABASE, Database};
use windlass_catalog::discover::{self, Discover, Discovery, Layout, object_path, object_url};
use windlass_engine::formats::Storage;

use super::Names;
use crate::error::{Error, Result};

/// Files in the directory of a table to be made that are looked at.
const FILES_LOOKED_AT_MAX: usize = 1000;

impl Names<'_> {
    /// Lists a location of which nothing is recorded, and reads the footers.
    pub(super) async fn discover(
        &self,
        location: &str,
        layout: Layout<'_>,
        schema: Option<&SchemaRef>,
        (storage, properties): (&Storage, &BTreeMap<String, String>),
    ) -> Result<Discovery> {
        self.compare(Discover { location, layout, schema, grows: false, partitions: &[], known: &[], storage, properties }).await
    }

    /// Lists a location and reads the footers that are not known. Files that wait to be deleted, or to be committed, are not there.
    pub(super) async fn compare(&self, request: Discover<'_>) -> Result<Discovery> {
        let store = self.store(&self.location(request.location)?)?;
        let mut discovery = discover::discover(request, store).await?;
        let urls: Vec<_> = discovery.partitions.iter().flat_map(|found| &found.files).map(|file| file.url.clone()).collect();
        let garbage = self.catalog().garbage_among(&urls).await?;
        if !garbage.is_empty() {
            discovery.partitions.iter_mut().for_each(|found| found.files.retain(|file| !garbage.contains(&file.url)));
        }
        Ok(discovery)
    }

    pub(super) fn store(&self, location: &Url) -> Result<Arc<dyn ObjectStore>> {
        Ok(self.executor.runtime.object_store_registry.get_store(location)?)
    }

    /// Where a database's managed tables go.
    pub(super) fn database_location(&self, database: &Database) -> Result<Url> {
        match &database.location {
            Some(location) => self.location(location),
            None if database.name == DEFAULT_DATABASE => Ok(self.executor.warehouse.clone()),
            None => directory_in(&self.executor.warehouse, &[&format!("{}.db", database.name)]),
        }
    }

    pub(super) fn default_location(&self, database: &Database, table: &str) -> Result<Url> {
        self.location(directory_in(&self.database_location(database)?, &[table])?.as_str())
    }

    /// Whoever put files where a managed table will be wants to read them, which it would not. Garbage of an earlier table, or of a
    /// write that failed, may lie there.
    pub(super) async fn check_empty(&self, location: &Url) -> Result<()> {
        let cause = |cause| CatalogError::ObjectStore { url: location.to_string(), cause };
        let path = object_path(location.as_str())?;
        let found: Vec<_> = self.store(location)?.list(Some(&path)).take(FILES_LOOKED_AT_MAX).try_collect().await.map_err(cause)?;
        if found.is_empty() {
            return Ok(());
        }
        let urls: Vec<_> = found.iter().map(|file| object_url(location, &file.location)).collect();
        let garbage = self.catalog().garbage_among(&urls).await?;
        if urls.iter().all(|url| garbage.contains(url)) {
            return Ok(());
        }
        Err(Error::invalid(format!("the table's directory '{location}' is not empty"))
            .with_hint("give the directory as LOCATION of an external table, or empty it"))
    }

    pub(super) async fn check_directory(&self, location: &Url) -> Result<()> {
        if self.store(location)?.head(&object_path(location.as_str())?).await.is_ok() {
            return Err(Error::invalid(format!("location '{}' is a file", location.as_str().trim_end_matches('/')))
                .with_hint("give the directory that holds the table's files"));
        }
        Ok(())
    }
}

/// A directory below another one.
pub(super) fn directory_in(root: &Url, names: &[&str]) -> Result<Url> {
    let mut url = root.clone();
    url.path_segments_mut().map_err(|()| Error::internal(format!("location '{root}' has no path")))?.pop_if_empty().extend(names).push("");
    Ok(url)
}
