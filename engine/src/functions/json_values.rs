//! JSON made of values, and values made of JSON, as Arrow writes and reads them.

use std::io::Cursor;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, StringArray, StringViewArray, new_null_array};
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::json::ReaderBuilder;
use datafusion::arrow::json::reader::infer_json_schema;
use datafusion::arrow::json::writer::{EncoderOptions, make_encoder};
use datafusion::common::cast::as_string_view_array;
use datafusion::common::{Result, ScalarValue, exec_err, internal_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::kernel::{Call, Kernel, TEXT, is_text};

/// All of them.
pub(super) fn functions() -> [Arc<ScalarUDF>; 3] {
    let to_json = Kernel {
        name: "to_json",
        aliases: &[],
        takes: "one value",
        coerce: |types| (types.len() == 1).then(|| types.to_vec()),
        returns: |_| DataType::Utf8,
        run: to_json,
    };
    let schema_of_json = Kernel {
        name: "schema_of_json",
        aliases: &[],
        takes: "JSON text",
        coerce: |types| matches!(types, [json] if is_text(json)).then(|| vec![TEXT]),
        returns: |_| DataType::Utf8,
        run: schema_of_json,
    };
    [to_json.build(), schema_of_json.build(), from_json()]
}

/// `from_json(text, type)`, with the type as Arrow spells it.
pub fn from_json() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(FromJson { signature: Signature::user_defined(Volatility::Immutable) }))
}

/// The JSON of any value; NULL for NULL, fields that are NULL left out.
fn to_json(call: &Call) -> Result<ArrayRef> {
    let values = call.array(0);
    let field = Arc::new(Field::new("value", values.data_type().clone(), true));
    let options = EncoderOptions::default();
    let mut encoder = make_encoder(&field, values, &options)?;
    let mut text = Vec::new();
    let json = (0..values.len()).map(|row| {
        if values.is_null(row) || values.data_type().is_null() {
            return Ok(None);
        }
        text.clear();
        encoder.encode(row, &mut text);
        match std::str::from_utf8(&text) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(error) => exec_err!("a value cannot be written as JSON: {error}"),
        }
    });
    Ok(Arc::new(json.collect::<Result<StringArray>>()?))
}

/// The type of JSON text as Spark spells it, fields by name. Errors: text that is no JSON.
fn schema_of_json(call: &Call) -> Result<ArrayRef> {
    let schema = |text: &str| match infer_json_schema(Cursor::new(format!("{{\"value\":{}}}", text.replace(['\n', '\r'], " "))), None) {
        Ok((schema, 1)) if schema.fields().len() == 1 => Ok(spelled(schema.field(0).data_type())),
        Ok(_) => exec_err!("'{text}' is not one piece of JSON"),
        Err(error) => exec_err!("'{text}' is no JSON: {error}"),
    };
    Ok(Arc::new(call.text(0)?.iter().map(|text| text.map(schema).transpose()).collect::<Result<StringArray>>()?))
}

fn spelled(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::List(element) => format!("ARRAY<{}>", spelled(element.data_type())),
        DataType::Struct(fields) => {
            let mut fields: Vec<_> = fields.iter().map(|field| format!("{}: {}", field.name(), spelled(field.data_type()))).collect();
            fields.sort();
            format!("STRUCT<{}>", fields.join(", "))
        }
        // What is always NULL may be text.
        _ => "STRING".to_owned(),
    }
}

/// The value of JSON text, of the type that its second argument names as Arrow spells it: the scheduler puts that in the place of a schema.
/// Text that is no JSON, and parts of other types, are NULL.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FromJson {
    signature: Signature,
}

impl ScalarUDFImpl for FromJson {
    fn name(&self) -> &str {
        "from_json"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [json, schema] if is_text(json) && is_text(schema) => Ok(vec![TEXT, DataType::Utf8]),
            _ => plan_err!("'from_json' takes JSON text and a schema such as 'a INT, b ARRAY<STRING>'"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the type of 'from_json' is its argument")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let schema = args.scalar_arguments.get(1).copied().flatten().and_then(|schema| schema.try_as_str().flatten());
        match schema.map(str::parse::<DataType>) {
            Some(Ok(data_type)) => Ok(Arc::new(Field::new(self.name(), data_type, true))),
            _ => plan_err!("the schema of 'from_json' is a constant text such as 'a INT, b ARRAY<STRING>'"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = matches!(args.args[0], ColumnarValue::Scalar(_));
        let texts = args.args[0].to_array(if constant { 1 } else { args.number_rows })?;
        let values = values_of(as_string_view_array(&texts)?, args.return_field.data_type())?;
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?)),
            false => Ok(ColumnarValue::Array(values)),
        }
    }
}

fn values_of(texts: &StringViewArray, data_type: &DataType) -> Result<ArrayRef> {
    let schema = Arc::new(Schema::new(vec![Field::new("value", data_type.clone(), true)]));
    if let Some(values) = read(texts.iter(), texts.len(), &schema) {
        return Ok(values);
    }
    // One by one, to find those that are no JSON.
    let null = new_null_array(data_type, 1);
    let values: Vec<_> = texts.iter().map(|text| read(std::iter::once(text), 1, &schema).unwrap_or_else(|| Arc::clone(&null))).collect();
    let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
    Ok(if values.is_empty() { new_null_array(data_type, 0) } else { concat(&values)? })
}

/// The values of as many texts as `rows`; none if one of them is not one piece of JSON.
fn read<'a>(texts: impl Iterator<Item = Option<&'a str>>, rows: usize, schema: &SchemaRef) -> Option<ArrayRef> {
    let mut decoder = ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(rows + 1)
        .with_coerce_primitive(true)
        .with_ignore_type_conflicts(true)
        .build_decoder()
        .ok()?;
    let mut line = Vec::new();
    for (before, text) in texts.enumerate() {
        line.clear();
        line.extend_from_slice(b"{\"value\":");
        line.extend_from_slice(text.unwrap_or("null").as_bytes());
        line.extend_from_slice(b"}\n");
        let used = decoder.decode(&line).ok()?;
        // A text that closes the object itself, or leaves it open, is none.
        if used < line.len() || decoder.has_partial_record() || decoder.len() != before + 1 {
            return None;
        }
    }
    match decoder.flush().ok()? {
        Some(batch) => Some(Arc::clone(batch.column(0))),
        None => Some(new_null_array(schema.field(0).data_type(), 0)),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn each_text_is_a_value_of_its_own() {
        let texts = [Some("1"), None, Some("x"), Some("1}\n{\"value\":2"), Some("\"a"), Some("[1]"), Some(""), Some(" 7 "), Some("\"8\"")];
        let values = values_of(&texts.into_iter().collect(), &DataType::Int64).unwrap();
        let values: Vec<_> = values.as_primitive::<Int64Type>().iter().collect();
        assert_eq!(values, [Some(1), None, None, None, None, None, None, Some(7), Some(8)]);
        assert_eq!(values_of(&StringViewArray::new_null(0), &DataType::Int64).unwrap().len(), 0);
    }
}
