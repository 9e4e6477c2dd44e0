//! What must come out: every event once and in order, and how long it took.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aqueduct_stage::{Spawner, TokioSpawner};
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::roles::{MOST_AT_A_TIME, Report};

/// What a process has told, and when.
pub(crate) type Reports = mpsc::UnboundedReceiver<(Instant, Report)>;

/// Where processes connect to tell what they do.
pub(crate) struct Observer {
    listener: UnixListener,
    pub(crate) path: PathBuf,
}

impl Observer {
    /// A socket in a folder: a path reaches into network namespaces, an address does not.
    pub(crate) fn new(folder: &Path) -> Self {
        let path = folder.join("observer");
        Self { listener: UnixListener::bind(&path).unwrap(), path }
    }

    /// What the process tells that was started last, to its end.
    pub(crate) async fn accept(&self) -> Reports {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let (sender, receiver) = mpsc::unbounded_channel();
        let read = async move {
            while let Some(report) = read_report(&mut stream).await
                && sender.send((Instant::now(), report)).is_ok()
            {}
        };
        TokioSpawner.spawn("observer", Box::pin(read));
        receiver
    }
}

/// `None` at the end; the last one of a process that was killed may be torn.
async fn read_report(stream: &mut UnixStream) -> Option<Report> {
    let length = stream.read_u32().await.ok()?;
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.ok()?;
    Some(rmp_serde::from_slice(&body).unwrap())
}

/// What the consumer has done, in all its lives.
#[derive(Default)]
pub(crate) struct Seen {
    /// The numbers in the order in which they were handled, as they were told.
    pub(crate) numbers: Vec<u64>,
    /// When some were handled.
    at: Vec<Instant>,
    pub(crate) end: Option<End>,
}

#[derive(Debug)]
pub(crate) struct End {
    pub(crate) at: Instant,
    /// The kind of the consumer's failure.
    pub(crate) failure: Option<String>,
    pub(crate) resumed: u64,
    pub(crate) given_up: u64,
    pub(crate) dials_failed: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, at: Instant, report: Report) {
        match report {
            Report::Effects(numbers) => {
                self.numbers.extend(numbers);
                self.at.push(at);
            }
            Report::Ended { failure, resumed, given_up, dials_failed } => {
                self.end = Some(End { at, failure, resumed, given_up, dials_failed });
            }
            Report::Accepted(_) => panic!("a consumer accepts nothing"),
        }
    }

    /// The longest time in which nothing was handled.
    pub(crate) fn longest_gap(&self) -> Duration {
        self.at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// How long after that something was handled.
    pub(crate) fn first_after(&self, moment: Instant) -> Option<Duration> {
        self.at.iter().find(|at| **at >= moment).map(|at| *at - moment)
    }
}

/// What one life of the producer has produced.
#[derive(Clone, Debug)]
pub(crate) struct Produced {
    pub(crate) first: u64,
    /// All below are to come.
    pub(crate) accepted: u64,
    /// It was killed while more may have been on their way into the queue.
    pub(crate) is_killed: bool,
}

/// Whether exactly what was produced has been handled, each event once and in order.
pub(crate) fn check_all(handled: &[u64], produced: &[Produced]) -> Result<(), String> {
    let mut rest = handled;
    for Produced { first, accepted, is_killed } in produced {
        let count = rest.iter().zip(*first..).take_while(|(number, expected)| **number == *expected).count();
        let end = first + count as u64;
        let most = if *is_killed { accepted + MOST_AT_A_TIME } else { *accepted };
        if !(*accepted..=most).contains(&end) {
            let next = rest.get(count).map_or_else(|| "nothing".to_owned(), u64::to_string);
            return Err(format!("after {count} events from {first} on, {end} was to come, and {next} came"));
        }
        rest = &rest[count..];
    }
    match rest.first() {
        Some(number) => Err(format!("{number} came after the end")),
        None => Ok(()),
    }
}

/// Whether that is the beginning of what was produced: each event once and in order, up to some.
pub(crate) fn check_beginning(handled: &[u64], produced: &Produced) -> Result<(), String> {
    let accepted = produced.first + handled.len() as u64;
    check_all(handled, &[Produced { accepted: accepted.min(produced.accepted), ..produced.clone() }])
}

mod tests {
    use super::*;

    const WHOLE: Produced = Produced { first: 0, accepted: 4, is_killed: false };
    const KILLED: Produced = Produced { first: 0, accepted: 2, is_killed: true };

    #[test]
    fn the_oracle_takes_what_is_right_and_nothing_else() {
        assert_eq!(check_all(&[0, 1, 2, 3], &[WHOLE]), Ok(()));
        for wrong in [&[][..], &[0, 1, 3], &[0, 1, 2], &[0, 1, 1, 2, 3], &[0, 2, 1, 3], &[0, 1, 2, 3, 4], &[1, 2, 3]] {
            assert!(check_all(wrong, &[WHOLE]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_a_killed_producer_has_not_said_may_be_there_or_not() {
        let lives = [KILLED, Produced { first: 100, accepted: 102, is_killed: false }];
        for right in [&[0, 1, 100, 101][..], &[0, 1, 2, 100, 101]] {
            assert_eq!(check_all(right, &lives), Ok(()));
        }
        for wrong in [&[0, 100, 101][..], &[0, 1, 3, 100, 101], &[0, 1, 100], &[0, 1, 100, 101, 2]] {
            assert!(check_all(wrong, &lives).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_beginning_has_no_holes() {
        assert_eq!(check_beginning(&[0, 1], &WHOLE), Ok(()));
        for wrong in [&[1][..], &[0, 2], &[0, 0], &[0, 1, 2, 3, 4]] {
            assert!(check_beginning(wrong, &WHOLE).is_err(), "{wrong:?}");
        }
    }
}
