//! Patterns of dates and times: Java's (`yyyy-MM-dd`), which Hive, Spark and Presto's `format_datetime` use, and MySQL's (`%Y-%m-%d`),
//! which Presto's `date_format` uses.

use std::fmt::Write;

use chrono::{Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike};
use datafusion::common::{Result, exec_err};

/// In which letters a pattern is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letters {
    /// `yyyy-MM-dd`
    Java,
    /// `%Y-%m-%d`
    MySql,
}

/// A part of a pattern. Numbers have at least so many digits.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Year(usize),
    /// The last two digits; 2000 to 2099 are meant.
    ShortYear,
    WeekYear,
    Quarter,
    Month(usize),
    MonthName {
        short: bool,
    },
    Day(usize),
    DayOfYear(usize),
    Week(usize),
    WeekdayName {
        short: bool,
    },
    /// Hour from 0 to 23.
    Hour(usize),
    /// Hour from 1 to 12.
    Hour12(usize),
    Minute(usize),
    Second(usize),
    /// Digits of the fraction of a second.
    Fraction(usize),
    Half,
    /// Offset from UTC, with or without a colon; `Z` stands for none.
    Offset {
        colon: bool,
        zulu: bool,
    },
}

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Digits that a number of a pattern may have.
const DIGITS_MAX: usize = 9;

/// A pattern that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    parts: Vec<Part>,
    /// Whether numbers may have fewer digits than the pattern says.
    lenient: bool,
}

impl Pattern {
    /// Reads a pattern. Errors: a letter that means nothing here.
    pub fn new(text: &str, letters: Letters) -> Result<Self> {
        match letters {
            Letters::Java => java(text).map(|parts| Self { parts, lenient: false }),
            Letters::MySql => mysql(text).map(|parts| Self { parts, lenient: true }),
        }
    }

    /// A time as text. `offset` is that of its zone, in seconds.
    pub fn format(&self, time: &NaiveDateTime, offset: i32) -> String {
        let mut text = String::new();
        for part in &self.parts {
            // Writing to a string cannot fail.
            let _ = write_part(&mut text, part, time, offset);
        }
        text
    }

    /// The time that a text means, with the offset that it names; none if it does not follow the pattern, or no such time exists.
    pub fn parse(&self, text: &str) -> Option<(NaiveDateTime, Option<i32>)> {
        let mut fields = Fields::default();
        let mut rest = text;
        for (index, part) in self.parts.iter().enumerate() {
            let adjacent = matches!(self.parts.get(index + 1), Some(next) if !matches!(next, Part::Literal(_)));
            rest = fields.read(part, rest, self.lenient, adjacent)?;
        }
        if !rest.is_empty() {
            return None;
        }
        fields.time().map(|time| (time, fields.offset))
    }
}

fn java(text: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix('\'') {
            let Some(end) = quoted.find('\'') else { return exec_err!("the quote in pattern '{text}' does not end") };
            literal(&mut parts, if end == 0 { "'" } else { &quoted[..end] });
            rest = &quoted[end + 1..];
            continue;
        }
        let end = rest.find(|other| other != letter).unwrap_or(rest.len());
        let count = end / letter.len_utf8();
        let part = match (letter, count) {
            ('y' | 'u', 2) => Part::ShortYear,
            ('y' | 'u', 1..=DIGITS_MAX) => Part::Year(count),
            ('M' | 'L', 1 | 2) => Part::Month(count),
            ('M' | 'L', 3 | 4) => Part::MonthName { short: count == 3 },
            ('d', 1 | 2) => Part::Day(count),
            ('D', 1..=3) => Part::DayOfYear(count),
            ('E', 1..=4) => Part::WeekdayName { short: count < 4 },
            ('H', 1 | 2) => Part::Hour(count),
            ('h', 1 | 2) => Part::Hour12(count),
            ('m', 1 | 2) => Part::Minute(count),
            ('s', 1 | 2) => Part::Second(count),
            ('S', 1..=DIGITS_MAX) => Part::Fraction(count),
            ('a', 1) => Part::Half,
            ('Q' | 'q', 1) => Part::Quarter,
            ('X', 3) => Part::Offset { colon: true, zulu: true },
            ('x', 3) => Part::Offset { colon: true, zulu: false },
            ('X', 2) => Part::Offset { colon: false, zulu: true },
            ('x', 2) | ('Z', 1..=3) => Part::Offset { colon: false, zulu: false },
            _ if letter.is_ascii_alphabetic() => {
                return exec_err!("'{}' in pattern '{text}' is not supported; letters are those of Java's DateTimeFormatter", &rest[..end]);
            }
            _ => {
                literal(&mut parts, &rest[..end]);
                rest = &rest[end..];
                continue;
            }
        };
        parts.push(part);
        rest = &rest[end..];
    }
    Ok(parts)
}

fn mysql(text: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            literal(&mut parts, letter.encode_utf8(&mut [0; 4]));
            continue;
        }
        let part = match letters.next() {
            Some('Y') => Part::Year(4),
            Some('y') => Part::ShortYear,
            Some('x') => Part::WeekYear,
            Some('m') => Part::Month(2),
            Some('c') => Part::Month(1),
            Some('M') => Part::MonthName { short: false },
            Some('b') => Part::MonthName { short: true },
            Some('d') => Part::Day(2),
            Some('e') => Part::Day(1),
            Some('j') => Part::DayOfYear(3),
            Some('v') => Part::Week(2),
            Some('W') => Part::WeekdayName { short: false },
            Some('a') => Part::WeekdayName { short: true },
            Some('H') => Part::Hour(2),
            Some('k') => Part::Hour(1),
            Some('h' | 'I') => Part::Hour12(2),
            Some('l') => Part::Hour12(1),
            Some('i') => Part::Minute(2),
            Some('s' | 'S') => Part::Second(2),
            Some('f') => Part::Fraction(6),
            Some('p') => Part::Half,
            Some('T') => {
                parts.extend(mysql("%H:%i:%s")?);
                continue;
            }
            Some('r') => {
                parts.extend(mysql("%h:%i:%s %p")?);
                continue;
            }
            Some(other) if !other.is_ascii_alphabetic() => {
                literal(&mut parts, other.encode_utf8(&mut [0; 4]));
                continue;
            }
            Some(other) => return exec_err!("'%{other}' in pattern '{text}' is not supported; letters are those of MySQL's DATE_FORMAT"),
            None => return exec_err!("pattern '{text}' ends in '%'"),
        };
        parts.push(part);
    }
    Ok(parts)
}

fn literal(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        Some(Part::Literal(before)) => before.push_str(text),
        _ => parts.push(Part::Literal(text.to_owned())),
    }
}

fn write_part(text: &mut String, part: &Part, time: &NaiveDateTime, offset: i32) -> std::fmt::Result {
    match part {
        Part::Literal(literal) => text.write_str(literal),
        Part::Year(width) => write!(text, "{:0width$}", time.year()),
        Part::ShortYear => write!(text, "{:02}", time.year().rem_euclid(100)),
        Part::WeekYear => write!(text, "{:04}", time.iso_week().year()),
        Part::Quarter => write!(text, "{}", time.month0() / 3 + 1),
        Part::Month(width) => write!(text, "{:0width$}", time.month()),
        Part::MonthName { short } => text.write_str(shortened(MONTHS[time.month0() as usize], *short)),
        Part::Day(width) => write!(text, "{:0width$}", time.day()),
        Part::DayOfYear(width) => write!(text, "{:0width$}", time.ordinal()),
        Part::Week(width) => write!(text, "{:0width$}", time.iso_week().week()),
        Part::WeekdayName { short } => text.write_str(shortened(WEEKDAYS[time.weekday().num_days_from_monday() as usize], *short)),
        Part::Hour(width) => write!(text, "{:0width$}", time.hour()),
        Part::Hour12(width) => write!(text, "{:0width$}", time.hour12().1),
        Part::Minute(width) => write!(text, "{:0width$}", time.minute()),
        Part::Second(width) => write!(text, "{:0width$}", time.second()),
        Part::Fraction(width) => text.write_str(&format!("{:09}", time.nanosecond() % 1_000_000_000)[..*width]),
        Part::Half => text.write_str(if time.hour() < 12 { "AM" } else { "PM" }),
        Part::Offset { zulu: true, .. } if offset == 0 => text.write_str("Z"),
        Part::Offset { colon, .. } => {
            let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
            write!(text, "{sign}{:02}{}{:02}", minutes / 60, if *colon { ":" } else { "" }, minutes % 60)
        }
    }
}

fn shortened(name: &str, short: bool) -> &str {
    if short { &name[..3] } else { name }
}

/// What a text said so far.
#[derive(Debug, Default)]
struct Fields {
    year: Option<i32>,
    quarter: Option<u32>,
    month: Option<u32>,
    day: Option<u32>,
    day_of_year: Option<u32>,
    hour: Option<u32>,
    hour12: Option<u32>,
    afternoon: Option<bool>,
    minute: Option<u32>,
    second: Option<u32>,
    nanosecond: Option<u32>,
    offset: Option<i32>,
}

impl Fields {
    /// Reads one part off the beginning; the rest. `adjacent` is whether another number may follow at once.
    fn read<'a>(&mut self, part: &Part, text: &'a str, lenient: bool, adjacent: bool) -> Option<&'a str> {
        let number = |least: usize, most: usize| {
            let least = if lenient { 1 } else { least };
            let digits = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
            (digits >= least).then(|| (text[..digits].parse::<u32>().ok(), &text[digits..]))
        };
        // One letter of a pattern takes one or two digits, two letters take two.
        let two = |width: usize| number(width, 2);
        let name = |names: &[&str], short: bool| {
            let found = names.iter().position(|name| {
                let name = shortened(name, short);
                text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
            })?;
            Some((found as u32, &text[shortened(names[found], short).len()..]))
        };
        let rest = match part {
            Part::Literal(literal) => return text.strip_prefix(literal.as_str()),
            Part::Year(width) => {
                let most = if *width > 1 && (adjacent || *width == 4) { *width } else { DIGITS_MAX };
                let (year, rest) = number(*width, most)?;
                self.year = i32::try_from(year?).ok();
                rest
            }
            Part::ShortYear => {
                let (year, rest) = number(2, 2)?;
                self.year = i32::try_from(year?).ok().map(|year| 2000 + year);
                rest
            }
            Part::Quarter => {
                let (quarter, rest) = number(1, 1)?;
                self.quarter = quarter;
                rest
            }
            Part::Month(width) => {
                let (month, rest) = two(*width)?;
                self.month = month;
                rest
            }
            Part::MonthName { short } => {
                let (month, rest) = name(&MONTHS, *short)?;
                self.month = Some(month + 1);
                rest
            }
            Part::Day(width) => {
                let (day, rest) = two(*width)?;
                self.day = day;
                rest
            }
            Part::DayOfYear(width) => {
                let (day, rest) = number(*width, 3)?;
                self.day_of_year = day;
                rest
            }
            Part::WeekdayName { short } => name(&WEEKDAYS, *short)?.1,
            Part::Hour(width) => {
                let (hour, rest) = two(*width)?;
                self.hour = hour;
                rest
            }
            Part::Hour12(width) => {
                let (hour, rest) = two(*width)?;
                self.hour12 = hour;
                rest
            }
            Part::Minute(width) => {
                let (minute, rest) = two(*width)?;
                self.minute = minute;
                rest
            }
            Part::Second(width) => {
                let (second, rest) = two(*width)?;
                self.second = second;
                rest
            }
            Part::Fraction(width) => {
                let (fraction, rest) = number(*width, if lenient { DIGITS_MAX } else { *width })?;
                let digits = text.len() - rest.len();
                self.nanosecond = Some(fraction? * 10_u32.pow((DIGITS_MAX - digits) as u32));
                rest
            }
            Part::Half => {
                let (half, rest) = name(&["AM", "PM"], false)?;
                self.afternoon = Some(half == 1);
                rest
            }
            Part::Offset { .. } => {
                let (offset, rest) = offset(text)?;
                self.offset = Some(offset);
                rest
            }
            // A week does not say which day.
            Part::WeekYear | Part::Week(_) => return None,
        };
        Some(rest)
    }

    fn time(&self) -> Option<NaiveDateTime> {
        let year = self.year.unwrap_or(1970);
        let date = match self.day_of_year {
            Some(day) => NaiveDate::from_yo_opt(year, day)?,
            None => {
                let month = self.month.or_else(|| self.quarter.map(|quarter| quarter * 3 - 2));
                NaiveDate::from_ymd_opt(year, month.unwrap_or(1), self.day.unwrap_or(1))?
            }
        };
        let hour = match (self.hour, self.hour12) {
            (Some(hour), _) => hour,
            (None, Some(hour @ 1..=12)) => hour % 12 + if self.afternoon == Some(true) { 12 } else { 0 },
            (None, None) => 0,
            _ => return None,
        };
        let nanosecond = self.nanosecond.unwrap_or(0);
        let time = NaiveTime::from_hms_nano_opt(hour, self.minute.unwrap_or(0), self.second.unwrap_or(0), nanosecond)?;
        Some(date.and_time(time))
    }
}

/// `Z`, `+01:00`, `+0100` or `+01`, in seconds, and the rest.
fn offset(text: &str) -> Option<(i32, &str)> {
    if let Some(rest) = text.strip_prefix(['Z', 'z']) {
        return Some((0, rest));
    }
    let sign = match text.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    let two = |text: &str| text.get(..2).filter(|two| two.bytes().all(|b| b.is_ascii_digit())).and_then(|two| two.parse::<i32>().ok());
    let hours = two(&text[1..])?;
    let rest = &text[3..];
    let after_colon = rest.strip_prefix(':').unwrap_or(rest);
    let (minutes, rest) = match two(after_colon) {
        Some(minutes) => (minutes, &after_colon[2..]),
        None => (0, rest),
    };
    (hours <= 18 && minutes < 60).then_some((sign * (hours * 3600 + minutes * 60), rest))
}

/// Microseconds since 1970 as a time; none beyond the years that calendars know.
pub(super) fn time_of(micros: i64) -> Option<NaiveDateTime> {
    chrono::DateTime::from_timestamp_micros(micros).map(|time| time.naive_utc())
}

/// Days since 1970 as a date.
pub(super) fn date_of(days: i32) -> Option<NaiveDate> {
    let epoch = NaiveDate::default();
    match u64::try_from(days) {
        Ok(days) => epoch.checked_add_days(Days::new(days)),
        Err(_) => epoch.checked_sub_days(Days::new(u64::from(days.unsigned_abs()))),
    }
}

/// A date as days since 1970.
pub(super) fn days_of(date: NaiveDate) -> i32 {
    // Calendars know fewer days than `i32`.
    i32::try_from((date - NaiveDate::default()).num_days()).unwrap_or(i32::MAX)
}

/// A time as microseconds since 1970.
pub(super) fn micros_of(time: NaiveDateTime) -> i64 {
    time.and_utc().timestamp_micros()
}

/// A time so many seconds later.
pub(super) fn shifted(time: NaiveDateTime, seconds: i32) -> Option<NaiveDateTime> {
    time.checked_add_signed(TimeDelta::seconds(i64::from(seconds)))
}

/// What a time in text leaves out, put in: `2024-1-5 9:30` is `2024-01-05 09:30:00`. None for text that is no time.
pub fn completed_time(text: &str) -> Option<String> {
    let digits = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit());
    let text = text.trim();
    let (date, time) = text.find([' ', 'T']).map_or((text, ""), |end| (&text[..end], &text[end + 1..]));
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if year.len() != 4 || !digits(year, 4) || !digits(month, 2) || !digits(day, 2) || parts.next().is_some() {
        return None;
    }
    let date = format!("{year}-{month:0>2}-{day:0>2}");
    // A zone is what begins with a sign, a letter or a space.
    let clock_end = time.find(|letter: char| !letter.is_ascii_digit() && !matches!(letter, ':' | '.')).unwrap_or(time.len());
    let (clock, zone) = time.split_at(clock_end);
    if clock.is_empty() {
        return zone.is_empty().then_some(date);
    }
    let mut parts = clock.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next().unwrap_or("00"));
    if !digits(hour, 2) || !digits(minute, 2) || parts.next().is_some() {
        return None;
    }
    let second = if digits(second, 2) { format!("{second:0>2}") } else { second.to_owned() };
    Some(format!("{date} {hour:0>2}:{minute:0>2}:{second}{zone}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap()
    }

    #[test]
    fn times_are_written_and_read_back() {
        let time = at("2024-02-09 15:04:05.120");
        for (letters, pattern, text) in [
            (Letters::Java, "yyyy-MM-dd HH:mm:ss.SSS", "2024-02-09 15:04:05.120"),
            (Letters::Java, "d/M/yy h:m:s a S", "9/2/24 3:4:5 PM 1"),
            (Letters::Java, "EEEE, d MMMM yyyy 'at' HH''mm", "Friday, 9 February 2024 at 15'04"),
            (Letters::Java, "EEE MMM DDD yyyyMMddHHmmss Q", "Fri Feb 040 20240209150405 1"),
            (Letters::Java, "yyyy-MM-dd'T'HH:mmXXX xx", "2024-02-09T15:04Z +0000"),
            (Letters::MySql, "%Y-%m-%d %H:%i:%s.%f", "2024-02-09 15:04:05.120000"),
            (Letters::MySql, "%W %a %M %b %e %c %k %l %p %j %y %%", "Friday Fri February Feb 9 2 15 3 PM 040 24 %"),
            (Letters::MySql, "%r|%T", "03:04:05 PM|15:04:05"),
            (Letters::MySql, "%x-%v", "2024-06"),
        ] {
            assert_eq!(Pattern::new(pattern, letters).unwrap().format(&time, 0), text, "{pattern}");
        }
        for (letters, pattern, text, expected) in [
            (Letters::Java, "yyyy-MM-dd", "2024-02-09", "2024-02-09 00:00:00"),
            (Letters::Java, "yyyyMMddHHmmss", "20240209150405", "2024-02-09 15:04:05"),
            (Letters::Java, "d/M/yy h:mm a", "9/12/24 12:04 am", "2024-12-09 00:04:00"),
            (Letters::Java, "EEE MMM dd yyyy", "Fri feb 09 2024", "2024-02-09 00:00:00"),
            (Letters::MySql, "%Y-%m-%d %h:%i %p", "2024-2-9 3:04 PM", "2024-02-09 15:04:00"),
            (Letters::MySql, "%Y-%j", "2024-60", "2024-02-29 00:00:00"),
            (Letters::MySql, "%H:%i:%s.%f", "1:02:03.5", "1970-01-01 01:02:03.5"),
        ] {
            let (found, offset) = Pattern::new(pattern, letters).unwrap().parse(text).expect(text);
            assert_eq!((found, offset), (at(expected), None), "{pattern} {text}");
        }
        let zoned = Pattern::new("yyyy-MM-dd HH:mm XXX", Letters::Java).unwrap();
        assert_eq!(zoned.parse("2024-01-01 00:00 +05:30").unwrap().1, Some(19_800));
        assert_eq!(zoned.format(&time, -3600), "2024-02-09 15:04 -01:00");
    }

    #[test]
    fn what_does_not_follow_is_none_and_what_means_nothing_an_error() {
        for (letters, pattern, text) in [
            (Letters::Java, "yyyy-MM-dd", "2024-2-9"),
            (Letters::Java, "yyyy-MM-dd", "2024-02-30"),
            (Letters::Java, "yyyy-MM-dd", "2024-02-09 "),
            (Letters::Java, "yyyy-MM-dd", "é024-02-09"),
            (Letters::Java, "HH:mm", "24:00"),
            (Letters::Java, "hh a", "13 PM"),
            (Letters::Java, "XXX", "+ab"),
            (Letters::MySql, "%Y", ""),
        ] {
            assert_eq!(Pattern::new(pattern, letters).unwrap().parse(text), None, "{pattern} {text}");
        }
        for (letters, pattern) in [(Letters::Java, "yyyy-ww"), (Letters::Java, "'open"), (Letters::MySql, "%U"), (Letters::MySql, "100%")] {
            assert!(Pattern::new(pattern, letters).is_err(), "{pattern}");
        }
    }

    #[test]
    fn times_are_completed_and_other_text_is_not() {
        for (text, expected) in [
            ("2024-1-5", Some("2024-01-05")),
            ("2024-01-05T9:30", Some("2024-01-05 09:30:00")),
            ("2024-01-05 09:30:07.25", Some("2024-01-05 09:30:07.25")),
            ("2024-01-05 09:30+02:00", Some("2024-01-05 09:30:00+02:00")),
            ("2024-01-05 09:30 Europe/Berlin", Some("2024-01-05 09:30:00 Europe/Berlin")),
            ("2024-01-05 9", None),
            ("2024", None),
            ("12024-01-05", None),
            ("now", None),
            ("2024-01-05 09:30:00:00", None),
        ] {
            assert_eq!(completed_time(text).as_deref(), expected, "{text}");
        }
    }
}
