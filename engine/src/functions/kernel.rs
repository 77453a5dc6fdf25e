//! Functions that are a name, a check of types and a loop over rows: what most functions of other systems need that DataFusion lacks.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, StringViewArray};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::cast::{as_int64_array, as_string_view_array};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// A function of ours.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Its name, in whatever dialect.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// What it takes, for the error that says so.
    pub takes: &'static str,
    /// Types that arguments of these types are cast to; none for arguments that it does not take.
    pub coerce: fn(&[DataType]) -> Option<Vec<DataType>>,
    /// The type of the result for coerced arguments.
    pub returns: fn(&[DataType]) -> DataType,
    /// The result for arrays of one length.
    pub run: fn(&Call) -> Result<ArrayRef>,
}

/// Arguments of one call.
pub(super) struct Call {
    args: Vec<ArrayRef>,
    pub config: Arc<ConfigOptions>,
}

impl Call {
    /// Rows of each argument.
    pub fn rows(&self) -> usize {
        self.args[0].len()
    }

    /// An argument as it is.
    pub fn array(&self, index: usize) -> &ArrayRef {
        &self.args[index]
    }

    /// Whether there is an argument at this place.
    pub fn has(&self, index: usize) -> bool {
        index < self.args.len()
    }

    /// An argument of type [`TEXT`].
    pub fn text(&self, index: usize) -> Result<&StringViewArray> {
        as_string_view_array(&self.args[index])
    }

    /// An argument of type `Int64`.
    pub fn integers(&self, index: usize) -> Result<&Int64Array> {
        as_int64_array(&self.args[index])
    }

    /// Values of a text argument in a row, or of an argument that was left out.
    pub fn text_or(&self, index: usize, row: usize, default: &'static str) -> Result<Option<&str>> {
        match self.has(index) {
            true => self.text(index).map(|texts| texts.is_valid(row).then(|| texts.value(row))),
            false => Ok(Some(default)),
        }
    }

    /// The value of an integer argument in a row, or of an argument that was left out.
    pub fn integer_or(&self, index: usize, row: usize, default: i64) -> Result<Option<i64>> {
        match self.has(index) {
            true => self.integers(index).map(|integers| integers.is_valid(row).then(|| integers.value(row))),
            false => Ok(Some(default)),
        }
    }
}

/// The type of text arguments: files give text as views.
pub(super) const TEXT: DataType = DataType::Utf8View;

/// Whether a type is text, or that of a plain NULL.
pub(super) fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// Whether a type is a whole number, or that of a plain NULL.
pub(super) fn is_integer(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_null()
}

/// An array cast to a type; what cannot be cast is NULL.
pub(super) fn lenient(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    Ok(cast_with_options(array, data_type, &CastOptions { safe: true, ..CastOptions::default() })?)
}

impl Kernel {
    /// The function.
    pub fn build(self) -> Arc<ScalarUDF> {
        let aliases = self.aliases.iter().map(|alias| (*alias).to_owned()).collect();
        Arc::new(ScalarUDF::new_from_impl(Function { kernel: self, aliases, signature: Signature::user_defined(Volatility::Immutable) }))
    }
}

#[derive(Debug)]
struct Function {
    kernel: Kernel,
    aliases: Vec<String>,
    signature: Signature,
}

impl PartialEq for Function {
    /// Names are unique.
    fn eq(&self, other: &Self) -> bool {
        self.kernel.name == other.kernel.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kernel.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.kernel.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match (self.kernel.coerce)(types) {
            Some(coerced) => Ok(coerced),
            None => plan_err!("'{}' takes {}", self.kernel.name, self.kernel.takes),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok((self.kernel.returns)(types))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<_>>()?;
        let result = (self.kernel.run)(&Call { args: arrays, config: args.config_options })?;
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)),
            false => Ok(ColumnarValue::Array(result)),
        }
    }
}
