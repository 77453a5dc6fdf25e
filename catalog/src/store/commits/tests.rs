use std::collections::BTreeMap;

use datafusion::common::ScalarValue;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::Comparison;
use crate::catalog::{
    Catalog, DEFAULT_DATABASE, KeyType, NewFile, NewPartition, NewTable, Partition, PartitionKey, TableChange, ViewDefinition,
};
use crate::commit::{BaseVersion, Refresh, WrittenFile};
use crate::store::SqliteCatalog;
use crate::store::tests::{file, key, new_table};

fn managed(name: &str, keys: Vec<PartitionKey>) -> NewTable {
    NewTable { kind: TableKind::Managed, ..new_table(name, keys) }
}

fn written(n: i32, url: &str) -> WrittenFile {
    let partition_location = format!("file:///data/t/n={n}/");
    WrittenFile { values: vec![n.into()], partition_location, file: file(url, 10, Some(2)) }
}

fn write(query_id: &str, replaces: Replaces, files: Vec<WrittenFile>) -> Write {
    Write {
        query_id: query_id.to_owned(),
        operation: "INSERT".to_owned(),
        user: "ada".to_owned(),
        replaces,
        files,
        refresh: None,
        advances: Vec::new(),
        beside: Vec::new(),
    }
}

fn intent(query_id: &str) -> WriteIntent {
    WriteIntent { query_id: query_id.to_owned(), location: "file:///data/t/".to_owned(), table_id: None }
}

fn is(n: i32) -> KeyPredicate {
    KeyPredicate::Compare(0, Comparison::Equal, n.into())
}

async fn keyed(catalog: &SqliteCatalog) -> Arc<TableMeta> {
    let table = managed("t", vec![key("n", KeyType::Int)]);
    catalog.create_table(table, Contents::default(), &"CREATE TABLE".into()).await.unwrap()
}

async fn commit(catalog: &SqliteCatalog, table: &TableMeta, write: Write) -> Result<Arc<TableMeta>> {
    catalog.begin_write(intent(&write.query_id)).await?;
    catalog.commit_write(table, write).await
}

/// URLs of the files by partition.
async fn contents(catalog: &SqliteCatalog, table: &TableMeta, predicate: &KeyPredicate) -> BTreeMap<i32, Vec<String>> {
    let scan = catalog.scan(table, predicate, None, usize::MAX).await.unwrap();
    let listed = catalog.partitions(table, predicate, usize::MAX).await.unwrap();
    assert_eq!(listed.partitions, scan.partitions);
    assert_eq!(listed.total, scan.totals.partitions);
    let mut urls = BTreeMap::<i32, Vec<String>>::new();
    for partition in &scan.partitions {
        let ScalarValue::Int32(Some(n)) = partition.values[0] else { panic!("{partition:?}") };
        let files: Vec<_> = scan.files.iter().filter(|file| file.partition_id == partition.id).collect();
        let (count, bytes) = (files.len() as u64, files.iter().map(|file| file.file.size).sum());
        assert_eq!((partition.files, partition.bytes, partition.rows), (count, bytes, Some(2 * count)), "{partition:?}");
        assert!(urls.insert(n, files.into_iter().map(|file| file.file.url.clone()).collect()).is_none());
    }
    if *predicate == KeyPredicate::All {
        let files = scan.files.len() as u64;
        let totals = Totals { partitions: scan.partitions.len() as u64, files, bytes: 10 * files, rows: Some(2 * files) };
        assert_eq!(scan.totals, totals);
    }
    urls
}

async fn urls(catalog: &SqliteCatalog, table: &TableMeta) -> Vec<(i32, String)> {
    let contents = contents(catalog, table, &KeyPredicate::All).await;
    contents.into_iter().flat_map(|(n, urls)| urls.into_iter().map(move |url| (n, url))).collect()
}

async fn garbage(catalog: &SqliteCatalog) -> BTreeMap<String, i64> {
    let listed = sqlx::query_as("SELECT url, removed_ms FROM garbage").fetch_all(&catalog.writer).await;
    listed.unwrap().into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_writers_none_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&directory.path().join("catalog.db")).await.unwrap();
    let table = keyed(&catalog).await;
    let writers = (0..20).map(|writer| {
        let (catalog, table) = (catalog.clone(), Arc::clone(&table));
        tokio::spawn(async move {
            for round in 0..5 {
                let id = format!("w{writer}r{round}");
                // Everybody finds partitions that others have made since.
                let files = (0..4).map(|n| written(n * 7 % (writer + 2), &format!("{id}-{n}"))).collect();
                commit(&catalog, &table, write(&id, Replaces::Nothing, files)).await.unwrap();
            }
        })
    });
    futures::future::join_all(writers).await.into_iter().for_each(|done| done.unwrap());
    let table = catalog.table(DEFAULT_DATABASE, "t").await.unwrap().unwrap();
    assert_eq!((table.version, urls(&catalog, &table).await.len()), (101, 400));
    assert_eq!(catalog.open_writes().await.unwrap(), []);
    let history = catalog.history(usize::MAX).await.unwrap();
    assert_eq!(history.iter().map(|commit| commit.version).collect::<Vec<_>>(), (1..=101).rev().collect::<Vec<_>>());
    assert!(history.is_sorted_by(|newer, older| newer.committed_ms >= older.committed_ms));
}

#[tokio::test]
async fn a_write_is_committed_once_or_never() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let table = keyed(&catalog).await;
    let first = write("q1", Replaces::Nothing, vec![written(1, "a"), written(2, "b")]);
    commit(&catalog, &table, first.clone()).await.unwrap();
    // The answer was lost; meanwhile others wrote.
    commit(&catalog, &table, write("q2", Replaces::Nothing, vec![written(1, "c")])).await.unwrap();
    let again = catalog.commit_write(&table, first).await.unwrap();
    assert_eq!((again.version, urls(&catalog, &again).await.len()), (3, 3));
    let history = catalog.history(1).await.unwrap().remove(0);
    assert_eq!((history.cause.user.as_str(), history.cause.query_id.as_deref()), ("ada", Some("q2")));
    assert_eq!((history.added, history.removed.unwrap().files), (Some(Amount { files: 1, bytes: 10, rows: Some(2) }), 0));

    // What was given up, or never announced, may be gone from the disk.
    let late = write("q3", Replaces::Nothing, vec![written(1, "d")]);
    assert!(matches!(catalog.commit_write(&table, late.clone()).await, Err(Error::Abandoned { .. })));
    catalog.begin_write(intent("q3")).await.unwrap();
    assert!(matches!(catalog.begin_write(intent("q3")).await, Err(Error::AlreadyExists { .. })));
    assert_eq!(catalog.open_writes().await.unwrap(), [intent("q3")]);
    catalog.abandon_write("q3").await.unwrap();
    assert!(matches!(catalog.commit_write(&table, late.clone()).await, Err(Error::Abandoned { .. })));
    assert!(matches!(catalog.create_table_as(managed("u", vec![]), None, late).await, Err(Error::Abandoned { .. })));
    let emptied = write("q3", Replaces::Table, vec![]);
    assert!(matches!(catalog.commit_write(&table, emptied).await, Err(Error::Abandoned { .. })));
    let ended: Vec<_> = catalog.ended_writes().await.unwrap().into_iter().map(|write| (write.intent.query_id, write.committed)).collect();
    assert_eq!(ended, [("q1", true), ("q2", true), ("q3", false)].map(|(id, committed)| (id.to_owned(), committed)));
    assert_eq!(catalog.open_writes().await.unwrap(), []);
    // A file that a task of a committed write has left is garbage, one that is listed is not.
    let left = ["part-q1-0", "a", "part-q9-0", "part-q3-7"].map(str::to_owned);
    assert_eq!(catalog.garbage_among(&left).await.unwrap(), [left[0].clone(), left[3].clone()].into());
    catalog.abandon_write("q1").await.unwrap();
    catalog.forget_write("q3").await.unwrap();
    assert!(catalog.ended_writes().await.unwrap().iter().all(|write| write.committed));

    // A commit that fails leaves nothing, not even the end of the write.
    let twice = write("q4", Replaces::Nothing, vec![written(1, "e"), written(1, "e")]);
    assert!(matches!(commit(&catalog, &table, twice).await, Err(Error::AlreadyExists { what: "file", .. })));
    assert_eq!((catalog.open_writes().await.unwrap().len(), urls(&catalog, &again).await.len()), (1, 3));

    let created = write("q5", Replaces::Nothing, vec![written(7, "f")]);
    catalog.begin_write(intent("q5")).await.unwrap();
    let new = managed("v", vec![key("n", KeyType::Int)]);
    let made = catalog.create_table_as(new.clone(), None, created.clone()).await.unwrap();
    assert_eq!(catalog.create_table_as(new, None, created).await.unwrap().id, made.id);
    assert_eq!(urls(&catalog, &made).await, [(7, "f".to_owned())]);
}

#[tokio::test]
async fn overwrites_replace_what_is_there_by_then() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let table = keyed(&catalog).await;
    commit(&catalog, &table, write("q0", Replaces::Nothing, (0..4).map(|n| written(n, &format!("a{n}"))).collect())).await.unwrap();
    let state = |replaces, files, id: &'static str| {
        let (catalog, table) = (&catalog, &table);
        async move { commit(catalog, table, write(id, replaces, files)).await }
    };
    let now = state(Replaces::TouchedPartitions, vec![written(1, "b1"), written(9, "b9")], "q1").await.unwrap();
    let expect = |list: &[(i32, &str)]| list.iter().map(|(n, url)| (*n, (*url).to_owned())).collect::<Vec<_>>();
    assert_eq!(urls(&catalog, &now).await, expect(&[(0, "a0"), (1, "b1"), (2, "a2"), (3, "a3"), (9, "b9")]));
    let below = KeyPredicate::Compare(0, Comparison::Less, 2.into());
    let now = state(Replaces::Partitions(below), vec![written(1, "c1")], "q2").await.unwrap();
    assert_eq!(urls(&catalog, &now).await, expect(&[(1, "c1"), (2, "a2"), (3, "a3"), (9, "b9")]));
    assert_eq!(garbage(&catalog).await.into_keys().collect::<Vec<_>>(), ["a0", "a1", "b1"]);

    // What was read must still be what is there.
    let read_version = now.version;
    let ids: BTreeMap<i32, i64> =
        catalog.partitions(&now, &KeyPredicate::All, 9).await.unwrap().partitions.into_iter().map(by_key).collect();
    let replace = |read_version, n: i32, url: &str| Replaces::Files { read_version, files: vec![(ids[&n], url.to_owned())] };
    state(Replaces::Nothing, vec![written(3, "d3")], "q3").await.unwrap();
    for (stale, id) in
        [(replace(read_version, 3, "a3"), "q4"), (replace(read_version, 1, "b1"), "q5"), (replace(read_version, 2, "zz"), "q6")]
    {
        assert!(matches!(state(stale, vec![written(3, id)], id).await, Err(Error::Conflict { .. })), "{id}");
    }
    let now = state(replace(read_version, 2, "a2"), vec![written(2, "e2"), written(5, "e5")], "q7").await.unwrap();
    assert_eq!(urls(&catalog, &now).await, expect(&[(1, "c1"), (2, "e2"), (3, "a3"), (3, "d3"), (5, "e5"), (9, "b9")]));
    let now = state(Replaces::Table, vec![], "q8").await.unwrap();
    assert_eq!((urls(&catalog, &now).await, garbage(&catalog).await.len()), (vec![], 10));

    // Files of another shape than the table has by now.
    let columns =
        catalog.change_table(&now, &"CHANGE".into(), TableChange::Columns(crate::store::tests::schema(&["a", "z"]))).await.unwrap();
    assert!(matches!(state(Replaces::Nothing, vec![written(1, "x")], "q9").await, Err(Error::Conflict { .. })));
    catalog.drop_table(&columns, &"DROP TABLE".into()).await.unwrap();
    assert!(matches!(state(Replaces::Nothing, vec![written(1, "x")], "q10").await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn overwrites_of_what_they_read_lose_no_rows_of_others() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let table = keyed(&catalog).await;
    let filled = (0..4).map(|n| written(n, &format!("a{n}"))).collect();
    let read = commit(&catalog, &table, write("q0", Replaces::Nothing, filled)).await.unwrap().version;
    let overwrite = |id: &'static str, replaces, n| {
        let (catalog, table) = (&catalog, &table);
        let replaces = Replaces::AsRead { read_version: read, partitions: Box::new(replaces) };
        async move { commit(catalog, table, write(id, replaces, vec![written(n, id)])).await }
    };
    commit(&catalog, &table, write("q1", Replaces::Nothing, vec![written(1, "b1")])).await.unwrap();
    commit(&catalog, &table, write("q2", Replaces::Partitions(is(2)), vec![])).await.unwrap();
    let kinds = |n| [Replaces::TouchedPartitions, Replaces::Partitions(is(n)), Replaces::Table];
    for (id, (n, replaces)) in [1, 2].into_iter().flat_map(|n| kinds(n).map(|replaces| (n, replaces))).enumerate() {
        let id: &str = Box::leak(format!("stale{id}").into_boxed_str());
        assert!(matches!(overwrite(id, replaces.clone(), n).await, Err(Error::Conflict { .. })), "{n} {replaces:?}");
    }
    // What others did elsewhere is nothing to it.
    overwrite("c3", Replaces::Partitions(is(3)), 3).await.unwrap();
    let now = overwrite("c0", Replaces::TouchedPartitions, 0).await.unwrap();
    let expect = [(0, "c0"), (1, "a1"), (1, "b1"), (3, "c3")];
    assert_eq!(urls(&catalog, &now).await, expect.map(|(n, url)| (n, url.to_owned())));
}

fn by_key(partition: Partition) -> (i32, i64) {
    let ScalarValue::Int32(Some(n)) = partition.values[0] else { panic!("{partition:?}") };
    (n, partition.id)
}

#[tokio::test]
async fn one_partition_takes_all_rows_without_keys_and_empty_text_is_null() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let table = catalog.create_table(managed("plain", vec![]), Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    let file_of = |values, url: &str| WrittenFile { values, partition_location: "file:///data/x/".to_owned(), file: file(url, 1, None) };
    commit(&catalog, &table, write("q1", Replaces::Nothing, vec![file_of(vec![], "a")])).await.unwrap();
    let table = commit(&catalog, &table, write("q2", Replaces::Table, vec![])).await.unwrap();
    assert_eq!(catalog.totals(&table).await.unwrap(), Totals { partitions: 1, files: 0, bytes: 0, rows: Some(0) });

    let table = managed("named", vec![key("s", KeyType::String)]);
    let table = catalog.create_table(table, Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    let text = |text: Option<&str>| vec![ScalarValue::Utf8(text.map(str::to_owned))];
    let files = vec![file_of(text(Some("")), "a"), file_of(text(None), "b"), file_of(text(Some("x")), "c")];
    let table = commit(&catalog, &table, write("q3", Replaces::Nothing, files)).await.unwrap();
    let found = catalog.scan(&table, &KeyPredicate::IsNull(0), None, 9).await.unwrap();
    assert_eq!((found.partitions.len(), found.files.len(), found.totals.partitions), (1, 2, 2));
}

#[tokio::test]
async fn external_tables_lose_files_to_overwrites_alone() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let table = new_table("e", vec![key("n", KeyType::Int)]);
    let table = catalog.create_table(table, Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    commit(&catalog, &table, write("q1", Replaces::Nothing, vec![written(1, "a"), written(2, "b")])).await.unwrap();
    let table = commit(&catalog, &table, write("q2", Replaces::TouchedPartitions, vec![written(1, "c")])).await.unwrap();
    let id = catalog.partitions(&table, &is(2), 1).await.unwrap().partitions[0].id;
    let gone = Contents { remove_partitions: vec![id], ..Contents::default() };
    let table = catalog.change_table(&table, &"DROP PARTITION".into(), TableChange::Contents(gone)).await.unwrap();
    assert_eq!(garbage(&catalog).await.into_keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(catalog.garbage_among(&["a".to_owned(), "c".to_owned()]).await.unwrap(), ["a".to_owned()].into());
    assert!(matches!(catalog.as_of(&table, Moment::Version(1)).await, Err(Error::Unsupported(_))));
    catalog.drop_table(&table, &"DROP TABLE".into()).await.unwrap();
    assert_eq!(garbage(&catalog).await.len(), 1);
}

#[tokio::test]
async fn the_history_of_a_table_outlives_it_until_it_expires() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let first = keyed(&catalog).await;
    commit(&catalog, &first, write("q1", Replaces::Nothing, vec![written(1, "a"), written(2, "b")])).await.unwrap();
    let cause = Cause { operation: "DROP TABLE".to_owned(), user: "bob".to_owned(), query_id: Some("q2".to_owned()) };
    catalog.drop_table(&first, &cause).await.unwrap();
    let second = keyed(&catalog).await;
    let mut history: Vec<_> = catalog.history(10).await.unwrap();
    history.sort_by_key(|commit| (commit.table_id, commit.version));
    let told: Vec<_> = history.iter().map(|commit| (commit.table_id, commit.version, commit.cause.operation.as_str())).collect();
    let of_first = [(first.id, 1, "CREATE TABLE"), (first.id, 2, "INSERT"), (first.id, 3, "DROP TABLE")];
    assert_eq!(told, [&of_first[..], &[(second.id, 1, "CREATE TABLE")]].concat());
    assert_eq!((&history[2].cause, history[2].removed), (&cause, Some(Amount { files: 2, bytes: 20, rows: Some(4) })));
    catalog.expire(None, history[2].committed_ms - 1, 10, false).await.unwrap();
    assert_eq!(catalog.history(10).await.unwrap().len(), 4);
    catalog.expire(None, i64::MAX, 10, false).await.unwrap();
    assert_eq!(catalog.history(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn versions_that_are_not_kept_are_errors_that_say_so() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let mut table = keyed(&catalog).await;
    for version in 2..=5 {
        let id = format!("q{version}");
        table = commit(&catalog, &table, write(&id, Replaces::Table, vec![written(1, &id)])).await.unwrap();
        at(&catalog, version).await;
    }
    let error = |moment| {
        let (catalog, table) = (&catalog, &table);
        async move { catalog.as_of(table, moment).await.unwrap_err().to_string() }
    };
    assert_eq!(error(Moment::Version(6)).await, "table 'default.t' has no version 6: the newest is 5");
    // Version 3 is what was current at that moment, and what went in it is gone.
    let dry = catalog.expire(None, 3_500, 9, true).await.unwrap();
    let expired = catalog.expire(Some(&table), 3_500, 9, false).await.unwrap();
    assert_eq!((expired.versions, &expired.files), (2, &vec!["q2".to_owned()]));
    assert_eq!(dry, expired);
    assert_eq!(
        error(Moment::Version(2)).await,
        "version 2 of table 'default.t' is not kept: the oldest that is, 3, is of 1970-01-01T00:00:03.000Z"
    );
    assert!(error(Moment::Time(2_999)).await.contains("as of 1970-01-01T00:00:02.999Z is not kept"));
    for (moment, expected) in [(Moment::Version(3), "q3"), (Moment::Time(4_999), "q4"), (Moment::Time(i64::MAX), "q5")] {
        let past = catalog.as_of(&table, moment).await.unwrap();
        assert_eq!(urls(&catalog, &past).await, [(1, expected.to_owned())]);
    }
}

/// Dates the newest change of the table `t`, and what it removed, to second `version`.
async fn at(catalog: &SqliteCatalog, version: i64) {
    let ms = version * 1000;
    for update in [
        "UPDATE commits SET committed_ms = ?1 WHERE version = ?1 / 1000",
        "UPDATE garbage SET removed_ms = ?1 WHERE removed_ms > 1000000000",
    ] {
        sqlx::query(update).bind(ms).execute(&catalog.writer).await.unwrap();
    }
}

/// A step in the life of a table. Indexes choose among what is there.
#[derive(Debug, Clone)]
enum Step {
    Insert(Vec<i32>),
    Overwrite(Vec<i32>),
    Replace(i32, Vec<i32>),
    Rewrite(Index, bool),
    Drop(Index),
    Truncate(Index),
    Move(Index, i32),
    Expire(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let keys = || prop::collection::vec(0..6i32, 0..4);
    prop_oneof![
        3 => keys().prop_map(Step::Insert),
        2 => keys().prop_map(Step::Overwrite),
        1 => (0..6i32, keys()).prop_map(|(below, keys)| Step::Replace(below, keys)),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(file, into)| Step::Rewrite(file, into)),
        1 => any::<Index>().prop_map(Step::Drop),
        1 => any::<Index>().prop_map(Step::Truncate),
        1 => (any::<Index>(), 0..6i32).prop_map(|(from, to)| Step::Move(from, to)),
        2 => any::<Index>().prop_map(Step::Expire),
    ]
}

type State = BTreeMap<i32, Vec<String>>;

/// Takes a step in the store and in the model; `None` if there was nothing to do.
async fn take(catalog: &SqliteCatalog, table: &TableMeta, step: &Step, state: &State, version: i64) -> Option<(Arc<TableMeta>, State)> {
    let id = format!("q{version}");
    let fresh = |keys: &[i32]| keys.iter().enumerate().map(|(i, n)| (*n, format!("{version}-{i}"))).collect::<Vec<_>>();
    let add = |mut state: State, files: &[(i32, String)]| {
        files.iter().for_each(|(n, url)| state.entry(*n).or_default().push(url.clone()));
        state.values_mut().for_each(|urls| urls.sort_unstable());
        state
    };
    let by_write = |replaces, files: &[(i32, String)]| write(&id, replaces, files.iter().map(|(n, url)| written(*n, url)).collect());
    let ids: BTreeMap<i32, i64> =
        catalog.partitions(table, &KeyPredicate::All, usize::MAX).await.unwrap().partitions.into_iter().map(by_key).collect();
    let pick = |index: &Index| (!state.is_empty()).then(|| *index.get(&state.keys().copied().collect::<Vec<_>>()));
    let change = |contents| async move { catalog.change_table(table, &"ALTER".into(), TableChange::Contents(contents)).await.unwrap() };
    let mut next = state.clone();
    match step {
        Step::Insert(keys) => {
            let files = fresh(keys);
            Some((commit(catalog, table, by_write(Replaces::Nothing, &files)).await.unwrap(), add(next, &files)))
        }
        Step::Overwrite(keys) => {
            let files = fresh(keys);
            files.iter().for_each(|(n, _)| drop(next.insert(*n, vec![])));
            Some((commit(catalog, table, by_write(Replaces::TouchedPartitions, &files)).await.unwrap(), add(next, &files)))
        }
        Step::Replace(below, keys) => {
            let files = fresh(&keys.iter().copied().filter(|n| n < below).collect::<Vec<_>>());
            next.retain(|n, _| n >= below);
            let predicate = KeyPredicate::Compare(0, Comparison::Less, (*below).into());
            Some((commit(catalog, table, by_write(Replaces::Partitions(predicate), &files)).await.unwrap(), add(next, &files)))
        }
        Step::Rewrite(index, into) => {
            let all: Vec<_> = state.iter().flat_map(|(n, urls)| urls.iter().map(move |url| (*n, url.clone()))).collect();
            let (n, url) = (!all.is_empty()).then(|| index.get(&all).clone())?;
            let files = if *into { fresh(&[n]) } else { vec![] };
            next.entry(n).or_default().retain(|other| *other != url);
            let replaces = Replaces::Files { read_version: table.version, files: vec![(ids[&n], url)] };
            Some((commit(catalog, table, by_write(replaces, &files)).await.unwrap(), add(next, &files)))
        }
        Step::Drop(index) => {
            let n = pick(index)?;
            next.remove(&n);
            Some((change(Contents { remove_partitions: vec![ids[&n]], ..Contents::default() }).await, next))
        }
        Step::Truncate(index) => {
            let n = pick(index)?;
            next.insert(n, vec![]);
            Some((change(Contents { empty_partitions: vec![ids[&n]], ..Contents::default() }).await, next))
        }
        Step::Move(index, to) => {
            let from = pick(index).filter(|_| !state.contains_key(to))?;
            let urls = next.remove(&from)?;
            let files: Vec<NewFile> = urls.iter().map(|url| file(url, 10, Some(2))).collect();
            let moved = NewPartition { values: vec![(*to).into()], location: String::new(), files };
            next.insert(*to, urls);
            let contents = Contents { remove_partitions: vec![ids[&from]], add_partitions: vec![moved], ..Contents::default() };
            Some((change(contents).await, next))
        }
        Step::Expire(_) => None,
    }
}

async fn live(steps: Vec<Step>) {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let mut table = keyed(&catalog).await;
    at(&catalog, 1).await;
    let mut versions = BTreeMap::from([(1, State::new())]);
    let (mut ever, mut deleted) = (HashSet::<String>::new(), HashSet::<String>::new());
    for step in steps {
        let newest = table.version;
        if let Step::Expire(index) = &step {
            // Between two versions, or at one.
            let kept = *index.get(&versions.keys().copied().collect::<Vec<_>>());
            let expired = catalog.expire(None, kept * 1000 + 500, usize::MAX, false).await.unwrap();
            catalog.forget_garbage(&expired.files).await.unwrap();
            let before = versions.len();
            versions.retain(|version, _| *version >= kept);
            assert_eq!(expired.versions as usize, before - versions.len());
            deleted.extend(expired.files);
        } else if let Some((changed, state)) = take(&catalog, &table, &step, &versions[&newest], newest + 1).await {
            (table, _) = (changed, at(&catalog, newest + 1).await);
            versions.insert(newest + 1, state);
        }
        let readable: HashSet<&String> = versions.values().flat_map(|state| state.values().flatten()).collect();
        assert!(!readable.iter().any(|url| deleted.contains(*url)), "{step:?} deleted what can be read");
        let listed = garbage(&catalog).await;
        ever.extend(readable.iter().map(|url| (*url).clone()));
        let lost: Vec<_> =
            ever.iter().filter(|url| !readable.contains(url) && !deleted.contains(*url) && !listed.contains_key(*url)).collect();
        assert!(lost.is_empty(), "nobody will delete {lost:?} after {step:?}");
        assert!(!versions[&table.version].values().flatten().any(|url| listed.contains_key(url)), "{step:?} listed what is live");
    }
    for (version, state) in &versions {
        let past = catalog.as_of(&table, Moment::Version(*version)).await.unwrap();
        assert_eq!(contents(&catalog, &past, &KeyPredicate::All).await, *state, "version {version}");
        let above = KeyPredicate::Compare(0, Comparison::Greater, 2.into());
        let state: State = state.iter().filter(|(n, _)| **n > 2).map(|(n, urls)| (*n, urls.clone())).collect();
        assert_eq!(contents(&catalog, &past, &above).await, state, "version {version}");
    }
    assert_eq!(contents(&catalog, &table, &KeyPredicate::All).await, versions[&table.version]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever happens to a table: every version reads as it was until it expires, no file that can be read is deleted, and none that
    /// cannot is forgotten.
    #[test]
    fn versions_read_as_they_were(steps in prop::collection::vec(step(), 1..24)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(live(steps));
    }
}

#[tokio::test]
async fn a_refresh_notes_what_it_read_and_is_the_only_change() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let base = keyed(&catalog).await;
    let base = commit(&catalog, &base, write("q1", Replaces::Nothing, vec![written(1, "a"), written(2, "b")])).await.unwrap();
    let refresh =
        |version| Some(Refresh { repeatable: true, bases: vec![BaseVersion { table_id: base.id, name: "default.t".to_owned(), version }] });
    let query =
        ViewDefinition { sql: "SELECT * FROM t".to_owned(), default_database: DEFAULT_DATABASE.to_owned(), dialect: Default::default() };
    let view = NewTable { kind: TableKind::MaterializedView, view: Some(query), ..new_table("v", vec![key("n", KeyType::Int)]) };
    let first = Write { refresh: refresh(base.version), ..write("q2", Replaces::Nothing, vec![]) };
    let view = catalog.create_table_as(view, None, first).await.unwrap();
    let listed = async |over: &[i64]| catalog.materialized_views(Some(over), 10).await.unwrap();
    assert!(listed(&[view.id]).await.is_empty());
    assert!(matches!(listed(&[7, base.id]).await.as_slice(), [found] if found.view.id == view.id && found.is_fresh() && found.repeatable));

    let second = commit(&catalog, &base, write("q3", Replaces::TouchedPartitions, vec![written(2, "c")])).await.unwrap();
    let added = commit(&catalog, &base, write("q4", Replaces::Nothing, vec![written(3, "d")])).await.unwrap();
    let last = commit(&catalog, &base, write("q5", Replaces::Partitions(is(3)), vec![])).await.unwrap();
    assert!(!listed(&[base.id]).await[0].is_fresh());
    let changed = async |table: &Arc<TableMeta>, since| catalog.changed_partitions(table, since).await.unwrap();
    let of = |values: &[i32]| Some(values.iter().map(|n| vec![ScalarValue::from(*n)]).collect::<Vec<_>>());
    assert_eq!(changed(&last, base.version).await, of(&[2]), "3 came and went");
    assert_eq!(changed(&last, added.version).await, of(&[3]));
    assert_eq!(changed(&last, last.version).await, of(&[]));
    let then = Arc::new(TableMeta { as_of: Some(second.version), ..last.as_ref().clone() });
    assert_eq!((changed(&then, base.version).await, changed(&then, second.version).await), (of(&[2]), of(&[])));
    assert_eq!(changed(&last, 1000).await, None);

    let again = |query_id| Write { refresh: refresh(last.version), ..write(query_id, Replaces::Table, vec![]) };
    commit(&catalog, &view, again("q6")).await.unwrap();
    assert!(listed(&[base.id]).await[0].is_fresh());
    assert!(matches!(commit(&catalog, &view, again("q7")).await, Err(Error::Conflict { .. })), "the view was refreshed meanwhile");
    catalog.drop_table(&last, &"DROP TABLE".into()).await.unwrap();
    assert!(!listed(&[base.id]).await[0].is_fresh());
}
