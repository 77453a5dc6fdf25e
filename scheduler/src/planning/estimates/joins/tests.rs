use super::*;

/// A column of numbers from 1 in a table with so many rows.
fn numbers(greatest: f64, rows: f64) -> ColumnEstimate {
    let key = if greatest == rows { Key::Surely } else { Key::No };
    ColumnEstimate {
        distinct: greatest.min(rows).max(1.0),
        range: Some((1.0, greatest)),
        is_discrete: true,
        key,
        ..ColumnEstimate::unknown(&DataType::Int64, rows)
    }
}

fn table(columns: &[ColumnEstimate]) -> Estimate {
    Estimate { rows: columns[0].rows, columns: columns.to_vec() }
}

fn rows(left: &[ColumnEstimate], right: &[ColumnEstimate], filter: Option<f64>, join_type: JoinType) -> f64 {
    let keys: Vec<_> = left.iter().cloned().zip(right.iter().cloned()).collect();
    joined(&table(left), &table(right), &keys, filter, join_type).rows
}

#[test]
fn a_join_on_two_columns_has_the_rows_of_the_table_that_refers_to_the_other() {
    let (lines, parts_of_suppliers) = (6e6, 8e5);
    let line = [numbers(2e5, lines), numbers(1e4, lines)];
    let part_of_supplier = [numbers(2e5, parts_of_suppliers), numbers(1e4, parts_of_suppliers)];
    for (left, right) in [(&line, &part_of_supplier), (&part_of_supplier, &line)] {
        assert_eq!(rows(left, right, None, JoinType::Inner), lines);
    }
    // One of two columns leaves more.
    assert_eq!(rows(&line[..1], &part_of_supplier[..1], None, JoinType::Inner), lines * parts_of_suppliers / 2e5);
    assert_eq!(rows(&line, &part_of_supplier, None, JoinType::Left), lines);
    assert_eq!(rows(&part_of_supplier, &line, None, JoinType::Left), lines);
}

#[test]
fn rows_that_may_have_no_partner_are_a_share_but_never_none() {
    let (orders, customers) = ([numbers(1500.0, 15_000.0)], [numbers(1500.0, 1500.0)]);
    use JoinType as J;
    for (join_type, expected) in [
        (J::LeftSemi, 15_000.0),
        (J::LeftAnti, 7500.0),
        (J::RightSemi, 1500.0),
        (J::RightAnti, 750.0),
        (J::LeftMark, 15_000.0),
        (J::RightMark, 1500.0),
        (J::Right, 15_000.0),
        (J::Full, 15_000.0),
    ] {
        assert_eq!(rows(&orders, &customers, None, join_type), expected, "{join_type}");
    }
    let few = [ColumnEstimate { distinct: 1.0, is_counted: true, ..numbers(1.0, 2.0) }];
    assert_eq!(rows(&few, &customers, Some(0.2), JoinType::LeftAnti), 1.0);
    // What had no rows gets none.
    let none = table(&[numbers(0.0, 0.0)]);
    for join_type in [J::Inner, J::LeftSemi, J::LeftAnti, J::Left] {
        let keys = [(none.columns[0].clone(), customers[0].clone())];
        assert_eq!(joined(&none, &table(&customers), &keys, None, join_type).rows, 0.0, "{join_type}");
    }
}

#[test]
fn rows_without_a_partner_have_no_values_of_the_other_side() {
    let (orders, customers) = (table(&[numbers(1500.0, 15_000.0)]), table(&[numbers(1500.0, 1500.0)]));
    let keys = [(orders.columns[0].clone(), customers.columns[0].clone())];
    let nulls =
        |join_type| joined(&orders, &customers, &keys, None, join_type).columns.iter().map(|column| column.nulls).collect::<Vec<_>>();
    assert_eq!(nulls(JoinType::Inner), [0.0, 0.0]);
    assert_eq!(nulls(JoinType::Left), [0.0, ANTI_MIN]);
    assert_eq!(nulls(JoinType::Right), [ANTI_MIN, 0.0]);
    assert_eq!(nulls(JoinType::Full), [ANTI_MIN, ANTI_MIN]);
}

#[test]
fn a_join_of_which_nothing_is_known_has_the_rows_of_the_larger_table() {
    let unknown = |rows| ColumnEstimate::unknown(&DataType::Utf8, rows);
    assert_eq!(rows(&[unknown(1e5)], &[unknown(1e5)], None, JoinType::Inner), 1e5);
    assert_eq!(rows(&[unknown(1e6)], &[unknown(5e5)], None, JoinType::Inner), 1e6);
}

#[test]
fn rows_may_refer_to_parts_of_a_table_that_are_left_out() {
    let orders = table(&[ColumnEstimate { key: Key::Perhaps, ..numbers(6000.0, 200.0) }]);
    let lines = table(&[numbers(6000.0, 6001.0)]);
    let rows = |orders: &Estimate| {
        let keys = [(orders.columns[0].clone(), lines.columns[0].clone())];
        joined(orders, &lines, &keys, None, JoinType::Inner).rows
    };
    assert_eq!((rows(&orders), rows(&orders.clone().of_part(1500.0))), (6001.0, 200.0 * 6001.0 / 1500.0));
}
