//! Functions of text, regular expressions and URLs as Hive, Spark and Presto spell them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, ListBuilder, StringArray, StringBuilder};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, exec_err};
use datafusion::functions::regex::compile_and_cache_regex;
use datafusion::logical_expr::ScalarUDF;
use url::Url;

use super::kernel::{Call, Kernel, TEXT, is_integer, is_text};
use crate::evolution::list_type;

/// Decimal places that a number can be written with.
const PLACES_MAX: i64 = 350;

/// All of them.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    let kernels = [
        Kernel {
            name: "presto_split",
            aliases: &[],
            takes: "text, what stands between its parts, and perhaps how many parts there may be",
            coerce: two_texts_and_number,
            returns: |_| texts(),
            run: split,
        },
        Kernel {
            name: "hive_split",
            aliases: &["regexp_split"],
            takes: "text, a regular expression of what stands between its parts, and perhaps how many parts there may be",
            coerce: two_texts_and_number,
            returns: |_| texts(),
            run: split_by_regex,
        },
        Kernel {
            name: "locate",
            aliases: &[],
            takes: "what is looked for, text, and perhaps the place to begin at",
            coerce: two_texts_and_number,
            returns: |_| DataType::Int32,
            run: locate,
        },
        Kernel {
            name: "space",
            aliases: &[],
            takes: "a number of spaces",
            coerce: |types| matches!(types, [count] if is_integer(count)).then(|| vec![DataType::Int64]),
            returns: |_| DataType::Utf8,
            run: |call| {
                let spaces = call.integers(0)?.iter().map(|count| Some(" ".repeat(usize::try_from(count?).unwrap_or(0))));
                Ok(Arc::new(spaces.collect::<StringArray>()))
            },
        },
        Kernel {
            name: "format_number",
            aliases: &[],
            takes: "a number and how many decimal places it shall have",
            coerce: |types| match types {
                [number, places] if (number.is_numeric() || number.is_null()) && is_integer(places) => {
                    Some(vec![DataType::Float64, DataType::Int64])
                }
                _ => None,
            },
            returns: |_| DataType::Utf8,
            run: format_number,
        },
        Kernel {
            name: "presto_substr",
            aliases: &[],
            takes: "text, the place to begin at, and perhaps a number of characters",
            coerce: text_and_place,
            returns: |_| DataType::Utf8,
            run: |call| substr(call, presto_range),
        },
        Kernel {
            name: "hive_substr",
            aliases: &[],
            takes: "text, the place to begin at, and perhaps a number of characters",
            coerce: text_and_place,
            returns: |_| DataType::Utf8,
            run: |call| substr(call, hive_range),
        },
        Kernel {
            name: "presto_regexp_extract",
            aliases: &[],
            takes: "text, a regular expression and perhaps the number of a group",
            coerce: two_texts_and_number,
            returns: |_| DataType::Utf8,
            run: |call| regexp_extract(call, 0, None),
        },
        Kernel {
            name: "hive_regexp_extract",
            aliases: &[],
            takes: "text, a regular expression and perhaps the number of a group",
            coerce: two_texts_and_number,
            returns: |_| DataType::Utf8,
            run: |call| regexp_extract(call, 1, Some("")),
        },
        Kernel {
            name: "presto_regexp_extract_all",
            aliases: &[],
            takes: "text, a regular expression and perhaps the number of a group",
            coerce: two_texts_and_number,
            returns: |_| texts(),
            run: |call| regexp_extract_all(call, 0),
        },
        Kernel {
            name: "hive_regexp_extract_all",
            aliases: &[],
            takes: "text, a regular expression and perhaps the number of a group",
            coerce: two_texts_and_number,
            returns: |_| texts(),
            run: |call| regexp_extract_all(call, 1),
        },
        Kernel {
            name: "regexp_replace_all",
            aliases: &[],
            takes: "text, a regular expression and perhaps what is put in place of each match",
            coerce: |types| {
                let texts = matches!(types.len(), 2 | 3) && types.iter().all(is_text);
                texts.then(|| vec![TEXT; types.len()])
            },
            returns: |_| DataType::Utf8,
            run: regexp_replace_all,
        },
        Kernel {
            name: "hamming_distance",
            aliases: &[],
            takes: "two texts of one length",
            coerce: |types| (types.len() == 2 && types.iter().all(is_text)).then(|| vec![TEXT; 2]),
            returns: |_| DataType::Int64,
            run: hamming_distance,
        },
        Kernel {
            name: "mask",
            aliases: &[],
            takes: "text, and perhaps what stands for capital letters, small letters, digits and all else",
            coerce: |types| ((1..=5).contains(&types.len()) && types.iter().all(is_text)).then(|| vec![TEXT; types.len()]),
            returns: |_| DataType::Utf8,
            run: mask,
        },
        Kernel {
            name: "sentences",
            aliases: &[],
            takes: "text",
            coerce: one_text,
            returns: |_| list_type(list_type(DataType::Utf8)),
            run: sentences,
        },
        url("url_extract_protocol", |call| urls(call, |url| Some(url.scheme().to_owned()))),
        url("url_extract_host", |call| urls(call, |url| url.host_str().map(str::to_owned))),
        url("url_extract_path", |call| urls(call, |url| Some(url.path().to_owned()))),
        url("url_extract_query", |call| urls(call, |url| url.query().map(str::to_owned))),
        url("url_extract_fragment", |call| urls(call, |url| url.fragment().map(str::to_owned))),
        Kernel {
            name: "url_extract_port",
            aliases: &[],
            takes: "a URL",
            coerce: one_text,
            returns: |_| DataType::Int64,
            run: |call| {
                let ports = call.text(0)?.iter().map(|url| Url::parse(url?).ok()?.port().map(i64::from));
                Ok(Arc::new(ports.collect::<Int64Array>()))
            },
        },
        Kernel {
            name: "url_extract_parameter",
            aliases: &[],
            takes: "a URL and the name of a parameter",
            coerce: |types| (types.len() == 2 && types.iter().all(is_text)).then(|| vec![TEXT; 2]),
            returns: |_| DataType::Utf8,
            run: |call| {
                let values = call.text(0)?.iter().zip(call.text(1)?).map(|(url, name)| {
                    let (url, name) = (Url::parse(url?).ok()?, name?);
                    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
                });
                Ok(Arc::new(values.collect::<StringArray>()))
            },
        },
    ];
    kernels.into_iter().map(Kernel::build).collect()
}

fn texts() -> DataType {
    list_type(DataType::Utf8)
}

fn two_texts_and_number(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [text, other] if is_text(text) && is_text(other) => Some(vec![TEXT, TEXT]),
        [text, other, number] if is_text(text) && is_text(other) && is_integer(number) => Some(vec![TEXT, TEXT, DataType::Int64]),
        _ => None,
    }
}

fn one_text(types: &[DataType]) -> Option<Vec<DataType>> {
    matches!(types, [text] if is_text(text)).then(|| vec![TEXT])
}

fn url(name: &'static str, run: fn(&Call) -> Result<ArrayRef>) -> Kernel {
    Kernel { name, aliases: &[], takes: "a URL", coerce: one_text, returns: |_| DataType::Utf8, run }
}

/// A part of each URL; NULL for text that is none.
fn urls(call: &Call, part: impl Fn(&Url) -> Option<String>) -> Result<ArrayRef> {
    let parts = call.text(0)?.iter().map(|url| part(&Url::parse(url?).ok()?));
    Ok(Arc::new(parts.collect::<StringArray>()))
}

fn text_and_place(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [text, start] if is_text(text) && is_integer(start) => Some(vec![TEXT, DataType::Int64]),
        [text, start, length] if is_text(text) && is_integer(start) && is_integer(length) => {
            Some(vec![TEXT, DataType::Int64, DataType::Int64])
        }
        _ => None,
    }
}

fn list_builder() -> ListBuilder<StringBuilder> {
    ListBuilder::new(StringBuilder::new())
}

fn append<'a>(lists: &mut ListBuilder<StringBuilder>, parts: impl IntoIterator<Item = Option<&'a str>>) {
    parts.into_iter().for_each(|part| lists.values().append_option(part));
    lists.append(true);
}

fn split(call: &Call) -> Result<ArrayRef> {
    let (texts, separators, mut lists) = (call.text(0)?, call.text(1)?, list_builder());
    for row in 0..call.rows() {
        let limit = call.integer_or(2, row, i64::MAX)?;
        match (texts.is_valid(row) && separators.is_valid(row), limit) {
            (true, Some(1..)) if separators.value(row).is_empty() => {
                return exec_err!("what stands between the parts of a text is not empty");
            }
            (true, Some(limit @ 1..)) => {
                let most = usize::try_from(limit).unwrap_or(usize::MAX);
                append(&mut lists, texts.value(row).splitn(most, separators.value(row)).map(Some));
            }
            (true, Some(limit)) => return exec_err!("a text has at least one part, not {limit}"),
            _ => lists.append_null(),
        }
    }
    Ok(Arc::new(lists.finish()))
}

fn split_by_regex(call: &Call) -> Result<ArrayRef> {
    let (texts, patterns, mut lists, mut cache) = (call.text(0)?, call.text(1)?, list_builder(), HashMap::new());
    for row in 0..call.rows() {
        let Some(limit) = call.integer_or(2, row, -1)?.filter(|_| texts.is_valid(row) && patterns.is_valid(row)) else {
            lists.append_null();
            continue;
        };
        let (text, regex) = (texts.value(row), compile_and_cache_regex(patterns.value(row), None, &mut cache)?);
        let most = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let (mut parts, mut start) = (Vec::new(), 0);
        for found in regex.find_iter(text) {
            if parts.len() + 1 >= most {
                break;
            }
            // What is empty at the beginning separates nothing.
            if found.end() > 0 {
                parts.push(Some(&text[start..found.start()]));
                start = found.end();
            }
        }
        parts.push(Some(&text[start..]));
        append(&mut lists, parts);
    }
    Ok(Arc::new(lists.finish()))
}

fn locate(call: &Call) -> Result<ArrayRef> {
    let (wanted, texts) = (call.text(0)?, call.text(1)?);
    let places = (0..call.rows()).map(|row| {
        let Some(first) = call.integer_or(2, row, 1)?.filter(|_| wanted.is_valid(row) && texts.is_valid(row)) else { return Ok(None) };
        let text = texts.value(row);
        let place = usize::try_from(first).ok().filter(|first| *first > 0).and_then(|first| {
            let mut starts = text.char_indices().map(|(start, _)| start).chain([text.len()]);
            let start = starts.nth(first - 1)?;
            let found = text[start..].find(wanted.value(row))?;
            Some(first + text[start..start + found].chars().count())
        });
        Ok(Some(place.map_or(0, |place| i32::try_from(place).unwrap_or(i32::MAX))))
    });
    Ok(Arc::new(places.collect::<Result<Int32Array>>()?))
}

/// In how many places two texts differ. Errors: texts of different lengths.
fn hamming_distance(call: &Call) -> Result<ArrayRef> {
    let distances = call.text(0)?.iter().zip(call.text(1)?).map(|(one, other)| {
        let Some((one, other)) = one.zip(other) else { return Ok(None) };
        let (mut ones, mut others, mut distance) = (one.chars(), other.chars(), 0);
        loop {
            match (ones.next(), others.next()) {
                (Some(one), Some(other)) => distance += i64::from(one != other),
                (None, None) => return Ok(Some(distance)),
                _ => return exec_err!("'hamming_distance' takes two texts of one length"),
            }
        }
    });
    Ok(Arc::new(distances.collect::<Result<Int64Array>>()?))
}

/// As in Spark: what stands for a kind of letters is one letter, and NULL keeps them.
fn mask(call: &Call) -> Result<ArrayRef> {
    let letter = |index: usize, row: usize, default| {
        if !call.has(index) {
            return Ok(default);
        }
        let Some(text) = call.text_or(index, row, "")? else { return Ok(None) };
        let mut letters = text.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) => Ok(Some(letter)),
            _ => exec_err!("what 'mask' puts in place of a letter is one letter, not '{text}'"),
        }
    };
    let texts = call.text(0)?;
    let masked = (0..call.rows()).map(|row| {
        let (upper, lower, digit, other) =
            (letter(1, row, Some('X'))?, letter(2, row, Some('x'))?, letter(3, row, Some('n'))?, letter(4, row, None)?);
        let masked = |letter: char| match letter {
            _ if letter.is_uppercase() => upper,
            _ if letter.is_lowercase() => lower,
            _ if letter.is_numeric() => digit,
            _ => other,
        };
        Ok(texts.is_valid(row).then(|| texts.value(row).chars().map(|letter| masked(letter).unwrap_or(letter)).collect::<String>()))
    });
    Ok(Arc::new(masked.collect::<Result<StringArray>>()?))
}

/// The words of each sentence. A sentence ends with `.`, `!` or `?` before a space or the end; a word is letters and digits, and what joins
/// them.
fn sentences(call: &Call) -> Result<ArrayRef> {
    let texts = call.text(0)?;
    let mut lists = ListBuilder::new(list_builder());
    for row in 0..call.rows() {
        if texts.is_null(row) {
            lists.append_null();
            continue;
        }
        let mut words = texts.value(row).split_whitespace().peekable();
        let mut sentence = Vec::new();
        while let Some(word) = words.next() {
            let parts = word.split(|letter: char| !letter.is_alphanumeric() && !matches!(letter, '\'' | '’' | '_' | '.'));
            let parts = parts.map(|part| part.trim_matches(|letter: char| !letter.is_alphanumeric())).filter(|part| !part.is_empty());
            sentence.extend(parts.map(Some));
            let quoted = word.trim_end_matches(['"', '\'', ')', '”', '’']);
            if (quoted.ends_with(['.', '!', '?']) || words.peek().is_none()) && !sentence.is_empty() {
                append(lists.values(), sentence.drain(..));
            }
        }
        lists.append(true);
    }
    Ok(Arc::new(lists.finish()))
}

fn format_number(call: &Call) -> Result<ArrayRef> {
    let (numbers, places) = (call.array(0).as_primitive::<Float64Type>(), call.integers(1)?);
    let formatted = numbers.iter().zip(places).map(|(number, places)| {
        let (number, places) = (number?, usize::try_from(places?.min(PLACES_MAX)).ok()?);
        let text = format!("{number:.places$}");
        let (digits, fraction) = text.split_once('.').map_or((text.as_str(), None), |(digits, fraction)| (digits, Some(fraction)));
        let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
        if !number.is_finite() {
            return Some(text);
        }
        let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect::<Vec<_>>().join(",");
        Some(fraction.map_or_else(|| format!("{sign}{groups}"), |fraction| format!("{sign}{groups}.{fraction}")))
    });
    Ok(Arc::new(formatted.collect::<StringArray>()))
}

/// Which of so many characters a start and a length mean.
fn presto_range(count: i64, start: i64, length: i64) -> Range<i64> {
    let first = match start {
        1.. => start - 1,
        0 => return 0..0,
        _ => count.saturating_add(start),
    };
    if first < 0 { 0..0 } else { first..first.saturating_add(length) }
}

fn hive_range(count: i64, start: i64, length: i64) -> Range<i64> {
    let first = match start {
        1.. => start - 1,
        0 => 0,
        _ => count.saturating_add(start),
    };
    first..first.saturating_add(length)
}

fn substr(call: &Call, range: fn(i64, i64, i64) -> Range<i64>) -> Result<ArrayRef> {
    let (texts, starts) = (call.text(0)?, call.integers(1)?);
    let parts = (0..call.rows()).map(|row| {
        let length = call.integer_or(2, row, i64::MAX)?.filter(|_| texts.is_valid(row) && starts.is_valid(row));
        let Some(length) = length else { return Ok(None) };
        let text = texts.value(row);
        let count = if text.is_ascii() { text.len() } else { text.chars().count() } as i64;
        let range = range(count, starts.value(row), length);
        let (first, end) = (range.start.clamp(0, count) as usize, range.end.clamp(0, count) as usize);
        if first >= end {
            return Ok(Some(""));
        }
        if text.is_ascii() {
            return Ok(Some(&text[first..end]));
        }
        let mut places = text.char_indices().map(|(place, _)| place).chain([text.len()]);
        let from = places.nth(first).unwrap_or(text.len());
        let to = places.nth(end - first - 1).unwrap_or(text.len());
        Ok(Some(&text[from..to]))
    });
    Ok(Arc::new(parts.collect::<Result<StringArray>>()?))
}

/// A group of the first match. `default` is the group if none is named, `absent` what stands for no match.
fn regexp_extract(call: &Call, default: i64, absent: Option<&'static str>) -> Result<ArrayRef> {
    let (texts, patterns, mut cache) = (call.text(0)?, call.text(1)?, HashMap::new());
    let mut found = StringBuilder::new();
    for row in 0..call.rows() {
        let Some(group) = call.integer_or(2, row, default)?.filter(|_| texts.is_valid(row) && patterns.is_valid(row)) else {
            found.append_null();
            continue;
        };
        let regex = compile_and_cache_regex(patterns.value(row), None, &mut cache)?;
        let group = existing_group(group, regex.captures_len(), patterns.value(row))?;
        let captures = regex.captures(texts.value(row));
        found.append_option(captures.and_then(|captures| captures.get(group)).map(|found| found.as_str()).or(absent));
    }
    Ok(Arc::new(found.finish()))
}

/// A group of every match.
fn regexp_extract_all(call: &Call, default: i64) -> Result<ArrayRef> {
    let (texts, patterns, mut lists, mut cache) = (call.text(0)?, call.text(1)?, list_builder(), HashMap::new());
    for row in 0..call.rows() {
        let Some(group) = call.integer_or(2, row, default)?.filter(|_| texts.is_valid(row) && patterns.is_valid(row)) else {
            lists.append_null();
            continue;
        };
        let regex = compile_and_cache_regex(patterns.value(row), None, &mut cache)?;
        let group = existing_group(group, regex.captures_len(), patterns.value(row))?;
        append(&mut lists, regex.captures_iter(texts.value(row)).map(|captures| captures.get(group).map(|found| found.as_str())));
    }
    Ok(Arc::new(lists.finish()))
}

fn existing_group(group: i64, groups: usize, pattern: &str) -> Result<usize> {
    match usize::try_from(group) {
        Ok(group) if group < groups => Ok(group),
        _ => exec_err!("'{pattern}' has {} groups, and group {group} is asked for", groups - 1),
    }
}

fn regexp_replace_all(call: &Call) -> Result<ArrayRef> {
    let (texts, patterns, mut cache) = (call.text(0)?, call.text(1)?, HashMap::new());
    let mut replaced = StringBuilder::new();
    for row in 0..call.rows() {
        let Some(replacement) = call.text_or(2, row, "")?.filter(|_| texts.is_valid(row) && patterns.is_valid(row)) else {
            replaced.append_null();
            continue;
        };
        let regex = compile_and_cache_regex(patterns.value(row), None, &mut cache)?;
        replaced.append_value(regex.replace_all(texts.value(row), respelled(replacement, regex.captures_len())));
    }
    Ok(Arc::new(replaced.finish()))
}

/// A replacement of Java's as Rust spells it: `$1` takes as many digits as there are groups, `\` takes the next letter as it is.
fn respelled(replacement: &str, groups: usize) -> String {
    let mut respelled = String::with_capacity(replacement.len());
    let mut letters = replacement.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, letters.peek().copied()) {
            ('\\', Some(next)) => {
                letters.next();
                if next == '$' {
                    respelled.push('$');
                }
                respelled.push(next);
            }
            ('$', Some(digit)) if digit.is_ascii_digit() => {
                let mut group = 0;
                while let Some(digit) = letters.peek().and_then(|letter| letter.to_digit(10)) {
                    let longer = group * 10 + digit as usize;
                    if longer >= groups && group > 0 {
                        break;
                    }
                    group = longer;
                    letters.next();
                }
                respelled.push_str(&format!("${{{group}}}"));
            }
            ('$', Some('{')) => respelled.push('$'),
            ('$', _) => respelled.push_str("$$"),
            _ => respelled.push(letter),
        }
    }
    respelled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_are_java_s() {
        for (java, rust) in [("$1-$2", "${1}-${2}"), ("$12", "${1}2"), (r"\$1 \\", "$$1 \\"), ("${name}", "${name}"), ("5 $", "5 $$")] {
            assert_eq!(respelled(java, 3), rust, "{java}");
        }
    }

    #[test]
    fn characters_that_a_start_and_a_length_mean() {
        for (start, length, presto, hive) in [
            (1, 2, 0..2, 0..2),
            (0, 2, 0..0, 0..2),
            (-2, 9, 3..12, 3..12),
            (-7, 3, 0..0, -2..1),
            (i64::MAX, i64::MAX, i64::MAX - 1..i64::MAX, i64::MAX - 1..i64::MAX),
        ] {
            assert_eq!((presto_range(5, start, length), hive_range(5, start, length)), (presto, hive), "{start} {length}");
        }
    }
}
