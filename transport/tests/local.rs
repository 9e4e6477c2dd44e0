//! Workers as real processes: started, ended, crashed, silent, orphaned, interrupted.
//!
//! Every process here is this test binary again. A worker runs the test `as_a_worker`, and an ordinary program that starts
//! a worker runs `as_a_parent`; in the ordinary run of the tests both do nothing. Whether a process is gone is seen by the
//! TCP connection it holds to the test, which the system closes with it: nothing has to be polled.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests, also where a helper has no #[test] on it")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio, exit};
use std::time::Duration;

use aqueduct_transport::local::{self, Options, Process, SpawnError};
use aqueduct_transport::{Authority, Identity};
use serde::{Deserialize, Serialize};

/// What a worker of these tests does.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Role {
    /// Reports, then waits without ever asking whether it should stop.
    Serve,
    /// Reports, waits until it should stop, ends with 5.
    Finish,
    /// Reports, is told to stop, and goes on.
    Deaf,
    /// Reports, then keeps its only thread busy for ever.
    Busy,
    /// Reports between two lines of output.
    Talk,
    /// Reports, then ends with 7.
    Fail,
    /// Ends with 7 without a report.
    Crash,
    /// Never reports.
    Silent,
}

#[derive(Debug, Serialize, Deserialize)]
struct Job {
    role: Role,
    /// Where to connect, so that somebody sees this process end. It is also what the worker reports.
    observer: SocketAddr,
}

#[test]
fn as_a_worker() {
    let Some(worker) = local::worker().unwrap() else { return };
    let job: Job = worker.payload().unwrap();
    assert_eq!(worker.identity().cluster(), "test");
    let _presence = TcpStream::connect(job.observer).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = || worker.report(job.observer).unwrap();
    match job.role {
        Role::Serve => {
            report();
            runtime.block_on(std::future::pending::<()>());
        }
        Role::Finish => {
            let mut stop = worker.report_with_stop(job.observer).unwrap();
            runtime.block_on(stop.requested());
            exit(5);
        }
        Role::Deaf => {
            let mut stop = worker.report_with_stop(job.observer).unwrap();
            runtime.block_on(stop.requested());
            runtime.block_on(std::future::pending::<()>());
        }
        Role::Busy => {
            report();
            runtime.block_on(async {
                loop {
                    std::hint::spin_loop();
                }
            });
        }
        Role::Talk => {
            println!("before");
            let mut stop = worker.report_with_stop(job.observer).unwrap();
            println!("after");
            runtime.block_on(stop.requested());
            print!("and no newline at the end");
            io::stdout().flush().unwrap();
            exit(0);
        }
        Role::Fail => {
            report();
            exit(7);
        }
        Role::Crash => exit(7),
        Role::Silent => runtime.block_on(std::future::pending::<()>()),
    }
}

/// An ordinary program that starts a worker: told by its environment what to do.
#[test]
fn as_a_parent() {
    let (Ok(what), Ok(observer)) = (std::env::var("TEST_PARENT"), std::env::var("TEST_OBSERVER")) else { return };
    let observer = observer.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match &*what {
            "unclaimed" => {
                let error = start(Role::Serve, observer).await.unwrap_err();
                exit(if matches!(error, SpawnError::Unclaimed) { 0 } else { 1 });
            }
            "output" => {
                let (job, options) = (Job { role: Role::Talk, observer }, options().quiet(false));
                let process = local::spawn(&identity(), &job, &options).await.unwrap();
                process.shutdown(PATIENCE).await.unwrap();
                exit(0);
            }
            "hold" => {
                let _process = start(Role::Busy, observer).await.unwrap();
                println!("started");
                std::future::pending::<()>().await;
            }
            "interrupted" => {
                let mut interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).unwrap();
                let process = start(Role::Finish, observer).await.unwrap();
                println!("started");
                interrupts.recv().await.unwrap();
                exit(process.shutdown(PATIENCE).await.unwrap().code().unwrap_or(1));
            }
            other => panic!("no such parent: {other}"),
        }
    });
}

#[tokio::test]
async fn a_worker_ends_with_success_when_asked() {
    let observer = Observer::new();
    let process = start(Role::Serve, observer.address()).await.unwrap();
    assert_eq!(process.address(), observer.address());
    assert_eq!(process.node(), "worker-1");
    assert_ne!(process.id(), std::process::id());
    let status = process.shutdown(PATIENCE).await.unwrap();
    assert!(status.success(), "{status}");
    observer.sees_the_end();
}

#[tokio::test]
async fn a_worker_that_waits_for_the_request_finishes_by_itself() {
    let observer = Observer::new();
    let process = start(Role::Finish, observer.address()).await.unwrap();
    assert_eq!(process.shutdown(PATIENCE).await.unwrap().code(), Some(5));
}

#[tokio::test]
async fn a_worker_that_does_not_finish_is_killed_after_the_grace() {
    let observer = Observer::new();
    let process = start(Role::Deaf, observer.address()).await.unwrap();
    let status = process.shutdown(Duration::from_millis(50)).await.unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
    observer.sees_the_end();
}

#[tokio::test]
async fn an_unexpected_end_is_noticed() {
    let observer = Observer::new();
    let mut process = start(Role::Fail, observer.address()).await.unwrap();
    assert_eq!(process.exited().await.unwrap().code(), Some(7));
    assert_eq!(process.exited().await.unwrap().code(), Some(7));
    assert_eq!(process.shutdown(PATIENCE).await.unwrap().code(), Some(7));
}

#[tokio::test]
async fn a_crash_before_the_report_is_an_error_with_the_status() {
    let observer = Observer::new();
    let error = start(Role::Crash, observer.address()).await.unwrap_err();
    assert_eq!(error.to_string(), "worker worker-1 ended before it reported its address: exit status: 7");
    assert!(matches!(error, SpawnError::Ended { status, .. } if status.code() == Some(7)));
}

#[tokio::test]
async fn a_worker_that_never_reports_is_an_error_and_gone() {
    let observer = Observer::new();
    let job = Job { role: Role::Silent, observer: observer.address() };
    let options = options().report_timeout(Duration::from_secs(1));
    let error = local::spawn(&identity(), &job, &options).await.unwrap_err();
    assert_eq!(error.to_string(), "worker worker-1 did not report its address within 1s");
    observer.sees_the_end();
}

#[tokio::test]
async fn a_dropped_worker_is_killed() {
    let observer = Observer::new();
    let process = start(Role::Busy, observer.address()).await.unwrap();
    // Even one that cannot notice the end of its input.
    let stop = format!("kill -s STOP {}", process.id());
    assert!(Command::new("sh").args(["-c", &stop]).status().unwrap().success());
    drop(process);
    observer.sees_the_end();
}

#[tokio::test]
async fn sixteen_workers_start_at_once() {
    let observer = Observer::new();
    let address = observer.address();
    let authority = Authority::dev("test").unwrap();
    let mut starting = tokio::task::JoinSet::new();
    for n in 0..16 {
        let identity = authority.issue(&format!("worker-{n}")).unwrap();
        starting.spawn(async move {
            local::spawn(&identity, &Job { role: Role::Serve, observer: address }, &options()).await.unwrap()
        });
    }
    let processes = starting.join_all().await;
    let mut nodes: Vec<_> = processes.iter().map(|process| process.node().to_owned()).collect();
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes.len(), 16);
    for process in processes {
        assert!(process.shutdown(PATIENCE).await.unwrap().success());
    }
}

#[test]
fn a_busy_worker_ends_when_its_parent_is_killed() {
    let observer = Observer::new();
    let mut parent = Parent::start("hold", &observer);
    parent.says("started");
    parent.0.kill().unwrap();
    assert_eq!(parent.0.wait().unwrap().signal(), Some(9));
    observer.sees_the_end();
}

#[test]
fn a_worker_whose_parent_goes_before_the_credentials_ends() {
    for sent in [&b""[..], b"\0\0", b"\0\0\x01\0and then not all of it"] {
        let mut worker = this_program("as_a_worker")
            .env("AQUEDUCT_LOCAL_WORKER", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        worker.stdin.take().unwrap().write_all(sent).unwrap();
        assert_eq!(worker.wait().unwrap().code(), Some(local::EXIT_ORPHANED));
    }
}

#[test]
fn ctrl_c_reaches_the_parent_only() {
    let observer = Observer::new();
    let mut parent = Parent::start("interrupted", &observer);
    parent.says("started");
    // As a terminal does it: to the whole process group, which has the parent's id.
    let group = format!("kill -s INT -- -{}", parent.0.id());
    assert!(Command::new("sh").args(["-c", &group]).status().unwrap().success());
    // The worker was told to stop by its parent, and not by the signal.
    assert_eq!(parent.0.wait().unwrap().code(), Some(5));
    observer.sees_the_end();
}

#[test]
fn output_is_copied_and_the_report_is_not() {
    let observer = Observer::new();
    let mut text = String::new();
    let mut parent = Parent::start("output", &observer);
    parent.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(parent.0.wait().unwrap().success());
    assert!(text.contains("before\n") && text.contains("after\n"), "{text}");
    assert!(text.ends_with("and no newline at the end"), "{text}");
    assert!(!text.contains("aqueduct-worker"), "{text}");
}

#[test]
fn a_worker_that_does_not_know_it_is_one_cannot_start_itself_again() {
    let mut command = this_program("as_a_parent");
    command.env("AQUEDUCT_LOCAL_WORKER", "1").env("TEST_PARENT", "unclaimed").env("TEST_OBSERVER", "127.0.0.1:1");
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_key_is_not_on_the_command_line_nor_in_the_environment() {
    let observer = Observer::new();
    let identity = identity();
    let job = Job { role: Role::Serve, observer: observer.address() };
    let process = local::spawn(&identity, &job, &options()).await.unwrap();
    let key = identity.to_pem().key;
    let key = key.lines().nth(1).unwrap();
    for file in ["cmdline", "environ"] {
        let content = std::fs::read(format!("/proc/{}/{file}", process.id())).unwrap();
        assert!(!content.is_empty());
        assert!(!String::from_utf8_lossy(&content).contains(key), "{file}");
    }
    process.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_payload_beyond_the_limit_starts_nothing() {
    let error = local::spawn(&identity(), &"x".repeat(17 << 20), &options()).await.unwrap_err();
    assert!(matches!(error, SpawnError::TooLarge { bytes } if bytes > 17 << 20));
}

/// Sees processes come and go.
struct Observer {
    listener: TcpListener,
}

impl Observer {
    fn new() -> Self {
        Self { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Returns when the first process that connected is gone; panics after two seconds.
    fn sees_the_end(&self) {
        let (mut presence, _) = self.listener.accept().unwrap();
        presence.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        match presence.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("the process is still there: {other:?}"),
        }
    }
}

async fn start(role: Role, observer: SocketAddr) -> Result<Process, SpawnError> {
    local::spawn(&identity(), &Job { role, observer }, &options()).await
}

fn identity() -> Identity {
    Authority::dev("test").unwrap().issue("worker-1").unwrap()
}

/// Quiet, because the test harness in the worker prints too.
fn options() -> Options {
    Options::default().args(["--exact", "as_a_worker", "--nocapture"]).report_timeout(PATIENCE).quiet(true)
}

fn this_program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    command
}

/// A program that starts a worker. Killed when dropped, so that a failed test leaves nothing behind.
struct Parent(Child);

impl Parent {
    /// Starts it in a process group of its own, as a shell would.
    fn start(what: &str, observer: &Observer) -> Self {
        let mut command = this_program("as_a_parent");
        command.env("TEST_PARENT", what).env("TEST_OBSERVER", observer.address().to_string());
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).spawn().unwrap())
    }

    fn says(&mut self, wanted: &str) {
        let mut output = BufReader::new(self.0.stdout.as_mut().unwrap());
        let mut line = String::new();
        while !line.trim_end().ends_with(wanted) {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "ended without saying {wanted:?}");
        }
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Longer than anything here takes, also on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);
