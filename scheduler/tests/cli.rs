//! The scheduler binary as operators and `windlass up` see it: configuration, ports, exit codes, how it ends.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(20);

fn scheduler(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass-scheduler"));
    command
        .args(["--flight-port=0", "--internal-port=0", "--http-port=0", "--anonymous", "--announce", "--exit-with-parent"])
        .arg("--data-dir")
        .arg(data_dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The announced addresses of a scheduler that starts: flight, internal, http.
fn announced(child: &mut Child) -> Vec<String> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("ready"), "{line}");
    ["flight=", "internal=", "http="].map(|name| words.next().and_then(|word| word.strip_prefix(name)).unwrap().to_owned()).to_vec()
}

/// Exit code and standard error of a process that ends soon.
fn end(mut child: Child) -> (Option<i32>, String) {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            let mut stderr = String::new();
            child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            return (status.code(), stderr);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    panic!("still running after {PATIENCE:?}");
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn terminate(child: &Child) {
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn it_announces_its_ports_and_stops_on_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = scheduler(dir.path()).spawn().unwrap();
    let addresses = announced(&mut child);
    let [flight, internal, http] = addresses.as_slice() else { panic!("{addresses:?}") };
    for address in [flight, internal] {
        TcpStream::connect(address).unwrap();
    }
    assert!(get(http, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(http, "/readyz").starts_with("HTTP/1.1 503"), "no executor is there");
    let metrics = get(http, "/metrics");
    assert!(metrics.contains("windlass_slots 0") && metrics.contains("windlass_executors{state=\"ACTIVE\"} 0"), "{metrics}");
    assert!(dir.path().join("catalog.sqlite").is_file());

    let (code, stderr) = end(scheduler(dir.path()).spawn().unwrap());
    assert_eq!(code, Some(1), "one scheduler per data directory: {stderr}");
    assert!(stderr.contains("another scheduler uses it"), "{stderr}");

    terminate(&child);
    assert_eq!(end(child).0, Some(0));
    let mut again = scheduler(dir.path()).spawn().unwrap();
    announced(&mut again);
    terminate(&again);
    assert_eq!(end(again).0, Some(0), "the data directory is free again");
}

#[test]
fn it_ends_with_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = scheduler(dir.path()).spawn().unwrap();
    announced(&mut child);
    assert_eq!(child.try_wait().unwrap(), None);
    drop(child.stdin.take());
    assert_eq!(end(child).0, Some(0));
}

#[test]
fn wrong_settings_are_usage_errors() {
    let run = |arguments: &[&str], variable: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_windlass-scheduler")).args(arguments).env(variable, "1").output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {variable}: {stderr}");
        assert!(output.stdout.is_empty());
        stderr
    };
    assert!(run(&[], "X").contains("--anonymous"), "nobody could connect");
    assert!(run(&["--anonymous"], "WINDLASS_SCHEDULER_GUARD__BYTES").contains("bytes"));
    assert!(run(&["--anonymous", "--flight-host=0.0.0.0"], "X").contains("allow_anonymous"));
    assert!(run(&["--anonymous", "--internal-host=0.0.0.0"], "X").contains("insecure_network"));
    assert!(run(&["--config=/none.toml"], "X").contains("/none.toml"));
}
