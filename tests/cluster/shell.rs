//! The `windlass` command as a user runs it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use windlass_tests::Cluster;
use windlass_tests::cluster::{Options, binary};

fn windlass(arguments: &[&str]) -> (Option<i32>, String, String) {
    windlass_as(None, arguments)
}

fn windlass_as(password: Option<&str>, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary("windlass"));
    command.args(arguments).env_remove("WINDLASS_PASSWORD").env_remove("WINDLASS_USER").stdin(Stdio::null());
    let output = command.envs(password.map(|password| ("WINDLASS_PASSWORD", password))).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_from_the_command_line_print_rows_and_exit_codes() {
    let cluster = Cluster::start(1).await;
    let sql = |arguments: &[&str]| windlass(&[&["sql", cluster.uri()], arguments].concat());

    let (code, out, err) = sql(&["-c", "SELECT 1 AS one, 'a,b' AS text, NULL AS nothing; SELECT 2 AS two"]);
    assert_eq!((code, out.as_str()), (Some(0), "one,text,nothing\n1,\"a,b\",\ntwo\n2\n"), "{err}");
    let (_, out, _) = sql(&["--format", "json", "-c", "SELECT 1 AS one, 'é' AS text"]);
    assert_eq!(out, "{\"one\":1,\"text\":\"é\"}\n");
    let (_, out, _) = sql(&["--format", "tsv", "-c", "SELECT 1 AS one, 'b' AS text"]);
    assert_eq!(out, "one\ttext\n1\tb\n");
    let (_, out, _) = sql(&["--format", "markdown", "-c", "SELECT 1 AS one"]);
    assert!(out.contains("| one |") && out.contains("| ---"), "{out}");
    let (_, out, _) = sql(&["--format", "vertical", "-c", "SELECT 1 AS one"]);
    assert!(out.contains("one") && out.contains('1'), "{out}");

    let (code, _, err) = sql(&["-c", "SELECT x FROM nowhere"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("nowhere' does not exist\n1 | SELECT x FROM nowhere\n  |               ^"), "{err}");
    let (code, _, err) = sql(&["-c", "SELECT\n\t'表', 1 +  "]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("\n2 | \t'表', 1 +\n  | \t         ^"), "{err}");
    let (code, ..) = windlass(&["sql", "--no-such-flag"]);
    assert_eq!(code, Some(2));
    let (code, _, err) = windlass(&["sql", "grpc://127.0.0.1:1", "-c", "SELECT 1"]);
    assert_eq!(code, Some(3));
    assert!(err.contains("hint: nothing listens there"), "{err}");

    let file = cluster.data().join("out.parquet");
    let (code, _, err) = sql(&["-o", file.to_str().unwrap(), "-c", "SELECT * FROM (VALUES (1), (2)) AS t (n)"]);
    assert_eq!(code, Some(0), "{err}");
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(file).unwrap()).unwrap();
    assert_eq!(reader.build().unwrap().map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);
}

#[test]
fn the_demo_runs_all_queries_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (code, out, err) = windlass(&["demo", "--exit", "--scale", "0.01", "--data-dir", directory.path().to_str().unwrap()]);
    assert_eq!(code, Some(0), "{err}");
    assert!((1..=22).all(|query| out.contains(&format!("q{query:02}"))), "{out}");
    assert!(out.contains("up --data-dir") && out.contains("adbc_driver_flightsql"), "{out}");
    let (code, out, _) = windlass(&["doctor"]);
    assert_eq!(code, Some(0), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_a_password_and_an_authority_open_a_tls_cluster() {
    let cluster = Cluster::start_as(Options { users: vec![("ann", "right horse")], tls: true, ..Options::default() }).await;
    let address = cluster.uri().strip_prefix("grpc+tls://").unwrap();
    let authority = Cluster::authority();
    let authority = authority.to_str().unwrap();
    let (named, anonymous, plain) = (format!("grpc+tls://ann@{address}"), format!("grpc+tls://{address}"), format!("grpc://ann@{address}"));
    let sql = |password, arguments: &[&str]| windlass_as(password, &[&["sql", "-c", "SELECT 42 AS answer"], arguments].concat());

    let right = Some("right horse");
    for arguments in [&[named.as_str(), "--ca", authority][..], &[&anonymous, "--user", "ann", "--tls-ca", authority]] {
        let (code, out, err) = sql(right, arguments);
        assert_eq!((code, out.as_str()), (Some(0), "answer\n42\n"), "{arguments:?}: {err}");
    }
    let with_password = format!("grpc+tls://ann:secret@{address}");
    for (password, arguments, exit, says) in [
        (Some("wrong"), &[named.as_str(), "--ca", authority][..], 3, "wrong user name or password"),
        (right, &[&anonymous, "--ca", authority], 3, "hint: name a user with --user"),
        (right, &[&named], 3, "hint: name the PEM file"),
        (right, &[&plain], 3, "hint: if the server speaks TLS, try grpc+tls://"),
        (right, &[&with_password, "--ca", authority], 2, "WINDLASS_PASSWORD"),
        (right, &[&named, "--ca", "no-such.pem"], 1, "no-such.pem"),
    ] {
        let (code, _, err) = sql(password, arguments);
        assert_eq!(code, Some(exit), "{arguments:?}: {err}");
        assert!(err.contains(says) && !err.contains("secret"), "{arguments:?}: {err}");
    }
}

/// Process id of a child by the start of its name, which the system cuts at 15 characters.
fn child(parent: u32, name: &str) -> Option<i32> {
    let parent = parent.to_string();
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let (pid, own) = head.split_once(" (")?;
        let mut fields = tail.split(' ');
        (own == name && fields.next()? != "Z" && fields.next()? == parent).then(|| pid.parse().ok())?
    })
}

#[test]
fn up_starts_executors_again_and_ends_with_the_scheduler() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary("windlass"));
    command.args(["up", "--executors", "1", "--data-dir"]).arg(directory.path());
    let mut up = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(up.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready grpc://"), "{line}");
    let stop = |name| {
        let pid = child(up.id(), name).unwrap_or_else(|| panic!("no {name}"));
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        pid
    };

    let first = stop("windlass-execut");
    let deadline = Instant::now() + Duration::from_secs(30);
    while child(up.id(), "windlass-execut").is_none_or(|pid| pid == first) {
        assert!(Instant::now() < deadline, "the executor is not started again");
        std::thread::sleep(Duration::from_millis(50));
    }
    stop("windlass-schedu");
    let mut said = String::new();
    up.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(up.wait().unwrap().code(), Some(128 + 9), "{said}");
    assert!(said.contains("executor-1 was killed by signal 9") && said.contains("it is started again in 0.5 s"), "{said}");
    assert!(said.contains("error: scheduler was killed by signal 9; its log"), "{said}");
}
