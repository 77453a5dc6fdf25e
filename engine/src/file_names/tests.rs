use datafusion::arrow::array::{Int32Array, Int64Array, StringArray};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::parquet::can_expr_be_pushed_down_with_schemas;
use datafusion::functions::core::get_field;
use datafusion::physical_expr_adapter::PhysicalExprAdapterFactory;

use super::*;
use crate::evolution::{EvolvedColumns, list_type, map_type};

fn field(name: &str, id: i32, data_type: DataType) -> Field {
    Field::new(name, data_type, true).with_metadata([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())].into())
}

fn record(fields: Vec<Field>) -> DataType {
    DataType::Struct(fields.into())
}

/// A table in which `b` was called `a`, and `a` came later; and so inside of `s`, of the items of `l` and of the values of `m`.
fn table() -> SchemaRef {
    let plain = |name: &str, data_type| Field::new(name, data_type, true);
    let inner = || record(vec![plain("a", DataType::Utf8), plain("b", DataType::Int64)]);
    Arc::new(Schema::new(vec![
        plain("a", DataType::Utf8),
        plain("b", DataType::Int64),
        plain("s", record(vec![plain("a", DataType::Utf8), plain("b", DataType::Int64), plain("t", inner())])),
        plain("l", list_type(inner())),
        plain("m", map_type(DataType::Utf8, inner())),
    ]))
}

/// What its files call `s` and what is inside of it, and so on.
fn names(of: impl Fn(&str, i32) -> FileName) -> FileNames {
    let names = |list: &[(&str, i32)]| list.iter().map(|(name, id)| of(name, *id)).collect::<Vec<_>>();
    FileNames::from([
        ("a".to_owned(), names(&[("new", 2)])),
        ("b".to_owned(), names(&[("a", 1)])),
        ("s".to_owned(), names(&[("s-1", 3), ("new", 5), ("a", 4), ("t-1", 6), ("new", 8), ("a", 7)])),
        ("l".to_owned(), names(&[("l", 9), ("new", 11), ("a", 10)])),
        ("m".to_owned(), names(&[("m", 12), ("new", 14), ("a", 13)])),
    ])
}

/// A file that was written before the new fields came.
fn file() -> RecordBatch {
    let old = |id| field("a", id, DataType::Int32);
    let numbers = |from: i32| Arc::new(Int32Array::from_iter_values(from..from + 3)) as ArrayRef;
    let one = |field: Field, from| StructArray::new(vec![field].into(), vec![numbers(from)], None);
    let t = field("t-1", 6, record(vec![old(7)]));
    let in_s = Fields::from(vec![old(4), t]);
    let s = StructArray::new(in_s.clone(), vec![numbers(10), Arc::new(one(old(7), 20))], None);
    let item = Arc::new(Field::new("element", record(vec![old(10)]), true));
    let list = ListArray::new(
        Arc::clone(&item),
        OffsetBuffer::from_lengths([2, 0, 1]),
        Arc::new(one(old(10), 30)),
        Some(NullBuffer::from(vec![true, false, true])),
    );
    let entry = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", record(vec![old(13)]), true)]);
    let keys = Arc::new(StringArray::from(vec!["x", "y", "z"])) as ArrayRef;
    let entries = StructArray::new(entry.clone(), vec![keys, Arc::new(one(old(13), 40))], None);
    let entry = Arc::new(Field::new("entries", DataType::Struct(entry), false));
    let map = MapArray::new(Arc::clone(&entry), OffsetBuffer::from_lengths([1, 1, 1]), entries, None, false);
    let schema = Schema::new(vec![
        field("a", 1, DataType::Int32),
        field("s-1", 3, DataType::Struct(in_s)),
        field("l", 9, DataType::List(item)),
        field("m", 12, DataType::Map(entry, false)),
    ]);
    RecordBatch::try_new(Arc::new(schema), vec![numbers(0), Arc::new(s), Arc::new(list), Arc::new(map)]).unwrap()
}

/// What a query over the table asks for, made for the file.
fn adapted(names: FileNames, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    EvolvedColumns { names }.create(table(), file().schema())?.rewrite(expr)
}

fn column(name: &str) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new_with_schema(name, &table()).unwrap())
}

fn access(column_name: &str, keys: &[&str]) -> Arc<dyn PhysicalExpr> {
    let keys = keys.iter().map(|key| Arc::new(Literal::new(ScalarValue::from(*key))) as Arc<dyn PhysicalExpr>);
    let arguments = std::iter::once(column(column_name)).chain(keys).collect();
    Arc::new(ScalarFunctionExpr::try_new(get_field(), arguments, &table(), Arc::new(ConfigOptions::default())).unwrap())
}

fn by_name(name: &str, _: i32) -> FileName {
    FileName::Name(name.to_owned())
}

fn by_id(_: &str, id: i32) -> FileName {
    FileName::Id(id)
}

fn values(expr: &Arc<dyn PhysicalExpr>) -> ArrayRef {
    expr.evaluate(&file()).unwrap().into_array(3).unwrap()
}

fn texts(array: &dyn Array) -> Vec<String> {
    use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::default()).unwrap();
    (0..array.len()).map(|row| formatter.value(row).to_string()).collect()
}

#[test]
fn columns_and_fields_are_found_under_the_names_or_numbers_of_files() {
    for of in [by_name as fn(&str, i32) -> FileName, by_id] {
        let found = |name: &str| values(&adapted(names(of), column(name)).unwrap());
        assert_eq!(found("b").as_primitive::<Int64Type>(), &Int64Array::from(vec![0, 1, 2]));
        assert_eq!(found("a").null_count(), 3, "the file has an older column of this name");
        let s = found("s");
        assert_eq!(s.data_type(), table().field_with_name("s").unwrap().data_type());
        assert_eq!(texts(&s), ["{a: , b: 10, t: {a: , b: 20}}", "{a: , b: 11, t: {a: , b: 21}}", "{a: , b: 12, t: {a: , b: 22}}"]);
        assert_eq!(texts(&found("l")), ["[{a: , b: 30}, {a: , b: 31}]", "", "[{a: , b: 32}]"]);
        // Inside of maps casts go by place.
        assert!(adapted(names(of), column("m")).unwrap_err().to_string().contains("'m'"));
    }
}

#[test]
fn fields_are_asked_for_as_the_file_calls_them() {
    for (keys, sum) in [(&["b"][..], 10 + 11 + 12), (&["t", "b"], 20 + 21 + 22)] {
        let wanted = adapted(names(by_id), access("s", keys)).unwrap();
        let found = values(&wanted);
        assert_eq!(found.as_primitive::<Int64Type>().iter().flatten().sum::<i64>(), sum, "{wanted}");
        // The planner has promised that the reader tests it.
        let condition: Arc<dyn PhysicalExpr> = Arc::new(datafusion::physical_expr::expressions::IsNotNullExpr::new(wanted));
        assert!(can_expr_be_pushed_down_with_schemas(&condition, &file().schema()), "{condition}");
    }
    assert_eq!(values(&adapted(names(by_name), access("s", &["a"])).unwrap()).null_count(), 3);
    assert_eq!(texts(&values(&adapted(names(by_name), access("s", &["t"])).unwrap()))[2], "{a: , b: 22}");
}

#[test]
fn a_file_without_numbers_is_refused() {
    let bare = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, true)]));
    let error = EvolvedColumns { names: names(by_id) }.create(table(), bare).unwrap_err().to_string();
    assert!(error.contains("'a' has no number"), "{error}");
}
