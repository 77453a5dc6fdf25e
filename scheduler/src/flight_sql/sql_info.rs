//! What the server can do (`GetSqlInfo`) and which types it has (`GetXdbcTypeInfo`).
//!
//! Drivers decode the values without looking at their kind, so each must have the one that the specification names: a text, a truth value,
//! an `i64` for limits, an `i32` for bit masks. Codes that an old JDBC driver does not know would break it: nothing above 576.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{
    self, Nullable, Searchable, SqlInfo, SqlSupportedResultSetType, SqlSupportedTransaction, SqlSupportsConvert, SupportedSqlGrammar,
    XdbcDataType, XdbcDatetimeSubcode,
};
use datafusion::functions;
use datafusion::logical_expr::ScalarUDF;
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;

use crate::error::{Error, Result};

/// Answers to `GetSqlInfo`.
pub(super) fn server() -> Result<&'static SqlInfoData> {
    static SERVER: LazyLock<Result<SqlInfoData>> = LazyLock::new(|| build_server().map_err(|cause| Error::internal(cause.to_string())));
    SERVER.as_ref().map_err(Clone::clone)
}

/// Answers to `GetXdbcTypeInfo`.
pub(super) fn types() -> Result<&'static XdbcTypeInfoData> {
    static TYPES: LazyLock<Result<XdbcTypeInfoData>> = LazyLock::new(|| build_types().map_err(|cause| Error::internal(cause.to_string())));
    TYPES.as_ref().map_err(Clone::clone)
}

/// The `i32` with these bits set.
fn mask(bits: impl IntoIterator<Item = i32>) -> i32 {
    bits.into_iter().fold(0, |mask, bit| mask | 1 << bit)
}

fn names(functions: impl IntoIterator<Item = Vec<std::sync::Arc<ScalarUDF>>>) -> Vec<String> {
    functions.into_iter().flatten().map(|function| function.name().to_owned()).collect::<BTreeSet<_>>().into_iter().collect()
}

fn build_server() -> Result<SqlInfoData, arrow_flight::error::FlightError> {
    use SqlInfo::*;
    let mut infos = SqlInfoDataBuilder::new();

    infos.append(FlightSqlServerName, "Windlass");
    infos.append(FlightSqlServerVersion, windlass_proto::VERSION);
    infos.append(FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    infos.append(SqlIdentifierQuoteChar, "\"");
    infos.append(SqlSearchStringEscape, "\\");
    infos.append(SqlExtraNameCharacters, "");
    infos.append(SqlSchemaTerm, "schema");
    infos.append(SqlProcedureTerm, "procedure");
    infos.append(SqlCatalogTerm, "catalog");

    for (info, value) in [
        (FlightSqlServerReadOnly, false),
        (FlightSqlServerSql, true),
        (FlightSqlServerSubstrait, false),
        (FlightSqlServerCancel, true),
        (FlightSqlServerBulkIngestion, true),
        (FlightSqlServerIngestTransactionsSupported, false),
        (SqlDdlCatalog, false),
        (SqlDdlSchema, true),
        (SqlDdlTable, true),
        (SqlAllTablesAreSelectable, true),
        (SqlSupportsColumnAliasing, true),
        (SqlNullPlusNullIsNull, true),
        (SqlSupportsTableCorrelationNames, true),
        (SqlSupportsDifferentTableCorrelationNames, false),
        (SqlSupportsExpressionsInOrderBy, true),
        (SqlSupportsOrderByUnrelated, true),
        (SqlSupportsLikeEscapeClause, true),
        (SqlSupportsNonNullableColumns, false),
        (SqlSupportsIntegrityEnhancementFacility, false),
        (SqlCatalogAtStart, true),
        (SqlSelectForUpdateSupported, false),
        (SqlStoredProceduresSupported, false),
        (SqlCorrelatedSubqueriesSupported, true),
        (SqlMaxRowSizeIncludesBlobs, true),
        (SqlTransactionsSupported, false),
        (SqlDataDefinitionCausesTransactionCommit, false),
        (SqlDataDefinitionsInTransactionsIgnored, false),
        (SqlBatchUpdatesSupported, true),
        (SqlSavepointsSupported, false),
        (SqlNamedParametersSupported, false),
        (SqlLocatorsUpdateCopy, false),
        (SqlStoredFunctionsUsingCallSyntaxSupported, false),
    ] {
        infos.append(info, value);
    }

    // The specification says i32 for the first three, while the drivers that read them expect i64.
    infos.append(SqlIdentifierCase, sql::SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i64);
    infos.append(SqlQuotedIdentifierCase, sql::SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i64);
    infos.append(SqlNullOrdering, sql::SqlNullOrdering::SqlNullsSortedHigh as i64);
    // Zero is "no limit, or not known"; the default isolation is zero because there are no transactions.
    for info in [
        SqlMaxBinaryLiteralLength,
        SqlMaxCharLiteralLength,
        SqlMaxColumnNameLength,
        SqlMaxColumnsInGroupBy,
        SqlMaxColumnsInIndex,
        SqlMaxColumnsInOrderBy,
        SqlMaxColumnsInSelect,
        SqlMaxColumnsInTable,
        SqlMaxConnections,
        SqlMaxCursorNameLength,
        SqlMaxIndexLength,
        SqlDbSchemaNameLength,
        SqlMaxProcedureNameLength,
        SqlMaxCatalogNameLength,
        SqlMaxRowSize,
        SqlMaxStatementLength,
        SqlMaxStatements,
        SqlMaxTableNameLength,
        SqlMaxTablesInSelect,
        SqlMaxUsernameLength,
        SqlDefaultTransactionIsolation,
    ] {
        infos.append(info, 0_i64);
    }

    infos.append(FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    infos.append(FlightSqlServerStatementTimeout, 0_i32);
    infos.append(FlightSqlServerTransactionTimeout, 0_i32);
    infos.append(
        SqlSupportedGroupBy,
        mask([sql::SqlSupportedGroupBy::SqlGroupByUnrelated as i32, sql::SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32]),
    );
    infos.append(SqlSupportedGrammar, mask([SupportedSqlGrammar::SqlMinimumGrammar as i32, SupportedSqlGrammar::SqlCoreGrammar as i32]));
    infos.append(SqlAnsi92SupportedLevel, mask([0]));
    infos.append(SqlOuterJoinsSupportLevel, mask([sql::SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32]));
    infos.append(SqlSchemasSupportedActions, 0_i32);
    infos.append(SqlCatalogsSupportedActions, 0_i32);
    infos.append(SqlSupportedPositionedCommands, 0_i32);
    infos.append(
        SqlSupportedSubqueries,
        mask([
            sql::SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
            sql::SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
            sql::SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
        ]),
    );
    infos.append(SqlSupportedUnions, mask([sql::SqlSupportedUnions::SqlUnion as i32, sql::SqlSupportedUnions::SqlUnionAll as i32]));
    infos.append(SqlSupportedTransactionsIsolationLevels, 0_i32);
    infos.append(SqlSupportedResultSetTypes, mask([SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32]));
    for info in [
        SqlSupportedConcurrenciesForResultSetUnspecified,
        SqlSupportedConcurrenciesForResultSetForwardOnly,
        SqlSupportedConcurrenciesForResultSetScrollSensitive,
        SqlSupportedConcurrenciesForResultSetScrollInsensitive,
    ] {
        infos.append(info, 0_i32);
    }

    infos.append(SqlKeywords, ALL_KEYWORDS.iter().map(|keyword| (*keyword).to_owned()).collect::<Vec<_>>());
    infos.append(SqlNumericFunctions, names([functions::math::functions()]));
    infos.append(
        SqlStringFunctions,
        names([functions::string::functions(), functions::unicode::functions(), functions::regex::functions()]),
    );
    infos.append(
        SqlSystemFunctions,
        names([functions::core::functions(), functions::crypto::functions(), functions::encoding::functions()]),
    );
    infos.append(SqlDatetimeFunctions, names([functions::datetime::functions()]));
    infos.append(SqlSupportsConvert, conversions());
    infos.build()
}

/// Which types a type can be cast to.
fn conversions() -> BTreeMap<i32, Vec<i32>> {
    use SqlSupportsConvert::*;
    let numbers =
        [SqlConvertTinyint, SqlConvertSmallint, SqlConvertInteger, SqlConvertBigint, SqlConvertReal, SqlConvertFloat, SqlConvertDecimal];
    let codes = |types: &[SqlSupportsConvert]| types.iter().map(|t| *t as i32).collect::<Vec<_>>();
    let mut to = BTreeMap::new();
    for number in numbers {
        to.insert(number as i32, [codes(&numbers), codes(&[SqlConvertBit, SqlConvertVarchar])].concat());
    }
    to.insert(SqlConvertBit as i32, [codes(&numbers), codes(&[SqlConvertVarchar])].concat());
    to.insert(SqlConvertDate as i32, codes(&[SqlConvertTimestamp, SqlConvertVarchar]));
    to.insert(SqlConvertTime as i32, codes(&[SqlConvertVarchar]));
    to.insert(SqlConvertTimestamp as i32, codes(&[SqlConvertDate, SqlConvertTime, SqlConvertVarchar]));
    to.insert(SqlConvertVarbinary as i32, codes(&[SqlConvertVarchar]));
    let of_text = [SqlConvertBit, SqlConvertDate, SqlConvertTime, SqlConvertTimestamp, SqlConvertVarbinary];
    to.insert(SqlConvertVarchar as i32, [codes(&numbers), codes(&of_text)].concat());
    to
}

fn build_types() -> Result<XdbcTypeInfoData, arrow_flight::error::FlightError> {
    use XdbcDataType::*;
    let mut types = XdbcTypeInfoDataBuilder::new();
    // Name, code, digits or bits, radix.
    for (name, data_type, column_size, radix) in [
        ("BOOLEAN", XdbcBit, 1, None),
        ("TINYINT", XdbcTinyint, 8, Some(2)),
        ("SMALLINT", XdbcSmallint, 16, Some(2)),
        ("INTEGER", XdbcInteger, 32, Some(2)),
        ("BIGINT", XdbcBigint, 64, Some(2)),
        ("REAL", XdbcReal, 24, Some(2)),
        ("DOUBLE", XdbcDouble, 53, Some(2)),
        ("DECIMAL", XdbcDecimal, 76, Some(10)),
    ] {
        let base = plain(name, data_type, Some(column_size));
        let decimal = data_type == XdbcDecimal;
        types.append(XdbcTypeInfo {
            unsigned_attribute: radix.map(|_| false),
            auto_increment: radix.map(|_| false),
            num_prec_radix: radix,
            create_params: decimal.then(|| vec!["precision".to_owned(), "scale".to_owned()]),
            minimum_scale: decimal.then_some(0),
            maximum_scale: decimal.then_some(76),
            ..base
        });
    }
    // Name, code, prefix of its literals, subcode.
    for (name, data_type, prefix, subcode) in [
        ("VARCHAR", XdbcVarchar, "'", None),
        ("VARBINARY", XdbcVarbinary, "X'", None),
        ("DATE", XdbcDate, "DATE '", Some(XdbcDatetimeSubcode::XdbcSubcodeYear)),
        ("TIME", XdbcTime, "TIME '", Some(XdbcDatetimeSubcode::XdbcSubcodeTime)),
        ("TIMESTAMP", XdbcTimestamp, "TIMESTAMP '", Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp)),
        ("TIMESTAMP WITH TIME ZONE", XdbcTimestamp, "TIMESTAMP '", Some(XdbcDatetimeSubcode::XdbcSubcodeTimestampWithTimezone)),
        ("INTERVAL", XdbcInterval, "INTERVAL '", None),
    ] {
        let date_or_time = matches!(data_type, XdbcDate | XdbcTime | XdbcTimestamp);
        types.append(XdbcTypeInfo {
            literal_prefix: Some(prefix.to_owned()),
            literal_suffix: Some("'".to_owned()),
            case_sensitive: data_type == XdbcVarchar,
            sql_data_type: if date_or_time { XdbcDatetime } else { data_type },
            datetime_subcode: subcode,
            ..plain(name, data_type, None)
        });
    }
    types.build()
}

fn plain(name: &str, data_type: XdbcDataType, column_size: Option<i32>) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type,
        column_size,
        literal_prefix: None,
        literal_suffix: None,
        create_params: None,
        nullable: Nullable::NullabilityNullable,
        case_sensitive: false,
        searchable: Searchable::Full,
        unsigned_attribute: None,
        fixed_prec_scale: false,
        auto_increment: None,
        local_type_name: Some(name.to_owned()),
        minimum_scale: None,
        maximum_scale: None,
        sql_data_type: data_type,
        datetime_subcode: None,
        num_prec_radix: None,
        interval_precision: None,
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use datafusion::arrow::array::{AsArray, UnionArray};
    use datafusion::arrow::datatypes::UInt32Type;

    use super::*;

    /// What drivers cast each value to, as the child of the union: 0 text, 1 truth value, 2 `i64`, 3 `i32`, 4 list, 5 map.
    const KINDS: &[(i8, &[RangeInclusive<u32>])] = &[
        (0, &[0..=2, 504..=504, 513..=514, 529..=531]),
        (
            1,
            &[
                3..=5,
                9..=11,
                515..=516,
                518..=521,
                523..=524,
                527..=527,
                532..=532,
                536..=537,
                539..=539,
                556..=556,
                563..=563,
                565..=566,
                572..=576,
            ],
        ),
        (2, &[503..=503, 505..=505, 507..=507, 541..=555, 557..=562]),
        (3, &[8..=8, 522..=522, 525..=526, 528..=528, 533..=535, 538..=538, 540..=540, 564..=564, 567..=567]),
        (4, &[508..=512]),
        (5, &[517..=517]),
    ];

    #[test]
    fn every_code_that_drivers_read_has_the_kind_they_expect() {
        let batch = server().unwrap().record_batch([]).unwrap();
        let codes = batch.column(0).as_primitive::<UInt32Type>();
        let values = batch.column(1).as_any().downcast_ref::<UnionArray>().unwrap();
        let kinds: BTreeMap<u32, i8> = codes.values().iter().enumerate().map(|(row, code)| (*code, values.type_id(row))).collect();
        for (kind, ranges) in KINDS {
            for code in ranges.iter().cloned().flatten() {
                assert_eq!(kinds.get(&code), Some(kind), "code {code}");
            }
        }
        assert!(kinds.keys().all(|code| *code <= 576));
    }
}
