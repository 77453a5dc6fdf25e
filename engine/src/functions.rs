//! The functions a plan may name. Scheduler and executors build their registries from the same lists: Ballista's own executor registry
//! lacks the nested functions (`array_*`, `map_*`) that its scheduler plans with.

mod calendar;
mod limits;
pub(crate) mod only_row;
pub mod sketch;

use std::sync::Arc;

use ballista_core::extension::{ballista_aggregate_functions, ballista_scalar_functions, ballista_window_functions};
use ballista_core::registry::BallistaFunctionRegistry;
use datafusion::execution::{SessionStateBuilder, SessionStateDefaults};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};

/// Every function a task may call.
struct Functions {
    scalar: Vec<Arc<ScalarUDF>>,
    aggregate: Vec<Arc<AggregateUDF>>,
    window: Vec<Arc<WindowUDF>>,
    higher_order: Vec<Arc<HigherOrderUDF>>,
}

fn functions() -> Functions {
    Functions {
        scalar: ballista_scalar_functions()
            .into_iter()
            .map(limits::limited)
            .chain(calendar::functions())
            .chain([only_row::only_row(), sketch::estimate()])
            .collect(),
        aggregate: ballista_aggregate_functions().into_iter().chain(sketch::aggregates()).collect(),
        window: ballista_window_functions(),
        higher_order: SessionStateDefaults::default_higher_order_functions(),
    }
}

/// Adds the functions, the syntax that stands for some of them (`[1, 2]`, `x -> x + 1`) and the table functions to a session.
pub fn with_functions(builder: SessionStateBuilder) -> SessionStateBuilder {
    let Functions { scalar, aggregate, window, higher_order } = functions();
    builder
        .with_scalar_functions(scalar)
        .with_aggregate_functions(aggregate)
        .with_window_functions(window)
        .with_higher_order_functions(higher_order)
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_table_function_list(SessionStateDefaults::default_table_functions())
}

/// The functions by name, as executors look them up when they decode a plan.
pub fn registry() -> BallistaFunctionRegistry {
    let Functions { scalar, aggregate, window, higher_order } = functions();
    BallistaFunctionRegistry {
        scalar_functions: scalar.into_iter().map(|f| (f.name().to_owned(), f)).collect(),
        aggregate_functions: aggregate.into_iter().map(|f| (f.name().to_owned(), f)).collect(),
        window_functions: window.into_iter().map(|f| (f.name().to_owned(), f)).collect(),
        higher_order_functions: higher_order.into_iter().map(|f| (f.name().to_owned(), f)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::FunctionRegistry;

    use super::*;

    #[test]
    fn executors_know_every_function_that_sessions_plan_with() {
        let state = with_functions(SessionStateBuilder::new()).build();
        let registry = registry();
        for name in state.scalar_functions().values().map(|f| f.name()) {
            assert!(registry.udf(name).is_ok(), "{name}");
        }
        for name in state.aggregate_functions().values().map(|f| f.name()) {
            assert!(registry.udaf(name).is_ok(), "{name}");
        }
        for name in state.window_functions().values().map(|f| f.name()) {
            assert!(registry.udwf(name).is_ok(), "{name}");
        }
        for name in state.higher_order_functions().values().map(|f| f.name()) {
            assert!(registry.higher_order_function(name).is_ok(), "{name}");
        }
        assert!(registry.udf("array_length").is_ok() && registry.udf("map_keys").is_ok());
    }
}
