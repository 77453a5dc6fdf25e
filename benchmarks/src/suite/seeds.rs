//! An advertising platform and a table of flights, as teams run them on Hive layouts: impressions by day with a hundred columns, clicks that
//! follow some of them, and flights by year.

use arrow::array::ArrayRef;

use crate::generate::{Generated, Key, Rows, below, noise, unit, zipf};

/// Rows at scale 1.
const IMPRESSIONS: f64 = 3e6;
const FLIGHTS: f64 = 5e6;
/// One click follows this many impressions.
const IMPRESSIONS_PER_CLICK: u64 = 20;
const CAMPAIGNS: u64 = 200;
const ADS: u64 = 5_000;
const USERS: u64 = 200_000;
/// 2026-06-01, in days since 1970.
const FIRST_DAY: i64 = 20_605;
const DAYS: u64 = 30;
const AIRPORTS: [&str; 24] = [
    "ANC", "ATL", "AUS", "BOS", "BWI", "DEN", "DFW", "DTW", "EWR", "HNL", "IAH", "JFK", "LAS", "LAX", "MCO", "MIA", "MSP", "ORD", "PDX",
    "PHL", "PHX", "SEA", "SFO", "SLC",
];
const CARRIERS: [&str; 9] = ["AA", "AS", "CO", "DL", "HA", "NW", "TW", "UA", "WN"];
/// Dimensions of an impression that no query asks for, or one at a time.
static DIMENSIONS: [&str; 90] = {
    macro_rules! dimensions {
        ($($tens:literal)*) => { [$(
            concat!("dim_", $tens, "0"), concat!("dim_", $tens, "1"), concat!("dim_", $tens, "2"), concat!("dim_", $tens, "3"),
            concat!("dim_", $tens, "4"), concat!("dim_", $tens, "5"), concat!("dim_", $tens, "6"), concat!("dim_", $tens, "7"),
            concat!("dim_", $tens, "8"), concat!("dim_", $tens, "9"),
        )*] };
    }
    dimensions!("0" "1" "2" "3" "4" "5" "6" "7" "8")
};

const EVENT_DATE: Key = Key { name: "event_date", sql_type: "date", values: DAYS, value: |day| format!("2026-06-{:02}", day + 1) };

/// The tables.
pub static TABLES: [Generated; 4] = [
    Generated { name: "impressions", key: Some(EVENT_DATE), rows: impressions, columns: impression_columns },
    Generated {
        name: "clicks",
        key: Some(EVENT_DATE),
        rows: |scale| impressions(scale) / IMPRESSIONS_PER_CLICK,
        columns: |rows| {
            let total = rows.total * IMPRESSIONS_PER_CLICK;
            let shown = |row| row * IMPRESSIONS_PER_CLICK + below(31, row, IMPRESSIONS_PER_CLICK);
            vec![
                ("click_id", rows.long(|row| row)),
                ("user_id", rows.int(|row| user(shown(row)))),
                ("campaign_id", rows.int(|row| campaign(ad(shown(row))))),
                // Some come too late to count, the last of a day stay in its directory.
                (
                    "event_time",
                    rows.time(|row| {
                        let shown = time(shown(row), total);
                        (shown + below(32, row, 2_700) as i64).min(shown - shown.rem_euclid(86_400) + 86_399)
                    }),
                ),
                ("price", rows.double(|row| (unit(33, row) * 500.0).floor() / 100.0)),
            ]
        },
    },
    Generated {
        name: "campaigns",
        key: None,
        rows: |_| CAMPAIGNS,
        columns: |rows| {
            vec![
                ("campaign_id", rows.int(|row| row)),
                ("campaign", rows.text(|row| format!("campaign {row:03}"))),
                ("advertiser", rows.text(|row| format!("advertiser {:02}", row % 40))),
                ("budget", rows.double(|row| 1_000.0 + below(41, row, 9_000) as f64)),
            ]
        },
    },
    Generated {
        name: "flights",
        key: Some(Key { name: "year", sql_type: "int", values: 22, value: |year| (1987 + year).to_string() }),
        rows: |scale| (FLIGHTS * scale) as u64,
        columns: |rows| {
            let origin = |row| zipf(51, row, 24, 1.1);
            let delay = |row| 5 * (zipf(53, row, 60, 1.2)) + below(54, row, 5);
            vec![
                ("month", rows.int(|row| 1 + below(55, row, 12))),
                ("day", rows.int(|row| 1 + below(56, row, 28))),
                ("carrier", rows.text(|row| CARRIERS[below(57, row, 9) as usize].into())),
                ("flight_number", rows.int(|row| 1 + below(58, row, 7_000))),
                ("origin", rows.text(|row| AIRPORTS[origin(row) as usize].into())),
                ("dest", rows.text(|row| AIRPORTS[((origin(row) + 1 + below(52, row, 23)) % 24) as usize].into())),
                ("distance", rows.int(|row| 100 + below(59, row, 2_600))),
                ("departure_delay", rows.int(delay)),
                ("arrival_delay", rows.int(|row| delay(row) + below(60, row, 20))),
                ("cancelled", rows.int(|row| u64::from(below(61, row, 100) < 2))),
            ]
        },
    },
];

/// As many on each day, and as many of them before each click.
fn impressions(scale: f64) -> u64 {
    let unit = DAYS * IMPRESSIONS_PER_CLICK;
    ((IMPRESSIONS * scale) as u64 / unit).max(1) * unit
}

fn impression_columns(rows: &Rows) -> Vec<(&'static str, ArrayRef)> {
    let mut columns = vec![
        ("auction_id", rows.long(|row| noise(21, row) >> 1)),
        ("ad_id", rows.text(|row| format!("ad-{:05}", ad(row)))),
        ("campaign_id", rows.int(|row| campaign(ad(row)))),
        ("user_id", rows.int(user)),
        ("event_time", rows.time(|row| time(row, rows.total))),
        ("impressions", rows.long(|row| 1 + below(22, row, 4))),
        ("bid", rows.double(|row| (unit(23, row) * 1e4).floor() / 1e4)),
    ];
    for (number, name) in (100..).zip(DIMENSIONS) {
        // Of few and of many values.
        columns.push((name, rows.int(move |row| below(number, row, 3 << (number % 12)))));
    }
    columns
}

fn ad(impression: u64) -> u64 {
    zipf(1, impression, ADS, 1.1)
}

fn campaign(ad: u64) -> u64 {
    ad % CAMPAIGNS
}

fn user(impression: u64) -> u64 {
    zipf(2, impression, USERS, 0.6)
}

/// Seconds since 1970, in the order of the rows: those that the key deals to a day are of that day.
fn time(impression: u64, total: u64) -> i64 {
    FIRST_DAY * 86_400 + (u128::from(impression) * u128::from(DAYS * 86_400) / u128::from(total.max(1))) as i64
}
