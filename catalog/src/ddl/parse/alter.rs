//! Tables, views and partitions that are changed.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::super::cursor::Cursor;
use super::super::statement::{Alteration, ColumnChange, DdlStatement, NewPartitionSpec, Noun, RefreshView, RepairMode, TableName};
use super::create::{column, columns};
use super::{Result, condition, noun, partition_values, properties, property_name, table_name};

/// What follows `ALTER TABLE` and its like.
pub(super) fn alter(c: &mut Cursor<'_>, noun: Noun) -> Result<DdlStatement> {
    let table = table_name(c)?;
    if noun == Noun::MaterializedView && c.eat("REBUILD") {
        return Ok(DdlStatement::Refresh(RefreshView { view: table, full: false }));
    }
    if noun == Noun::Table && c.eat("RECOVER PARTITIONS") {
        return Ok(DdlStatement::Repair { table, mode: RepairMode::Add });
    }
    let alteration = if c.eat("RENAME TO") {
        Alteration::Rename(table_name(c)?)
    } else if c.eat("SET TBLPROPERTIES") {
        Alteration::SetProperties(properties(c)?)
    } else if c.eat("UNSET TBLPROPERTIES") {
        let if_exists = c.eat("IF EXISTS");
        Alteration::UnsetProperties { names: c.list(property_name)?, if_exists }
    } else if noun == Noun::MaterializedView {
        return Err(c.expected("RENAME TO, SET TBLPROPERTIES, UNSET TBLPROPERTIES or REBUILD"));
    } else if noun == Noun::View {
        if !c.eat("AS") {
            return Err(c.expected("AS, RENAME TO, SET TBLPROPERTIES or UNSET TBLPROPERTIES"));
        }
        Alteration::Query { query: c.query()?, dialect: c.dialect() }
    } else {
        alter_table(c)?
    };
    Ok(DdlStatement::Alter { table, noun, alteration })
}

/// `COMMENT ON TABLE t IS 'text'`
pub(super) fn comment_on(c: &mut Cursor<'_>) -> Result<DdlStatement> {
    let comment = |c: &mut Cursor<'_>| {
        c.expect("IS")?;
        if c.eat("NULL") { Ok(None) } else { c.string("the comment in quotes").map(Some) }
    };
    if let Some(noun) = noun(c) {
        let table = table_name(c)?;
        return Ok(DdlStatement::Alter { table, noun, alteration: Alteration::Comment(comment(c)?) });
    }
    if !c.eat("COLUMN") {
        return Err(c.unsupported("only tables, views and columns can be commented on"));
    }
    let mut parts = vec![c.identifier("a table name")?];
    while parts.len() < 4 && c.eat_token(&Token::Period) {
        parts.push(c.identifier("a column name")?);
    }
    let (Some(column), Some(name)) = (parts.pop().filter(|_| !parts.is_empty()), parts.pop()) else {
        return Err(c.expected("table.column"));
    };
    let database = parts.pop();
    let table = TableName { catalog: parts.pop(), database, name };
    let change = ColumnChange { column, name: None, data_type: None, comment: Some(comment(c)?) };
    Ok(DdlStatement::Alter { table, noun: Noun::Table, alteration: Alteration::ChangeColumn(change) })
}

/// Hive's `CHANGE [COLUMN] a b type [COMMENT 'text']`; Spark's `ALTER COLUMN a {COMMENT 'text' | TYPE type}`; `RENAME COLUMN a TO b`.
fn change_column(c: &mut Cursor<'_>) -> Result<Alteration> {
    let rename = c.eat("RENAME COLUMN");
    let hive = !rename && c.eat("CHANGE");
    if !rename && !hive {
        c.expect("ALTER")?;
    }
    c.eat("COLUMN");
    let mut change = ColumnChange { column: c.identifier("a column name")?, name: None, data_type: None, comment: None };
    if rename {
        c.expect("TO")?;
        change.name = Some(c.identifier("a column name")?);
    } else if c.is("COMMENT") && matches!(c.nth(1), Token::SingleQuotedString(_)) {
        change.comment = c.comment_clause()?.map(Some);
    } else if hive {
        let new = column(c)?;
        change.name = Some(new.name).filter(|name| *name != change.column);
        change.data_type = Some(new.data_type);
        change.comment = new.comment.map(Some);
    } else if c.eat_any(&["TYPE", "SET DATA TYPE"]) {
        change.data_type = Some(c.data_type()?);
    } else {
        return Err(c.expected("COMMENT or TYPE"));
    }
    if c.is_any(&["FIRST", "AFTER"]) {
        return Err(c.unsupported("columns cannot change places: name them in the order you want in SELECT"));
    }
    let _ = c.eat_any(&["CASCADE", "RESTRICT"]);
    Ok(Alteration::ChangeColumn(change))
}

fn alter_table(c: &mut Cursor<'_>) -> Result<Alteration> {
    if c.is("PARTITION") {
        let values = partition_values(c)?;
        if c.eat("SET LOCATION") {
            return Ok(Alteration::SetPartitionLocation { values, location: c.string("a location in quotes")? });
        }
        if c.eat("RENAME TO") {
            return Ok(Alteration::RenamePartition { from: values, to: partition_values(c)? });
        }
        return Err(c.unsupported("of a partition only SET LOCATION and RENAME TO PARTITION are supported"));
    }
    if c.is_any(&["CHANGE", "RENAME COLUMN", "ALTER COLUMN"]) {
        return change_column(c);
    }
    if c.eat("SET LOCATION") {
        return c.string("a location in quotes").map(Alteration::SetLocation);
    }
    if c.eat_any(&["ADD COLUMNS", "ADD COLUMN"]) {
        let columns = if matches!(c.nth(0), Token::LParen) { columns(c)? } else { vec![column(c)?] };
        c.eat("CASCADE");
        c.eat("RESTRICT");
        return Ok(Alteration::AddColumns(columns));
    }
    if c.is_any(&["ADD PARTITION", "ADD IF NOT EXISTS"]) {
        c.expect("ADD")?;
        let if_not_exists = c.eat("IF NOT EXISTS");
        let mut partitions = vec![new_partition(c)?];
        while c.eat_token(&Token::Comma) || c.is("PARTITION") {
            partitions.push(new_partition(c)?);
        }
        return Ok(Alteration::AddPartitions { if_not_exists, partitions });
    }
    if c.is_any(&["DROP PARTITION", "DROP IF EXISTS PARTITION"]) {
        c.expect("DROP")?;
        let if_exists = c.eat("IF EXISTS");
        let mut specs = Vec::new();
        while specs.is_empty() || c.eat_token(&Token::Comma) {
            c.expect("PARTITION")?;
            specs.push(c.list(condition)?);
        }
        c.eat("PURGE");
        return Ok(Alteration::DropPartitions { if_exists, specs });
    }
    if c.is_any(&["DROP", "REPLACE", "RENAME", "ALTER", "SET", "CLUSTERED", "EXCHANGE", "TOUCH", "ARCHIVE", "COMPACT"]) {
        return Err(c.unsupported(format!(
            "ALTER TABLE ... {} {} is not supported: partitions can be added, dropped, moved and renamed, columns added and widened, comments, \
             properties, location and name changed",
            c.nth(0),
            c.nth(1)
        )));
    }
    Err(c.expected("ADD, DROP, CHANGE, RENAME TO, SET, UNSET, PARTITION or RECOVER PARTITIONS"))
}

/// `PARTITION (k = v, ...) [LOCATION '...']`
fn new_partition(c: &mut Cursor<'_>) -> Result<NewPartitionSpec> {
    let values = partition_values(c)?;
    let location = if c.eat("LOCATION") { Some(c.string("a location in quotes")?) } else { None };
    Ok(NewPartitionSpec { values, location })
}
