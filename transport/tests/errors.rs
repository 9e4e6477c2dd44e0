//! What every public error says: one sentence, however it is printed, in which nothing is said twice.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::any::type_name;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use aqueduct_stage::stages::{Closed, LineError, TryPushError};
use aqueduct_stage::{
    Attempt, CallError, EndCause, EventStreamError, Exit, Failure, FailureKind, Graph, Partitions, Refusal, Refused,
    Sentence, StartChildError, SubscribeError, Window, each,
};
use aqueduct_transport::local::{SpawnError, WorkerError};
use aqueduct_transport::pulling::{self, DeadReason, JoinError, Task};
use aqueduct_transport::{
    BindError, ChannelError, ColumnsError, ConfigError, DecodeError, EncodeError, EncodeErrorCause, FrameError,
    IdentityError, LinkError, LookupError, NodeName, NotReady, PublishError, PushError, RegisterError, SendError,
    SendErrorCause, StoreError, StructureError, Unreceived,
};

/// Neither `Debug` nor `Display`: errors give events and values back, whatever these are.
struct Event;

/// Errors by the names of their types.
#[derive(Default)]
struct All(BTreeMap<String, Vec<Box<dyn Error>>>);

impl All {
    fn add<E: Error + 'static>(&mut self, errors: impl IntoIterator<Item = E>) {
        let name = type_name::<E>();
        let name = name.split('<').next().unwrap_or(name);
        let name = name.rsplit("::").next().unwrap_or(name);
        self.0.entry(name.to_owned()).or_default().extend(errors.into_iter().map(|error| Box::new(error) as _));
    }
}

fn disk() -> io::Error {
    io::Error::other("the disk is full")
}

fn too_large() -> EncodeErrorCause {
    EncodeErrorCause::TooLarge { got: 9, bound: 5 }
}

fn unwritable() -> EncodeErrorCause {
    EncodeErrorCause::Value(rmp_serde::encode::Error::Syntax("no such thing".into()))
}

fn unreadable() -> rmp_serde::decode::Error {
    rmp_serde::decode::Error::Syntax("no such thing".into())
}

fn lost() -> Failure {
    Failure::new("numbers", FailureKind::Disconnected, "timed out")
}

fn unreachable() -> SubscribeError {
    SubscribeError::Unreachable { at: "10.0.0.7:7400".into(), reason: "timed out".into() }
}

fn store() -> StoreError {
    StoreError::Storage(Box::new(disk()))
}

/// At least one of each type; where one can have a cause, one with it.
async fn all_errors() -> All {
    let mut all = All::default();
    // The demand core.
    all.add([Window::new(1000, 500).unwrap_err()]);
    all.add([Partitions::numbered(0).unwrap_err()]);
    all.add([Refused::AlreadySubscribed, Refused::UnknownPartition { got: 4.into(), partitions: "0..4".into() }]);
    // Stages.
    all.add([lost(), Failure::new("sum", FailureKind::Error, "boom")]);
    let graph = Graph::new("test");
    graph.consumer("idle", || each(|_: u64| async { Ok(()) }));
    all.add([graph.run().await.unwrap_err()]);
    all.add([unreachable(), SubscribeError::Ended("numbers".into())]);
    let ended = EventStreamError::Ended { producer: "numbers".into(), cause: EndCause::Down(Exit::Shutdown) };
    all.add([EventStreamError::Subscribe(unreachable()), EventStreamError::Failed(lost()), ended]);
    all.add([Refusal::new("all places are taken")]);
    all.add([CallError::Stopped, CallError::Overloaded { bound: 9 }, CallError::Timeout(Duration::from_secs(5))]);
    all.add([StartChildError::MaxChildren { supervisor: "tasks".into(), max_children: 3 }]);
    all.add([LineError::TooLong { line: 1, max_bytes: 9 }, LineError::Read { line: 7, source: disk() }]);
    all.add([Closed(Event)]);
    all.add([TryPushError::Full { event: Event, capacity: 9 }, TryPushError::Closed(Event)]);
    // Nodes.
    let read = IdentityError::Read { path: "node.pem".into(), source: disk() };
    all.add([read, IdentityError::NoCertificate { place: "node.pem".into() }]);
    all.add([NodeName::new("a b", "c").unwrap_err()]);
    all.add([BindError::Resolve(disk()), BindError::Socket { at: Some(([10, 0, 0, 7], 7400).into()), cause: disk() }]);
    all.add([ConfigError::IdleTimeout { idle_timeout: Duration::ZERO }]);
    all.add([PublishError::Taken("numbers".into())]);
    all.add([RegisterError::Name { length: 0, bound: 9 }]);
    all.add([LookupError::Missing { name: "double".into(), version: 1, present: vec![2, 3] }]);
    // What crosses.
    all.add([StructureError::TooDeep { bound: 9 }]);
    all.add([ColumnsError::Width { got: 65 }]);
    let at = |cause| EncodeError { index: 3, cause };
    all.add([at(too_large()), at(unwritable())]);
    all.add([too_large(), unwritable()]);
    all.add([
        DecodeError::Structure(StructureError::Reserved),
        DecodeError::Value { index: 3, signature: "order v1".into(), cause: unreadable() },
    ]);
    let structure = FrameError::Structure { frame: "refuse", cause: StructureError::Reserved };
    all.add([structure, FrameError::Body { frame: "refuse", cause: unreadable() }]);
    all.add([LinkError::Sequence { expected: 3, got: 4 }]);
    // Channels.
    let ended = ChannelError::Ended { name: "jobs".into(), cause: EndCause::Down(Exit::Failed(lost())) };
    all.add([ChannelError::Unreachable(unreachable()), ended]);
    let send = |cause| SendError { value: Event, cause };
    all.add([send(SendErrorCause::Closed), send(SendErrorCause::Store(store()))]);
    all.add([SendErrorCause::Encode(unwritable()), SendErrorCause::Store(store()), SendErrorCause::Closed]);
    all.add([NotReady { expected: 3, got: 1, within: Duration::from_secs(5) }]);
    let unreceived = |cause| Unreceived { values: 3, cause };
    all.add([unreceived(None), unreceived(Some(ChannelError::Unreachable(unreachable())))]);
    // What waits and is done elsewhere.
    all.add([StoreError::Damaged("entry 7".into())]);
    all.add([StoreError::Full { len: 9, more: 2, bound: 10 }, store(), StoreError::Effect(Box::new(disk()))]);
    all.add([PushError::Store(store()), PushError::Closed("jobs".into())]);
    all.add([DeadReason::Refused("no".into()), DeadReason::Expired]);
    all.add([pulling::Refused::TooLong { task: 1.into(), attempt: Attempt::FIRST }]);
    all.add([pulling::PushError::Full { task: Task::new(1, Event), bound: 9 }]);
    all.add([JoinError::TooMany { bound: 9 }]);
    // Processes.
    all.add([SpawnError::Start { program: PathBuf::from("worker"), source: disk() }]);
    all.add([WorkerError::Input(disk())]);
    all
}

#[tokio::test]
async fn debug_of_every_error_is_its_sentence_and_nothing_is_said_twice() {
    for (name, errors) in all_errors().await.0 {
        for error in errors {
            let (said, debug) = (error.to_string(), format!("{error:?}"));
            assert_eq!(debug, Sentence(&*error).to_string(), "{name}");
            assert!(debug.starts_with(&said), "{name}: {debug} does not begin as {said}");
            assert!(!said.is_empty() && !debug.ends_with('.') && !said.contains(['{', '}']), "{name}: {debug}");
            let mut cause = error.source();
            while let Some(because) = cause {
                let text = because.to_string();
                assert!(!said.contains(&text), "{name} says its cause, and has it as its source too: {said}");
                assert_eq!(debug.matches(&text).count(), 1, "{name}: {debug}");
                cause = because.source();
            }
        }
    }
}

/// Types that nobody outside can make; what they are made from is among the others.
const NOT_MADE: [&str; 2] = ["AnswerError", "ChildNotFound"];

#[tokio::test]
async fn every_public_error_is_among_those_that_are_tested() {
    let all = all_errors().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut found = 0;
    let crates = ["dispatcher/src", "stage/src", "work/src", "transport/src"];
    for file in crates.iter().flat_map(|folder| sources(&root.join(folder))) {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate().filter(|(_, line)| is_error(line)) {
            let at = format!("{}:{}", file.display(), number + 1);
            assert!(!line.contains("Debug"), "{at}: use debug_as_sentence instead of deriving Debug for an error");
            let item = lines[number..].iter().find_map(|line| item(line)).expect("an item");
            found += 1;
            let is_known = all.0.contains_key(item.name) || NOT_MADE.contains(&item.name) || !item.is_public;
            assert!(is_known, "{at}: {} is not among the errors of this test", item.name);
        }
    }
    assert!(found > 40, "{found}");
}

/// Whether a line derives `Error` for a type of the product.
fn is_error(line: &str) -> bool {
    line.starts_with("#[derive(") && line.contains("thiserror::Error")
}

struct Item<'a> {
    name: &'a str,
    is_public: bool,
}

fn item(line: &str) -> Option<Item<'_>> {
    let is_public = line.starts_with("pub ");
    let rest = line.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ").trim_start_matches("pub ");
    let rest = rest.strip_prefix("enum ").or_else(|| rest.strip_prefix("struct "))?;
    rest.split(|c: char| !c.is_alphanumeric()).next().map(|name| Item { name, is_public })
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.extension() {
            _ if path.is_dir() => sources(&path),
            Some(extension) if extension == "rs" => vec![path],
            _ => vec![],
        })
        .collect()
}
