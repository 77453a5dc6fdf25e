//! What the kernel reads with: its own engine over one of our object stores.

use std::num::NonZero;
use std::sync::Arc;

use delta_kernel::schema::SchemaRef;
use delta_kernel::{
    Engine, EngineData, EvaluationHandler, FileDataReadResultIterator, FileMeta, FileSize, JsonHandler, KernelError, KernelResult,
    KernelResultIteratorStatic, ParquetFooter, ParquetHandler, PredicateRef, StorageHandler,
};
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder};
use object_store::ObjectStore;
use tokio::runtime::Handle;
use url::{Position, Url};

/// Files of a log read at the same time for one table.
const FILES_AT_ONCE: NonZero<usize> = NonZero::new(16).expect("16 is not 0");

/// An engine that reads from the store of a table and from nowhere else. The kernel's own would fetch a checkpoint's files from any web
/// server that the checkpoint names.
pub(super) struct Confined {
    engine: DefaultEngine<TokioMultiThreadExecutor>,
    /// How all URLs of the store begin.
    prefix: String,
}

impl Confined {
    /// For a table in `store`. Only within a runtime of several threads, and not on those that it works with.
    pub(super) fn new(root: &Url, store: &Arc<dyn ObjectStore>) -> Self {
        let executor = Arc::new(TokioMultiThreadExecutor::new(Handle::current()));
        let engine = DefaultEngineBuilder::new(Arc::clone(store)).with_task_executor(executor).with_buffer_size(FILES_AT_ONCE).build();
        Self { engine, prefix: root[..Position::BeforePath].to_owned() }
    }
}

impl Engine for Confined {
    fn evaluation_handler(&self) -> Arc<dyn EvaluationHandler> {
        self.engine.evaluation_handler()
    }

    fn storage_handler(&self) -> Arc<dyn StorageHandler> {
        self.engine.storage_handler()
    }

    fn json_handler(&self) -> Arc<dyn JsonHandler> {
        self.engine.json_handler()
    }

    fn parquet_handler(&self) -> Arc<dyn ParquetHandler> {
        Arc::new(ConfinedParquet { inner: self.engine.parquet_handler(), prefix: self.prefix.clone() })
    }
}

struct ConfinedParquet {
    inner: Arc<dyn ParquetHandler>,
    prefix: String,
}

impl ConfinedParquet {
    fn check(&self, file: &FileMeta) -> KernelResult<()> {
        match file.location.as_str().strip_prefix(&self.prefix).is_some_and(|path| path.starts_with('/')) {
            true => Ok(()),
            false => Err(KernelError::unsupported(format!("file '{}' of the log is not in the store of its table", file.location))),
        }
    }
}

impl ParquetHandler for ConfinedParquet {
    fn read_parquet_files(
        &self,
        files: &[FileMeta],
        schema: SchemaRef,
        predicate: Option<PredicateRef>,
    ) -> KernelResult<FileDataReadResultIterator> {
        files.iter().try_for_each(|file| self.check(file))?;
        self.inner.read_parquet_files(files, schema, predicate)
    }

    fn write_parquet_file(&self, _: Url, _: KernelResultIteratorStatic<Box<dyn EngineData>>) -> KernelResult<FileSize> {
        Err(KernelError::unsupported("logs are only read"))
    }

    fn read_parquet_footer(&self, file: &FileMeta) -> KernelResult<ParquetFooter> {
        self.check(file)?;
        self.inner.read_parquet_footer(file)
    }
}
