//! Functions of dates and times as Hive, Spark and Presto spell them.

use std::sync::Arc;

use chrono::{Datelike, FixedOffset, Months, NaiveDate, NaiveDateTime, Timelike, Weekday};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::kernels::zip::zip;
use datafusion::arrow::compute::{cast, is_not_null};
use datafusion::arrow::datatypes::{DataType, Date32Type, Float64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::ScalarUDF;

use super::kernel::{Call, Kernel, TEXT, is_integer, is_text, lenient};
use super::patterns::{Letters, Pattern, date_of, days_of, micros_of, shifted, time_of};

const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);
const HIVE_TIMESTAMP: &str = "yyyy-MM-dd HH:mm:ss";
const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 24 * 60 * 60 * MICROS_PER_SECOND;

/// All of them.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    let kernels = [
        Kernel {
            name: "format_datetime",
            aliases: &[],
            takes: "a date or timestamp and a pattern such as 'yyyy-MM-dd'",
            coerce: time_and_text,
            returns: |_| DataType::Utf8,
            run: |call| format(call, Letters::Java),
        },
        Kernel {
            name: "presto_date_format",
            aliases: &[],
            takes: "a date or timestamp and a pattern such as '%Y-%m-%d'",
            coerce: time_and_text,
            returns: |_| DataType::Utf8,
            run: |call| format(call, Letters::MySql),
        },
        Kernel {
            name: "parse_datetime",
            aliases: &[],
            takes: "text and a pattern such as 'yyyy-MM-dd'",
            coerce: two_texts,
            returns: |_| TIMESTAMP,
            run: |call| parse_all(call, Letters::Java),
        },
        Kernel {
            name: "date_parse",
            aliases: &[],
            takes: "text and a pattern such as '%Y-%m-%d'",
            coerce: two_texts,
            returns: |_| TIMESTAMP,
            run: |call| parse_all(call, Letters::MySql),
        },
        Kernel {
            name: "try_date_parse",
            aliases: &[],
            takes: "text and a pattern such as '%Y-%m-%d'",
            coerce: two_texts,
            returns: |_| TIMESTAMP,
            run: |call| Ok(Arc::new(parse(call, Letters::MySql)?)),
        },
        Kernel {
            name: "hive_from_unixtime",
            aliases: &[],
            takes: "seconds since 1970 and perhaps a pattern such as 'yyyy-MM-dd'",
            coerce: |types| match types {
                [seconds] if is_integer(seconds) => Some(vec![DataType::Int64]),
                [seconds, pattern] if is_integer(seconds) && is_text(pattern) => Some(vec![DataType::Int64, TEXT]),
                _ => None,
            },
            returns: |_| DataType::Utf8,
            run: from_unixtime,
        },
        Kernel {
            name: "unix_timestamp",
            aliases: &["to_unix_timestamp"],
            takes: "a date, timestamp or text, and for text perhaps a pattern such as 'yyyy-MM-dd'",
            coerce: time_or_text,
            returns: |_| DataType::Int64,
            run: |call| {
                let times = read_times(call)?;
                let seconds = times.iter().map(|time| time.map(|micros| micros.div_euclid(MICROS_PER_SECOND)));
                Ok(Arc::new(seconds.collect::<Int64Array>()))
            },
        },
        Kernel {
            name: "hive_to_date",
            aliases: &[],
            takes: "a date, timestamp or text, and for text perhaps a pattern such as 'yyyy-MM-dd'",
            coerce: time_or_text,
            returns: |_| DataType::Date32,
            run: |call| if call.has(1) { Ok(cast(&read_times(call)?, &DataType::Date32)?) } else { dates(call.array(0)) },
        },
        Kernel {
            name: "hive_to_timestamp",
            aliases: &[],
            takes: "a date, timestamp or text, and for text perhaps a pattern such as 'yyyy-MM-dd HH:mm:ss'",
            coerce: time_or_text,
            returns: |_| TIMESTAMP,
            run: |call| Ok(Arc::new(read_times(call)?)),
        },
        Kernel {
            name: "date_add",
            aliases: &["dateadd"],
            takes: "a date and a number of days, or a unit, a number and a date or timestamp",
            coerce: date_and_days,
            returns: |types| types.get(2).cloned().unwrap_or(DataType::Date32),
            run: |call| add(call, 1),
        },
        Kernel {
            name: "date_sub",
            aliases: &[],
            takes: "a date and a number of days",
            coerce: |types| date_and_days(types).filter(|types| types.len() == 2),
            returns: |_| DataType::Date32,
            run: |call| add(call, -1),
        },
        Kernel {
            name: "date_diff",
            aliases: &["datediff"],
            takes: "a later and an earlier date, or a unit, an earlier and a later date or timestamp",
            coerce: |types| match types {
                [late, early] if is_time(late) && is_time(early) => Some(vec![uncasted(late), uncasted(early)]),
                [unit, early, late] if is_text(unit) && is_time(early) && is_time(late) => {
                    Some(vec![TEXT, uncasted(early), uncasted(late)])
                }
                _ => None,
            },
            returns: |types| if types.len() == 2 { DataType::Int32 } else { DataType::Int64 },
            run: difference,
        },
        Kernel {
            name: "add_months",
            aliases: &[],
            takes: "a date and a number of months",
            coerce: date_and_number,
            returns: |_| DataType::Date32,
            run: |call| {
                let (dates, months) = (dates(call.array(0))?, call.integers(1)?);
                let added = dates.as_primitive::<Date32Type>().iter().zip(months).map(|(date, months)| {
                    let date = date.and_then(date_of)?;
                    later(date, months?).map(days_of)
                });
                Ok(Arc::new(added.collect::<Date32Array>()))
            },
        },
        Kernel {
            name: "last_day",
            aliases: &["last_day_of_month"],
            takes: "a date",
            coerce: one_time,
            returns: |_| DataType::Date32,
            run: |call| each_date(call.array(0), last_day),
        },
        Kernel {
            name: "next_day",
            aliases: &[],
            takes: "a date and a weekday such as 'Mon'",
            coerce: time_and_text,
            returns: |_| DataType::Date32,
            run: |call| {
                let (dates, weekdays) = (dates(call.array(0))?, call.text(1)?);
                let next = dates.as_primitive::<Date32Type>().iter().zip(weekdays).map(|(date, weekday)| {
                    let wanted = weekday?.trim().parse::<Weekday>().ok().or_else(|| two_letters(weekday?))?;
                    let date = date.and_then(date_of)?;
                    let days = (wanted.num_days_from_monday() + 6 - date.weekday().num_days_from_monday()) % 7 + 1;
                    Some(days_of(date) + days as i32)
                });
                Ok(Arc::new(next.collect::<Date32Array>()))
            },
        },
        Kernel {
            name: "months_between",
            aliases: &[],
            takes: "a later and an earlier date or timestamp",
            coerce: |types| match types {
                [late, early] if is_time(late) && is_time(early) => Some(vec![uncasted(late), uncasted(early)]),
                [late, early, DataType::Boolean] if is_time(late) && is_time(early) => {
                    Some(vec![uncasted(late), uncasted(early), DataType::Boolean])
                }
                _ => None,
            },
            returns: |_| DataType::Float64,
            run: months_between,
        },
        Kernel {
            name: "hive_trunc",
            aliases: &[],
            takes: "a date and a unit such as 'MONTH', or a number and perhaps a number of decimal places",
            coerce: |types| match types {
                [time, unit] if is_time(time) && is_text(unit) => Some(vec![uncasted(time), TEXT]),
                [number] if number.is_numeric() => Some(vec![DataType::Float64]),
                [number, places] if number.is_numeric() && is_integer(places) => Some(vec![DataType::Float64, DataType::Int64]),
                _ => None,
            },
            returns: |types| if types[0] == DataType::Float64 { DataType::Float64 } else { DataType::Date32 },
            run: trunc,
        },
        Kernel {
            name: "dayofweek",
            aliases: &[],
            takes: "a date",
            coerce: one_time,
            returns: |_| DataType::Int32,
            run: |call| each_weekday(call, |weekday| weekday.number_from_sunday()),
        },
        Kernel {
            name: "weekday",
            aliases: &[],
            takes: "a date",
            coerce: one_time,
            returns: |_| DataType::Int32,
            run: |call| each_weekday(call, |weekday| weekday.num_days_from_monday()),
        },
    ];
    kernels.into_iter().map(Kernel::build).collect()
}

fn is_time(data_type: &DataType) -> bool {
    is_text(data_type) || matches!(data_type, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..))
}

/// Text stays text: what is no time is NULL, not an error.
fn uncasted(data_type: &DataType) -> DataType {
    if is_text(data_type) { TEXT } else { data_type.clone() }
}

fn one_time(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [time] if is_time(time) => Some(vec![uncasted(time)]),
        _ => None,
    }
}

fn time_and_text(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [time, text] if is_time(time) && is_text(text) => Some(vec![uncasted(time), TEXT]),
        _ => None,
    }
}

fn time_or_text(types: &[DataType]) -> Option<Vec<DataType>> {
    one_time(types).or_else(|| time_and_text(types))
}

fn two_texts(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [text, pattern] if is_text(text) && is_text(pattern) => Some(vec![TEXT, TEXT]),
        _ => None,
    }
}

fn date_and_number(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [time, number] if is_time(time) && is_integer(number) => Some(vec![uncasted(time), DataType::Int64]),
        _ => None,
    }
}

fn date_and_days(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [unit, number, time] if is_text(unit) && is_integer(number) && is_time(time) => {
            let time = match time {
                DataType::Date32 | DataType::Date64 => DataType::Date32,
                DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
                _ => TIMESTAMP,
            };
            Some(vec![TEXT, DataType::Int64, time])
        }
        _ => date_and_number(types),
    }
}

/// Dates of dates, timestamps and text that begins with a date.
fn dates(array: &ArrayRef) -> Result<ArrayRef> {
    let dates = lenient(array, &DataType::Date32)?;
    if !is_text(array.data_type()) || dates.null_count() == array.null_count() {
        return Ok(dates);
    }
    let from_times = lenient(&lenient(array, &TIMESTAMP)?, &DataType::Date32)?;
    Ok(zip(&is_not_null(&dates)?, &dates, &from_times)?)
}

/// Local times of dates, timestamps and text.
fn times(array: &ArrayRef) -> Result<TimestampMicrosecondArray> {
    Ok(lenient(array, &TIMESTAMP)?.as_primitive::<TimestampMicrosecondType>().clone())
}

/// Seconds that the session's zone is ahead of UTC.
fn zone(config: &ConfigOptions) -> i32 {
    let zone = config.execution.time_zone.as_deref().and_then(|zone| zone.parse::<FixedOffset>().ok());
    zone.map_or(0, |zone| zone.local_minus_utc())
}

/// Patterns, of which one is mostly the same as that of the row before.
struct Patterns {
    letters: Letters,
    last: Option<(String, Pattern)>,
}

impl Patterns {
    fn new(letters: Letters) -> Self {
        Self { letters, last: None }
    }

    fn get(&mut self, text: &str) -> Result<&Pattern> {
        let last = match self.last.take().filter(|(last, _)| last == text) {
            Some(last) => last,
            None => (text.to_owned(), Pattern::new(text, self.letters)?),
        };
        Ok(&self.last.insert(last).1)
    }
}

fn format(call: &Call, letters: Letters) -> Result<ArrayRef> {
    let (times, texts, mut patterns) = (times(call.array(0))?, call.text(1)?, Patterns::new(letters));
    let zone = zone(&call.config);
    let formatted = times.iter().zip(texts).map(|pair| match pair {
        (Some(micros), Some(text)) => {
            let pattern = patterns.get(text)?;
            Ok(time_of(micros).map(|time| pattern.format(&time, zone)))
        }
        _ => Ok(None),
    });
    Ok(Arc::new(formatted.collect::<Result<StringArray>>()?))
}

/// Times of text that must follow its pattern.
fn parse_all(call: &Call, letters: Letters) -> Result<ArrayRef> {
    let (texts, patterns) = (call.text(0)?, call.text(1)?);
    let times = parse(call, letters)?;
    if let Some(row) = (0..call.rows()).find(|row| times.is_null(*row) && texts.is_valid(*row) && patterns.is_valid(*row)) {
        return exec_err!("'{}' does not follow the pattern '{}'", texts.value(row), patterns.value(row));
    }
    Ok(Arc::new(times))
}

/// Times of text; NULL where it does not follow its pattern.
fn parse(call: &Call, letters: Letters) -> Result<TimestampMicrosecondArray> {
    let (texts, patterns_of_rows, mut patterns) = (call.text(0)?, call.text(1)?, Patterns::new(letters));
    let zone = zone(&call.config);
    let parsed = texts.iter().zip(patterns_of_rows).map(|pair| match pair {
        (Some(text), Some(pattern)) => {
            let found = patterns.get(pattern)?.parse(text);
            let local = found.and_then(|(time, offset)| offset.map_or(Some(time), |offset| shifted(time, zone - offset)));
            Ok(local.map(micros_of))
        }
        _ => Ok(None),
    });
    parsed.collect()
}

/// Times of the first argument, of text by the pattern that is the second one, if there is one.
fn read_times(call: &Call) -> Result<TimestampMicrosecondArray> {
    match call.has(1) && *call.array(0).data_type() == TEXT {
        true => parse(call, Letters::Java),
        false => times(call.array(0)),
    }
}

fn from_unixtime(call: &Call) -> Result<ArrayRef> {
    let (seconds, mut patterns, zone) = (call.integers(0)?, Patterns::new(Letters::Java), zone(&call.config));
    let formatted = (0..call.rows()).map(|row| {
        let (true, Some(text)) = (seconds.is_valid(row), call.text_or(1, row, HIVE_TIMESTAMP)?) else { return Ok(None) };
        let pattern = patterns.get(text)?;
        let time = seconds.value(row).checked_mul(MICROS_PER_SECOND).and_then(time_of).and_then(|time| shifted(time, zone));
        Ok(time.map(|time| pattern.format(&time, zone)))
    });
    Ok(Arc::new(formatted.collect::<Result<StringArray>>()?))
}

/// A unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Micros(i64),
    Months(i64),
}

impl Unit {
    fn new(text: &str) -> Result<Self> {
        Ok(match text.to_ascii_lowercase().trim_end_matches('s') {
            "millisecond" => Self::Micros(1000),
            "second" => Self::Micros(MICROS_PER_SECOND),
            "minute" => Self::Micros(60 * MICROS_PER_SECOND),
            "hour" => Self::Micros(3600 * MICROS_PER_SECOND),
            "day" => Self::Micros(MICROS_PER_DAY),
            "week" => Self::Micros(7 * MICROS_PER_DAY),
            "month" => Self::Months(1),
            "quarter" => Self::Months(3),
            "year" => Self::Months(12),
            _ => {
                return exec_err!(
                    "'{text}' is no unit of time: units are millisecond, second, minute, hour, day, week, month, quarter, year"
                );
            }
        })
    }

    /// A time so many units later; none if calendars end before.
    fn after(self, time: NaiveDateTime, count: i64) -> Option<NaiveDateTime> {
        match self {
            Self::Micros(micros) => micros_of(time).checked_add(micros.checked_mul(count)?).and_then(time_of),
            Self::Months(months) => {
                let date = later(time.date(), months.checked_mul(count)?)?;
                Some(date.and_time(time.time()))
            }
        }
    }

    /// Whole units from one time to another.
    fn between(self, early: NaiveDateTime, late: NaiveDateTime) -> i64 {
        match self {
            Self::Micros(micros) => (micros_of(late) - micros_of(early)) / micros,
            Self::Months(months) => {
                let month = |time: NaiveDateTime| i64::from(time.year()) * 12 + i64::from(time.month0());
                let count = month(late) - month(early);
                // One less where the last month is not over: what counts is whether adding it goes too far.
                let reached = later(early.date(), count).map(|date| date.and_time(early.time()));
                let count = match reached {
                    Some(reached) if count > 0 && reached > late => count - 1,
                    Some(reached) if count < 0 && reached < late => count + 1,
                    _ => count,
                };
                count / months
            }
        }
    }
}

/// A date so many months later, at the end of a month that is shorter.
fn later(date: NaiveDate, months: i64) -> Option<NaiveDate> {
    let count = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
    if months < 0 { date.checked_sub_months(count) } else { date.checked_add_months(count) }
}

fn add(call: &Call, sign: i64) -> Result<ArrayRef> {
    if !call.has(2) {
        let (dates, days) = (dates(call.array(0))?, call.integers(1)?);
        let added = dates.as_primitive::<Date32Type>().iter().zip(days).map(|(date, days)| match (date, days) {
            (Some(date), Some(days)) => {
                match sign.checked_mul(days).and_then(|days| i32::try_from(i64::from(date).checked_add(days)?).ok()) {
                    Some(sum) => Ok(Some(sum)),
                    None => exec_err!("{days} days are too many to add to a date"),
                }
            }
            _ => Ok(None),
        });
        return Ok(Arc::new(added.collect::<Result<Date32Array>>()?));
    }
    let (units, counts, data_type) = (call.text(0)?, call.integers(1)?, call.array(2).data_type());
    // Not as local times: a zone's rows stay what they are.
    let times = match data_type {
        DataType::Timestamp(..) => cast(&cast(call.array(2), &DataType::Int64)?, &TIMESTAMP)?,
        _ => cast(call.array(2), &TIMESTAMP)?,
    };
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let sums = (0..call.rows()).map(|row| {
        if units.is_null(row) || counts.is_null(row) || times.is_null(row) {
            return Ok(None);
        }
        let (unit, count) = (Unit::new(units.value(row))?, counts.value(row));
        if let (DataType::Date32, Unit::Micros(micros)) = (data_type, unit)
            && micros % MICROS_PER_DAY != 0
        {
            return exec_err!("'{}' is no unit of dates: cast the date to a timestamp", units.value(row));
        }
        match time_of(times.value(row)).and_then(|time| unit.after(time, count)) {
            Some(time) => Ok(Some(micros_of(time))),
            None => exec_err!("{count} {}s are too many to add to a time", units.value(row)),
        }
    });
    let sums: ArrayRef = Arc::new(sums.collect::<Result<TimestampMicrosecondArray>>()?);
    match data_type {
        DataType::Timestamp(..) => Ok(cast(&cast(&sums, &DataType::Int64)?, data_type)?),
        _ => Ok(cast(&sums, data_type)?),
    }
}

fn difference(call: &Call) -> Result<ArrayRef> {
    if !call.has(2) {
        let (late, early) = (dates(call.array(0))?, dates(call.array(1))?);
        let pairs = late.as_primitive::<Date32Type>().iter().zip(early.as_primitive::<Date32Type>());
        return Ok(Arc::new(pairs.map(|(late, early)| late?.checked_sub(early?)).collect::<Int32Array>()));
    }
    let (units, early, late) = (call.text(0)?, times(call.array(1))?, times(call.array(2))?);
    let differences = (0..call.rows()).map(|row| {
        if units.is_null(row) || early.is_null(row) || late.is_null(row) {
            return Ok(None);
        }
        let unit = Unit::new(units.value(row))?;
        let times = time_of(early.value(row)).zip(time_of(late.value(row)));
        Ok(times.map(|(early, late)| unit.between(early, late)))
    });
    Ok(Arc::new(differences.collect::<Result<Int64Array>>()?))
}

fn each_date(array: &ArrayRef, function: fn(NaiveDate) -> Option<NaiveDate>) -> Result<ArrayRef> {
    let dates = dates(array)?;
    let results = dates.as_primitive::<Date32Type>().iter().map(|date| date.and_then(date_of).and_then(function).map(days_of));
    Ok(Arc::new(results.collect::<Date32Array>()))
}

fn each_weekday(call: &Call, number: fn(Weekday) -> u32) -> Result<ArrayRef> {
    let dates = dates(call.array(0))?;
    let days = dates.as_primitive::<Date32Type>().iter().map(|date| date.and_then(date_of).map(|date| number(date.weekday()) as i32));
    Ok(Arc::new(days.collect::<Int32Array>()))
}

fn last_day(date: NaiveDate) -> Option<NaiveDate> {
    later(date.with_day(1)?, 1)?.pred_opt()
}

/// `Mo`, as Hive allows.
fn two_letters(weekday: &str) -> Option<Weekday> {
    let names = ["mo", "tu", "we", "th", "fr", "sa", "su"];
    let found = names.iter().position(|name| name.eq_ignore_ascii_case(weekday.trim()))?;
    Weekday::try_from(u8::try_from(found).ok()?).ok()
}

/// Spark's: whole months between equal days and between last days, else a month has 31 days.
fn months_between(call: &Call) -> Result<ArrayRef> {
    let (late, early) = (times(call.array(0))?, times(call.array(1))?);
    let rounds = |row| !call.has(2) || call.array(2).as_boolean().value(row);
    let months = (0..call.rows()).map(|row| {
        let (late, early) =
            (time_of(late.is_valid(row).then(|| late.value(row))?)?, time_of(early.is_valid(row).then(|| early.value(row))?)?);
        let months = (late.year() - early.year()) * 12 + late.month() as i32 - early.month() as i32;
        let at_end = |time: NaiveDateTime| last_day(time.date()) == Some(time.date());
        if late.day() == early.day() || (at_end(late) && at_end(early)) {
            return Some(f64::from(months));
        }
        let seconds = |time: NaiveDateTime| i64::from(time.day()) * 24 * 60 * 60 + i64::from(time.num_seconds_from_midnight());
        let fraction = (seconds(late) - seconds(early)) as f64 / (31 * 24 * 60 * 60) as f64;
        let exact = f64::from(months) + fraction;
        Some(if rounds(row) { (exact * 1e8).round() / 1e8 } else { exact })
    });
    Ok(Arc::new(months.collect::<Float64Array>()))
}

fn trunc(call: &Call) -> Result<ArrayRef> {
    if *call.array(0).data_type() == DataType::Float64 {
        let numbers = call.array(0).as_primitive::<Float64Type>();
        let truncated = (0..call.rows()).map(|row| {
            let Some(places) = call.integer_or(1, row, 0)?.filter(|_| numbers.is_valid(row)) else { return Ok(None) };
            let scale = 10_f64.powi(places.clamp(-400, 400) as i32);
            let scaled = numbers.value(row) * scale;
            // Past the digits that a number has there is nothing to cut.
            let cut = if scaled.is_finite() { scaled.trunc() / scale } else { numbers.value(row) };
            Ok(Some(if cut.is_nan() { 0.0 } else { cut }))
        });
        return Ok(Arc::new(truncated.collect::<Result<Float64Array>>()?));
    }
    let (dates, units) = (dates(call.array(0))?, call.text(1)?);
    let truncated = dates.as_primitive::<Date32Type>().iter().zip(units).map(|(date, unit)| {
        let date = date.and_then(date_of)?;
        let first = match unit?.to_ascii_uppercase().as_str() {
            "YEAR" | "YYYY" | "YY" => NaiveDate::from_ymd_opt(date.year(), 1, 1)?,
            "QUARTER" | "Q" => NaiveDate::from_ymd_opt(date.year(), date.month0() / 3 * 3 + 1, 1)?,
            "MONTH" | "MON" | "MM" => date.with_day(1)?,
            "WEEK" => date.week(Weekday::Mon).checked_first_day()?,
            _ => return None,
        };
        Some(days_of(first))
    });
    Ok(Arc::new(truncated.collect::<Date32Array>()))
}
