//! The functions a plan may name. Scheduler and executors build their registries from the same lists: Ballista's own executor registry
//! lacks the nested functions (`array_*`, `map_*`) that its scheduler plans with.

mod calendar;
mod checked;
mod collections;
mod correlation;
mod dates;
mod dialects;
mod extremes;
mod hash;
mod intervals;
mod json;
mod json_values;
mod kernel;
mod lambdas;
mod limits;
mod lists;
mod maps;
mod moments;
mod nearest;
mod numbers;
mod one_zero;
mod only_match;
pub(crate) mod only_row;
mod operators;
mod patterns;
mod rounding;
mod sequence;
pub mod sketch;
mod sums;
mod texts;
mod time_text;
mod whole;
mod windows;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use ballista_core::extension::{ballista_aggregate_functions, ballista_scalar_functions};
use ballista_core::registry::BallistaFunctionRegistry;
use datafusion::execution::{SessionStateBuilder, SessionStateDefaults};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, WindowUDF};

pub use self::dialects::{aggregate_meaning, meaning, with_dialect};
pub use self::json::get_json_object;
pub use self::json_values::from_json;
pub(crate) use self::one_zero::{ONE_ZERO, one_zero};
pub use self::only_match::only_match;
pub use self::patterns::completed_time;
pub use self::time_text::time_text;
pub use self::windows::IgnoredNullsRule;
use crate::dialect::Dialect;
use crate::layout;

/// Every function a task may call, once and by its own name.
struct Functions {
    scalar: Vec<Arc<ScalarUDF>>,
    aggregate: Vec<Arc<AggregateUDF>>,
    window: Vec<Arc<WindowUDF>>,
    higher_order: Vec<Arc<HigherOrderUDF>>,
}

/// Built once: each statement has a session of its own.
static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| Functions {
    scalar: ballista_scalar_functions()
        .into_iter()
        .map(limits::limited)
        .chain(calendar::functions())
        .chain([only_match::only_match(), only_row::only_row(), sketch::estimate(), layout::bucket_number(), layout::curve_position()])
        .chain(dialects::scalar_functions().into_iter().map(limits::limited))
        .chain(json::functions())
        .chain(json_values::functions())
        .chain(texts::functions().into_iter().map(limits::limited))
        .chain(dates::functions())
        .chain(collections::functions())
        .chain([maps::map_concat(), hash::hash(), intervals::interval_times()])
        .chain(lists::functions())
        .chain(checked::functions())
        .chain([nearest::nearest(), one_zero::one_zero(), sequence::sequence(), time_text::time_text(), whole::whole()])
        .chain(numbers::functions())
        .chain(rounding::functions())
        .collect(),
    aggregate: ballista_aggregate_functions()
        .into_iter()
        .filter(|function| !["corr", "min", "max", "sum"].contains(&function.name()))
        .chain([correlation::corr(), sums::sum()])
        .chain(extremes::aggregates())
        .chain(dialects::aggregate_functions())
        .chain(maps::aggregates())
        .chain(moments::aggregates())
        .chain(sketch::aggregates())
        .chain(layout::curve_aggregates())
        .collect(),
    window: windows::functions(),
    higher_order: SessionStateDefaults::default_higher_order_functions().into_iter().chain(lambdas::functions()).collect(),
});

/// Adds the functions, the syntax that stands for some of them (`[1, 2]`, `x -> x + 1`) and the table functions to a session.
pub fn with_functions(builder: SessionStateBuilder) -> SessionStateBuilder {
    let Functions { scalar, aggregate, window, higher_order } = &*FUNCTIONS;
    // A function with more names has its own, too; the one without them stays what its own name means.
    builder
        .with_scalar_functions(scalar.iter().filter_map(dialects::aliased).chain(scalar.iter().map(Arc::clone)).collect())
        .with_aggregate_functions(
            aggregate.iter().filter_map(dialects::aliased_aggregate).chain(aggregate.iter().map(Arc::clone)).collect(),
        )
        .with_window_functions(window.iter().map(Arc::clone).collect())
        .with_higher_order_functions(higher_order.iter().map(Arc::clone).collect())
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_table_function_list(SessionStateDefaults::default_table_functions())
}

/// Names that can be called in a dialect, aliases among them, each with what kind of function it is.
pub fn names(dialect: Dialect) -> BTreeMap<String, &'static str> {
    let state = with_dialect(with_functions(SessionStateBuilder::new()), dialect).build();
    let scalar = state.scalar_functions().keys().chain(state.higher_order_functions().keys()).map(|name| (name.clone(), "scalar"));
    let aggregate = state.aggregate_functions().keys().map(|name| (name.clone(), "aggregate"));
    let window = state.window_functions().keys().map(|name| (name.clone(), "window"));
    let table = state.table_functions().keys().map(|name| (name.clone(), "table"));
    scalar.chain(window).chain(table).chain(aggregate).collect()
}

/// The functions by name, as executors look them up when they decode a plan.
pub fn registry() -> BallistaFunctionRegistry {
    let Functions { scalar, aggregate, window, higher_order } = &*FUNCTIONS;
    BallistaFunctionRegistry {
        scalar_functions: scalar.iter().map(|f| (f.name().to_owned(), Arc::clone(f))).collect(),
        aggregate_functions: aggregate.iter().map(|f| (f.name().to_owned(), Arc::clone(f))).collect(),
        window_functions: window.iter().map(|f| (f.name().to_owned(), Arc::clone(f))).collect(),
        higher_order_functions: higher_order.iter().map(|f| (f.name().to_owned(), Arc::clone(f))).collect(),
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
