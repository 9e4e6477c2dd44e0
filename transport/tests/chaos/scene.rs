//! The two processes, what is between them, and how a fault is brought about and ended.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use aqueduct_transport::local::{self, Options, Process};
use aqueduct_transport::{Authority, Identity};

use crate::faults::{Fault, Network, Side, signal};
use crate::namespaces::enter_args;
use crate::oracle::{Observer, Produced, Reports, Seen};
use crate::roles::{Delivery, Job, PATIENCE, Report, Role, noted};

/// What does not change while a row runs.
pub(crate) struct Setting {
    pub(crate) fault: Fault,
    pub(crate) delivery: Delivery,
    pub(crate) grace: Duration,
    /// How many the producer produces, or the second one if it is killed.
    pub(crate) events: u64,
    pub(crate) network: Network,
    folder: Folder,
    observer: Observer,
    identities: [Identity; 2],
}

pub(crate) struct Scene {
    producer: Process,
    /// What the producer tells.
    accepted: Reports,
    /// What each of its lives produces.
    produced: Vec<Produced>,
    consumer: Process,
    /// What the consumer tells.
    reports: Reports,
    pub(crate) seen: Seen,
    /// Last, since the processes are in it.
    pub(crate) setting: Setting,
}

impl Setting {
    pub(crate) fn new(
        fault: Fault,
        delivery: Delivery,
        grace: Duration,
        events: u64,
        network: Network,
        label: &str,
    ) -> Self {
        let folder = Folder::new(label);
        let observer = Observer::new(&folder.0);
        let authority = Authority::dev("chaos").unwrap();
        let identities = ["producer", "consumer"].map(|name| authority.issue(name).unwrap());
        Self { fault, delivery, grace, events, network, folder, observer, identities }
    }

    async fn start(&self, side: Side, role: Role) -> Result<(Process, Reports), String> {
        let Self { delivery, grace, observer, .. } = self;
        let job = Job { role, delivery: *delivery, grace: *grace, observer: observer.path.clone() };
        let args = ["--exact", "as_a_worker", "--nocapture"].map(str::to_owned);
        let args = args.into_iter().chain(enter_args(self.network.namespace(side)));
        let options = Options::default().args(args).report_timeout(PATIENCE).quiet(true);
        let process = local::spawn(&self.identities[side as usize], &job, &options).await;
        Ok((process.map_err(|error| format!("{side:?}: {error}"))?, observer.accept().await))
    }

    async fn start_producer(&self, first: u64, end: u64) -> Result<(Process, Reports), String> {
        let (at, queue) = (self.network.producer(), self.file("queue"));
        self.start(Side::Producer, Role::Produce { at, first, end, queue }).await
    }

    async fn start_consumer(&self) -> Result<(Process, Reports), String> {
        let (from, effects) = (self.network.producer_for_consumer(), self.file("effects"));
        self.start(Side::Consumer, Role::Consume { from, effects }).await
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }
}

impl Scene {
    /// Starts both processes.
    pub(crate) async fn new(setting: Setting) -> Result<Self, String> {
        let is_killed = setting.fault == Fault::Kill(Side::Producer);
        let end = if is_killed { SECOND_LIFE } else { setting.events };
        let (producer, accepted) = setting.start_producer(0, end).await?;
        let (consumer, reports) = setting.start_consumer().await?;
        let produced = vec![Produced { first: 0, accepted: end, is_killed }];
        Ok(Self { producer, accepted, produced, consumer, reports, seen: Seen::default(), setting })
    }

    /// Waits for the next thing that the consumer tells.
    pub(crate) async fn hear(&mut self) -> Result<(), String> {
        let (at, report) = self.reports.recv().await.ok_or("the consumer has ended early")?;
        self.seen.add(at, report);
        Ok(())
    }

    pub(crate) async fn begin_fault(&mut self) -> Result<(), String> {
        match self.setting.fault {
            Fault::Kill(side) => {
                let process = self.process(side);
                signal("KILL", process)?;
                let status = process.exited().await.map_err(|error| error.to_string())?;
                if status.signal() == Some(9) { Ok(()) } else { Err(format!("it was to be killed: {status}")) }
            }
            Fault::Stop(side) => signal("STOP", self.process(side)),
            fault => fault.begin(&self.setting.network),
        }
    }

    pub(crate) async fn end_fault(&mut self) -> Result<(), String> {
        match self.setting.fault {
            Fault::Kill(Side::Producer) => self.restart_producer().await,
            Fault::Kill(Side::Consumer) => {
                while self.hear().await.is_ok() {}
                (self.consumer, self.reports) = self.setting.start_consumer().await?;
                Ok(())
            }
            Fault::Stop(side) => signal("CONT", self.process(side)),
            fault => fault.end(&self.setting.network),
        }
    }

    /// What it had said by its end is in the queue. It goes on with other numbers, as it does not know its own last one.
    async fn restart_producer(&mut self) -> Result<(), String> {
        self.produced[0].accepted = 0;
        while let Some((_, report)) = self.accepted.recv().await {
            let Report::Accepted(accepted) = report else { return Err(format!("a producer told {report:?}")) };
            self.produced[0].accepted = accepted;
        }
        let second = Produced { first: SECOND_LIFE, accepted: SECOND_LIFE + self.setting.events, is_killed: false };
        (self.producer, self.accepted) = self.setting.start_producer(second.first, second.accepted).await?;
        self.produced.push(second);
        Ok(())
    }

    /// Ends both processes, and returns what was handled, what was to be handled, and what was told.
    pub(crate) async fn leave(self) -> Result<(Vec<u64>, Vec<Produced>, Seen), String> {
        let Self { producer, consumer, produced, seen, setting, .. } = self;
        for process in [consumer, producer] {
            let status = process.shutdown(PATIENCE).await.map_err(|error| error.to_string())?;
            if !status.success() {
                return Err(format!("a process ended with {status}"));
            }
        }
        setting.network.check_deserted()?;
        let handled = match setting.delivery {
            // What is told may come twice from a consumer that was killed; what is noted may not.
            Delivery::Durable => noted(&setting.file("effects")).await.map_err(|error| error.to_string())?,
            Delivery::Plain | Delivery::Acknowledged => seen.numbers.clone(),
        };
        Ok((handled, produced, seen))
    }

    fn process(&mut self, side: Side) -> &mut Process {
        match side {
            Side::Producer => &mut self.producer,
            Side::Consumer => &mut self.consumer,
        }
    }
}

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(label: &str) -> Self {
        // Short, since the path of a socket has 108 bytes at most.
        let path = std::env::temp_dir().join(format!("aqueduct-chaos-{}-{label}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a producer begins with that was started again.
const SECOND_LIFE: u64 = 1_000_000;
