//! How tasks travel to executors.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::Result;
use ballista_core::extension::SessionConfigHelperExt;
use ballista_core::serde::protobuf::{KeyValuePair, MultiTaskDefinition};
use ballista_core::serde::scheduler::ExecutorMetadata;
use ballista_scheduler::state::executor_manager::ExecutorManager;
use ballista_scheduler::state::task_manager::TaskLauncher;
use windlass_engine::session::session_config;

/// The one setting whose default is the executor's own.
const TARGET_PARTITIONS: &str = "datafusion.execution.target_partitions";

/// Sends tasks to their executors.
///
/// Ballista gives each task all settings, some 15 kB, which executors lay over defaults that are the same: they are of the same build. So
/// only what differs is sent.
#[derive(Debug)]
pub struct Launcher {
    endpoint: String,
    defaults: HashMap<String, Option<String>>,
}

impl Launcher {
    /// Executors report at `endpoint` how tasks end.
    pub fn new(endpoint: &str) -> Self {
        let defaults = session_config(1).to_key_value_pairs().into_iter().filter(|pair| pair.key != TARGET_PARTITIONS);
        Self { endpoint: endpoint.to_owned(), defaults: defaults.map(|pair| (pair.key, pair.value)).collect() }
    }

    fn is_known(&self, pair: &KeyValuePair) -> bool {
        self.defaults.get(&pair.key) == Some(&pair.value)
    }
}

#[async_trait]
impl TaskLauncher for Launcher {
    async fn launch_tasks(
        &self,
        executor: &ExecutorMetadata,
        mut tasks: Vec<MultiTaskDefinition>,
        executors: &ExecutorManager,
    ) -> Result<HashSet<JobId>> {
        for task in &mut tasks {
            task.props.retain(|pair| !self.is_known(pair));
        }
        executors.launch_multi_task(&executor.id, tasks, self.endpoint.clone()).await
    }
}

#[cfg(test)]
mod tests {
    use windlass_engine::session::set_option;

    use super::*;

    #[test]
    fn executors_end_up_with_the_settings_of_the_query() {
        let mut query = session_config(1);
        for (name, value) in [("datafusion.execution.batch_size", "100"), ("datafusion.execution.time_zone", "+02:00")] {
            set_option(query.options_mut(), name, value).unwrap();
        }
        let launcher = Launcher::new("scheduler:1");
        let mut sent = query.to_key_value_pairs();
        sent.retain(|pair| !launcher.is_known(pair));
        assert_eq!(sent.len(), 3, "two settings and the partitions: {sent:?}");
        let executor = session_config(8).update_from_key_value_pair(&sent);
        assert_eq!(executor.to_key_value_pairs(), query.to_key_value_pairs());
    }
}
