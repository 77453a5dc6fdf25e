//! SQL types in every common spelling to Arrow types, and Arrow types to the one spelling that is shown.
//!
//! Strings are `Utf8`, lengths of `varchar(n)` and `char(n)` are not kept. `timestamp` counts microseconds without zone; up to three
//! digits make milliseconds, seven to nine nanoseconds. `timestamp with time zone` is UTC.

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::sql::sqlparser::ast::{DataType as SqlType, ExactNumberInfo, TimezoneInfo};
use datafusion::sql::sqlparser::tokenizer::Token;
use windlass_engine::Dialect;
use windlass_engine::evolution::{list_type, map_type};

use super::ParseError;
use super::cursor::Cursor;

/// Reads a type, or the columns of a struct: `ARRAY<INT>`, `a INT, b STRING`. Errors: `Invalid` with the place of the mistake.
pub fn parse_type(text: &str, dialect: Dialect) -> Result<DataType, ParseError> {
    let parse = |text: &str| {
        let mut cursor = Cursor::new(text, dialect)?;
        let data_type = cursor.data_type()?;
        cursor.finish().map(|()| data_type)
    };
    parse(text).or_else(|error| parse(&format!("STRUCT<{text}>")).map_err(|_| error))
}

/// Nesting that a type may have; deeper ones are attacks on the stack.
const DEPTH_MAX: usize = 32;

impl Cursor<'_> {
    /// Reads a type: `array<..>` or `array(..)`, `map<..>`, `struct<a:int>`, `row(a int)`, or a scalar.
    pub(super) fn data_type(&mut self) -> Result<DataType, ParseError> {
        self.nested_type(0)
    }

    fn nested_type(&mut self, depth: usize) -> Result<DataType, ParseError> {
        if depth > DEPTH_MAX {
            return Err(self.invalid(format!("a type may be nested {DEPTH_MAX} levels deep, not more")));
        }
        if self.eat("ARRAY") {
            let close = self.open_bracket()?;
            let item = self.nested_type(depth + 1)?;
            self.close_bracket(close)?;
            return Ok(list_type(item));
        }
        if self.eat("MAP") {
            let close = self.open_bracket()?;
            let key = self.nested_type(depth + 1)?;
            self.expect_token(&Token::Comma)?;
            let value = self.nested_type(depth + 1)?;
            self.close_bracket(close)?;
            return Ok(map_type(key, value));
        }
        if self.eat("STRUCT") || self.eat("ROW") {
            let close = self.open_bracket()?;
            let mut fields = Vec::new();
            loop {
                // As written: readers find fields of structs in files by exact name.
                let name = self.exact_identifier("a field name")?;
                self.eat_token(&Token::Colon);
                let field = Field::new(name, self.nested_type(depth + 1)?, true);
                fields.push(match self.comment_clause()? {
                    Some(comment) => field.with_metadata([("comment".to_owned(), comment)].into()),
                    None => field,
                });
                if !self.eat_token(&Token::Comma) {
                    break;
                }
            }
            self.close_bracket(close)?;
            return Ok(DataType::Struct(fields.into()));
        }
        let start = self.position();
        let sql_type = self.scalar_type()?;
        scalar(&sql_type).ok_or_else(|| self.invalid_at(start, format!("unknown type '{}'", sql_type.to_string().to_lowercase())))
    }

    fn open_bracket(&mut self) -> Result<Token, ParseError> {
        if self.eat_token(&Token::LParen) {
            return Ok(Token::RParen);
        }
        self.expect_token(&Token::Lt).map(|()| Token::Gt)
    }

    fn close_bracket(&mut self, close: Token) -> Result<(), ParseError> {
        if close == Token::Gt && self.split_shift_right() {
            return Ok(());
        }
        self.expect_token(&close)
    }
}

/// The Arrow type of a scalar type; `None` if there is none.
fn scalar(sql_type: &SqlType) -> Option<DataType> {
    Some(match sql_type {
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::TinyInt(_) => DataType::Int8,
        SqlType::SmallInt(_) | SqlType::Int2(_) | SqlType::Int16 => DataType::Int16,
        SqlType::Int(_) | SqlType::Integer(_) | SqlType::Int4(_) | SqlType::Int32 => DataType::Int32,
        SqlType::BigInt(_) | SqlType::Int8(_) | SqlType::Int64 => DataType::Int64,
        SqlType::TinyIntUnsigned(_) => DataType::UInt8,
        SqlType::SmallIntUnsigned(_) | SqlType::Int2Unsigned(_) => DataType::UInt16,
        SqlType::IntUnsigned(_) | SqlType::IntegerUnsigned(_) | SqlType::Int4Unsigned(_) => DataType::UInt32,
        SqlType::BigIntUnsigned(_) | SqlType::Int8Unsigned(_) => DataType::UInt64,
        SqlType::Float(_) | SqlType::Real | SqlType::Float4 | SqlType::Float32 => DataType::Float32,
        SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Float8 | SqlType::Float64 => DataType::Float64,
        SqlType::Decimal(digits) | SqlType::Numeric(digits) | SqlType::Dec(digits) => return decimal(digits),
        SqlType::String(_) | SqlType::Text | SqlType::Varchar(_) | SqlType::Nvarchar(_) | SqlType::Char(_) | SqlType::Character(_) => {
            DataType::Utf8
        }
        SqlType::CharacterVarying(_) | SqlType::CharVarying(_) | SqlType::Clob(_) => DataType::Utf8,
        SqlType::Binary(_) | SqlType::Varbinary(_) | SqlType::Bytea | SqlType::Blob(_) | SqlType::Bytes(_) => DataType::Binary,
        SqlType::Date | SqlType::Date32 => DataType::Date32,
        SqlType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => DataType::Time64(TimeUnit::Microsecond),
        SqlType::Timestamp(digits, zone) => {
            let utc = matches!(zone, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz).then(|| "UTC".into());
            DataType::Timestamp(time_unit(*digits), utc)
        }
        SqlType::TimestampNtz(digits) | SqlType::Datetime(digits) => DataType::Timestamp(time_unit(*digits), None),
        // Spark's short names are no keywords of SQL.
        SqlType::Custom(name, arguments) if arguments.is_empty() => match name.to_string().to_lowercase().as_str() {
            "byte" => DataType::Int8,
            "short" => DataType::Int16,
            "long" => DataType::Int64,
            "timestamp_ltz" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            _ => return None,
        },
        _ => return None,
    })
}

/// Without digits it is `decimal(10, 0)`, as in Hive and Spark.
fn decimal(digits: &ExactNumberInfo) -> Option<DataType> {
    let (precision, scale) = match *digits {
        ExactNumberInfo::None => (10, 0),
        ExactNumberInfo::Precision(precision) => (precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
    };
    let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
    let fits = (1..=76).contains(&precision) && scale >= 0 && scale.unsigned_abs() <= precision;
    fits.then_some(if precision <= 38 { DataType::Decimal128(precision, scale) } else { DataType::Decimal256(precision, scale) })
}

fn time_unit(digits: Option<u64>) -> TimeUnit {
    match digits {
        None | Some(4..=6) => TimeUnit::Microsecond,
        Some(0..=3) => TimeUnit::Millisecond,
        Some(_) => TimeUnit::Nanosecond,
    }
}

/// The name of a type as `DESCRIBE` shows it and `CREATE TABLE` reads it.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 => "tinyint".to_owned(),
        DataType::Int16 => "smallint".to_owned(),
        DataType::Int32 => "int".to_owned(),
        DataType::Int64 => "bigint".to_owned(),
        DataType::UInt8 => "tinyint unsigned".to_owned(),
        DataType::UInt16 => "smallint unsigned".to_owned(),
        DataType::UInt32 => "int unsigned".to_owned(),
        DataType::UInt64 => "bigint unsigned".to_owned(),
        DataType::Float16 | DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => "string".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "binary".to_owned(),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "time".to_owned(),
        DataType::Timestamp(unit, zone) => {
            let digits = match unit {
                TimeUnit::Second | TimeUnit::Millisecond => "(3)",
                TimeUnit::Microsecond => "",
                TimeUnit::Nanosecond => "(9)",
            };
            format!("timestamp{digits}{}", if zone.is_some() { " with time zone" } else { "" })
        }
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => format!("array<{}>", type_name(item.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(entry) if entry.len() == 2 => {
                format!("map<{},{}>", type_name(entry[0].data_type()), type_name(entry[1].data_type()))
            }
            other => other.to_string(),
        },
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("`{}`:{}", field.name().replace('`', "``"), type_name(field.data_type())));
            format!("struct<{}>", fields.collect::<Vec<_>>().join(","))
        }
        DataType::Dictionary(_, values) => type_name(values),
        DataType::RunEndEncoded(_, values) => type_name(values.data_type()),
        DataType::Interval(_) | DataType::Duration(_) | DataType::Union(..) => data_type.to_string(),
    }
}
