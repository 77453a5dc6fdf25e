//! The executor binary as operators and `windlass up` see it: configuration, exit codes, how it ends.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a process that should end may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Nothing listens there, and connecting is refused at once.
const NOWHERE: &str = "127.0.0.1:1";

fn executor(work_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass-executor"));
    command.args(["--port=0", "--grpc-port=0", "--http-port=0", "--allow-location=/tmp", "--slots=1", "--memory-limit-bytes=67108864"]);
    command.arg("--work-dir").arg(work_dir).args(["--scheduler", NOWHERE]);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
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
    panic!("still running after {PATIENCE:?}: {}", text(&child.wait_with_output().unwrap().stderr));
}

#[test]
fn flags_win_over_variables_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("executor.toml");
    std::fs::write(&file, "slots = 2\nport = 2\nhttp_port = 2\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass-executor"));
    command.arg("--config").arg(&file).args(["--print-config", "--slots=4"]);
    let Output { status, stdout, stderr } =
        command.env("WINDLASS_EXECUTOR_SLOTS", "3").env("WINDLASS_EXECUTOR_PORT", "3").output().unwrap();
    assert!(status.success(), "{}", text(&stderr));
    let lines: Vec<_> = text(&stdout).lines().map(str::to_owned).collect();
    for line in ["slots = 4", "port = 3", "http_port = 2", "grpc_port = 31341"] {
        assert!(lines.iter().any(|found| found == line), "{line} in {lines:?}");
    }
}

#[test]
fn wrong_settings_are_usage_errors() {
    let run = |arguments: &[&str], variable: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_windlass-executor")).args(arguments).env(variable, "1").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {variable}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
        text(&output.stderr)
    };
    assert!(run(&["--no-such-flag"], "X").contains("--no-such-flag"));
    assert!(run(&[], "WINDLASS_EXECUTOR_SLOT").contains("slot"));
    assert!(run(&["--config=/none.toml"], "X").contains("/none.toml"));
    assert!(run(&["--bind-host=0.0.0.0", "--allow-location=/tmp"], "X").contains("insecure_network"));
    assert!(run(&["--allow-location=ftp://host/lake"], "X").contains("ftp"));
    assert!(run(&["--allow-location=/tmp", "--log-filter=a=b=c"], "X").contains("log.filter"));
}

#[test]
fn an_absent_scheduler_is_worth_another_try() {
    let dir = tempfile::tempdir().unwrap();
    let child = executor(dir.path()).arg("--scheduler-wait-s=1").stderr(Stdio::piped()).spawn().unwrap();
    let (code, stderr) = end(child);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains(NOWHERE), "{stderr}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn it_ends_with_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = executor(dir.path()).arg("--exit-with-parent").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().unwrap(), None, "it waits for the scheduler");
    drop(child.stdin.take());
    let (code, stderr) = end(child);
    assert_eq!(code, Some(0), "{stderr}");
}
