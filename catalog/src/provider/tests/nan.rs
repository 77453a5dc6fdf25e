//! Floating point numbers are compared in every way; files, row groups and pages that are left out hold nothing that is wanted.

use parquet::file::properties::EnabledStatistics;

use super::*;

/// Numbers that seem random.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    fn number(&mut self, near: f64) -> Option<f64> {
        match self.below(12) {
            0 => None,
            // Where zeros of both signs come in turn, sorts and their limits may differ: these hold them equal.
            1 => Some(self.one_of(&[f64::NAN, -f64::NAN, -0.0, f64::INFINITY, f64::NEG_INFINITY])),
            _ => Some(near + self.below(4) as f64),
        }
    }

    fn literal(&mut self) -> String {
        let near = self.below(24) as f64;
        match self.number(near) {
            Some(number) if number.is_nan() && number.is_sign_negative() => "-CAST('NaN' AS DOUBLE)".to_owned(),
            Some(number) => format!("CAST('{number}' AS DOUBLE)"),
            None => "CAST(NULL AS DOUBLE)".to_owned(),
        }
    }

    fn condition(&mut self, depth: usize) -> String {
        let column = self.one_of(&["d", "f", "CAST(d AS REAL)", "CAST(f AS DOUBLE)", "d + 1"]);
        let [a, b, c] = [(); 3].map(|()| self.literal());
        let op = self.one_of(&["<", "<=", "=", "<>", ">=", ">", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]);
        let condition = match self.below(if depth == 0 { 8 } else { 11 }) {
            0 => format!("{column} BETWEEN {a} AND {b}"),
            1 => format!("{column} NOT BETWEEN {a} AND {b}"),
            2 => format!("{column} IN ({a}, {b}, {c}, 3)"),
            3 => format!("{column} NOT IN ({a}, {b})"),
            4 => format!("{column} IS {}NULL", self.one_of(&["", "NOT "])),
            5 => format!("CAST(d AS VARCHAR) {op} '{}'", self.one_of(&["NaN", "0.0", "12.0"])),
            8 => format!("{} AND {}", self.condition(depth - 1), self.condition(depth - 1)),
            9 => format!("{} OR {}", self.condition(depth - 1), self.condition(depth - 1)),
            10 => format!("NOT {}", self.condition(depth - 1)),
            _ => format!("{column} {op} {a}"),
        };
        format!("({condition})")
    }
}

/// Several files of several row groups of several pages, each with numbers that lie together, apart from some. Also as table `memory`.
async fn numbers(warehouse: &Warehouse, random: &mut Random) -> Files {
    const FILES: usize = 4;
    const ROWS: usize = 60;
    let files = Files::new();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(20))
        .set_data_page_row_count_limit(5)
        .set_write_batch_size(5)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_dictionary_enabled(random.below(2) == 0)
        .build();
    let mut batches = Vec::new();
    for file in 0..FILES {
        let near = |row: usize| (1 + file * 6 + row / 20 * 2) as f64;
        let ids = longs((file * ROWS) as i64..((file + 1) * ROWS) as i64);
        let doubles: ArrayRef = Arc::new((0..ROWS).map(|row| random.number(near(row))).collect::<Float64Array>());
        let singles: ArrayRef = Arc::new((0..ROWS).map(|row| random.number(near(row)).map(|n| n as f32)).collect::<Float32Array>());
        let columns = vec![("id", ids), ("d", doubles), ("f", singles)];
        files.write_with(&format!("{file}.parquet"), columns.clone(), properties.clone());
        let columns = columns.into_iter().map(|(name, column)| (name, column, true));
        batches.push(RecordBatch::try_from_iter_with_nullable(columns).unwrap());
    }
    warehouse.register("memory", Arc::new(MemTable::try_new(batches[0].schema(), vec![batches]).unwrap()));
    files
}

#[tokio::test]
async fn nan_is_compared_as_in_memory() {
    for seed in 1..=6 {
        let random = &mut Random(0x9e37_79b9_7f4a_7c15 >> seed);
        let warehouse = Warehouse::new().await;
        let files = numbers(&warehouse, random).await;
        let found = files.find(Layout::Inferred, None).await.unwrap();
        let kind = random.one_of(&[TableKind::External, TableKind::Managed]);
        warehouse.create("t", kind, &files, found).await;
        let decoding = format!("SET datafusion.execution.parquet.pushdown_filters = {}", seed % 2 == 0);
        warehouse.session.sql(&decoding).await.unwrap().collect().await.unwrap();
        for _ in 0..60 {
            let condition = random.condition(2);
            let order = format!(
                "ORDER BY {} {} NULLS {}, id LIMIT {}",
                random.one_of(&["d", "f"]),
                random.one_of(&["ASC", "DESC"]),
                random.one_of(&["FIRST", "LAST"]),
                1 + random.below(9)
            );
            let sql = match random.below(6) {
                0 => "SELECT min(d) AS a, max(d) AS b, min(f) AS c, max(f) AS d FROM t".to_owned(),
                1 => format!("SELECT count(*) AS a, count(d) AS b, min(d) AS c, max(d) AS d FROM t WHERE {condition}"),
                2 => format!("SELECT a.id, b.id FROM t a JOIN (SELECT id, d FROM t WHERE {condition}) b ON a.d = b.d"),
                3 => format!("SELECT id, d, f FROM t WHERE {condition} {order}"),
                4 => format!("SELECT id, d, f FROM t {order}"),
                _ => format!("SELECT id, d, f FROM t WHERE {condition}"),
            };
            let found = warehouse.rows(&sql).await;
            let want = warehouse.rows(&sql.replace("FROM t", "FROM memory")).await;
            assert_eq!(found.unwrap(), want.unwrap(), "seed {seed}: {sql}");
        }
    }
}
