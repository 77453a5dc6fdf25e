//! How our processes start and end: ports, signals, parents and exit codes.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How a binary ended; scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Asked to stop, and stopped.
    Ok = 0,
    /// Anything not listed here.
    Failed = 1,
    /// Flags or configuration are wrong: trying again will not help.
    Usage = 2,
    /// Another process cannot be reached: trying again may help.
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a process should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM or SIGINT: finish what runs.
    Signal,
    /// Whoever started us is gone, and with it the cluster: stop at once.
    Orphaned,
}

/// Listens for SIGTERM and SIGINT from now on; the future waits for one, or, with `exit_with_parent`, until standard input ends.
///
/// A parent that holds the other end of our standard input need not outlive a crash to stop us: the kernel closes the pipe.
/// Errors: the process cannot listen for signals.
pub fn stop_requested(exit_with_parent: bool) -> std::io::Result<impl Future<Output = Stop>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let orphaned = async move {
        match exit_with_parent {
            true => stdin_ended().await,
            false => std::future::pending().await,
        }
    };
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => Stop::Signal,
            _ = interrupt.recv() => Stop::Signal,
            () = orphaned => Stop::Orphaned,
        }
    })
}

/// On a thread of its own: a blocked read on a runtime's thread would keep that runtime from shutting down.
async fn stdin_ended() {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let mut ignored = [0; 256];
        while std::io::stdin().read(&mut ignored).is_ok_and(|count| count > 0) {}
        let _waiter_may_be_gone = ended.send(());
    });
    let _ends_when_sent_or_dropped = end.await;
}

/// A free port of `host`, for servers that must be told a number before they bind.
pub fn reserve_port(host: IpAddr) -> std::io::Result<u16> {
    Ok(TcpListener::bind(SocketAddr::new(host, 0))?.local_addr()?.port())
}

/// An error with its causes on one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
