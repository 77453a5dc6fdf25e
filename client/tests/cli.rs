//! The command line without a cluster: usage, exit codes, help.

use std::process::{Command, Output};

fn windlass(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_windlass"))
        .args(arguments)
        .env_remove("WINDLASS_PASSWORD")
        .output()
        .expect("the program is built and starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_names_the_commands_and_exit_codes() {
    let output = windlass(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    for word in ["up", "sql", "demo", "doctor", "130 cancelled"] {
        assert!(help.contains(word), "{word} in:\n{help}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [&["spin"][..], &["up", "--executors", "0"], &["sql", "--format", "xml"], &["sql", "localhost:1", "-c", "select 1"]] {
        let output = windlass(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn no_answer_exits_with_3_and_names_the_address() {
    // The port of a listener that is gone.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let uri = format!("grpc://{free}");
    let output = windlass(&["sql", &uri, "-c", "select 1"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).starts_with(&format!("error: cannot talk to '{uri}': ")), "{}", said(&output));
}

#[test]
fn a_missing_script_exits_with_1_and_is_named() {
    let output = windlass(&["sql", "grpc://127.0.0.1:1", "-f", "no/such.sql"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("read 'no/such.sql'"), "{}", said(&output));
}
