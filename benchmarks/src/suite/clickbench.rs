//! Page views of many web sites in one wide table, in the shape of ClickBench's `hits`: invented values with its habits, such as few sites that
//! have most of the views, empty search phrases and long addresses.

use crate::generate::{Generated, below, noise, unit, zipf};

/// Rows at scale 1, a tenth of the original's.
const ROWS: f64 = 1e7;
/// 2013-07-01, in days since 1970.
const FIRST_DAY: u64 = 15_887;
const DAYS: u64 = 31;
const WORDS: [&str; 24] = [
    "travel", "winter", "garden", "online", "music", "recipe", "market", "video", "photo", "weather", "cheap", "school", "museum",
    "football", "kitchen", "history", "camera", "ticket", "flower", "doctor", "bicycle", "puzzle", "river", "news",
];
const MODELS: [&str; 8] = ["Pine 3", "Pine 4", "Maple S", "Oak", "Birch 10", "Willow", "Cedar Mini", "Elm"];

/// The tables.
pub static TABLES: [Generated; 1] = [Generated {
    name: "hits",
    key: None,
    rows: |scale| (ROWS * scale) as u64,
    columns: |rows| {
        let second = |row| FIRST_DAY * 86_400 + row * DAYS * 86_400 / rows.total.max(1);
        let site = |row| zipf(1, row, 6_000, 1.2);
        let user = |row| noise(2, zipf(3, row, 1 + rows.total / 6, 0.7)) >> 2;
        vec![
            ("watch_id", rows.long(|row| noise(4, row) >> 1)),
            ("event_time", rows.time(|row| second(row) as i64)),
            ("event_date", rows.date(|row| (second(row) / 86_400) as i32)),
            ("counter_id", rows.int(site)),
            ("client_ip", rows.int(|row| noise(5, user(row)) >> 33)),
            ("region_id", rows.int(|row| zipf(6, user(row), 9_000, 1.1))),
            ("user_id", rows.long(user)),
            ("os", rows.int(|row| zipf(7, user(row), 90, 1.3))),
            ("is_refresh", rows.int(|row| u64::from(below(8, row, 100) < 12))),
            ("is_link", rows.int(|row| u64::from(below(9, row, 100) < 4))),
            ("is_download", rows.int(|row| u64::from(below(10, row, 1000) < 6))),
            ("dont_count_hits", rows.int(|row| u64::from(below(11, row, 100) < 9))),
            ("traffic_source_id", rows.int(|row| below(12, row, 12))),
            ("search_engine_id", rows.int(|row| if searched(row) { 1 + zipf(13, row, 90, 1.5) } else { 0 })),
            ("search_phrase", rows.text(|row| if searched(row) { phrase(14, zipf(15, row, 1_000_000, 0.9)) } else { String::new() })),
            ("adv_engine_id", rows.int(|row| if below(16, row, 100) < 2 { 1 + zipf(17, row, 60, 1.4) } else { 0 })),
            ("mobile_phone", rows.int(|row| if mobile(user(row)) { 1 + below(18, user(row), 80) } else { 0 })),
            ("mobile_phone_model", rows.text(|row| if mobile(user(row)) { model(user(row)) } else { String::new() })),
            ("resolution_width", rows.int(|row| 800 + 40 * below(20, user(row), 46))),
            ("window_client_width", rows.int(|row| 600 + below(21, row, 1400))),
            ("window_client_height", rows.int(|row| 300 + below(22, row, 900))),
            ("url", rows.text(|row| url(site(row), page(row)))),
            ("url_hash", rows.long(|row| noise(23, (site(row) << 32) | page(row)) >> 1)),
            ("title", rows.text(|row| format!("{} - site {}", phrase(24, page(row)), site(row)))),
            (
                "referer",
                rows.text(|row| if below(25, row, 100) < 20 { String::new() } else { url(zipf(26, row, 6_000, 1.2), page(row) / 3) }),
            ),
            ("price", rows.double(|row| (unit(27, row) * 1e4).floor() / 100.0)),
        ]
    },
}];

fn searched(row: u64) -> bool {
    below(30, row, 100) < 13
}

fn mobile(user: u64) -> bool {
    below(31, user, 100) < 10
}

fn model(user: u64) -> String {
    MODELS[zipf(32, user, MODELS.len() as u64, 1.3) as usize].into()
}

/// The page of a site that a view is of.
fn page(row: u64) -> u64 {
    zipf(33, row, 200_000, 1.1)
}

fn url(site: u64, page: u64) -> String {
    let scheme = if site.is_multiple_of(3) { "https" } else { "http" };
    format!("{scheme}://site{site}.example/{}/{}/{page}?from={}", word(34, page), word(35, page), site % 17)
}

/// Some words that belong to a number.
fn phrase(column: u64, number: u64) -> String {
    (0..2 + below(column, number, 4)).map(|place| word(column + 1000 * (place + 1), number)).collect::<Vec<_>>().join(" ")
}

fn word(column: u64, number: u64) -> &'static str {
    WORDS[below(column, number, WORDS.len() as u64) as usize]
}
