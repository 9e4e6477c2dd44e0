//! Panics in every callback, `stop` and `shutdown`: each stage ends, is reported, and leaves nothing behind.

use std::time::Duration;

use aqueduct_stage::{
    Batch, Cancel, Consumer, Cx, Edge, EndCause, Exit, FailureKind, Graph, Handle, Keep, Mode, Producer,
    ProducerConsumer, Result, Running, SubscribeOptions,
};
use tokio::time::Instant;

use crate::support::{
    Counted, Far, Gate, Heard, Log, Note, count, emit, endless, idle, relay, settled, sink, sink_with, with,
};

/// Panics in one of its callbacks.
#[derive(Clone)]
struct Bomb(&'static str);

struct Poke;

impl Bomb {
    fn pass(&self, callback: &str) {
        assert!(self.0 != callback, "{callback}");
    }
}

macro_rules! bomb {
    ($role:ident, $out:ty, { $($types:tt)* }, $subscribed:ty, $answer:expr, { $($more:tt)* }) => {
        impl $role for Bomb {
            $($types)*

            async fn handle_subscribe(&mut self, _: &Edge, _: &mut Cx<'_, $out>) -> Result<$subscribed> {
                self.pass("handle_subscribe");
                Ok($answer)
            }

            async fn handle_cancel(&mut self, _: &Edge, _: &EndCause, _: &mut Cx<'_, $out>) -> Result {
                self.pass("handle_cancel");
                Ok(())
            }

            async fn terminate(&mut self, _: &Exit) {
                self.pass("terminate");
            }

            $($more)*
        }
    };
}

bomb!(
    Producer,
    u64,
    {
        type Out = u64;
    },
    (),
    (),
    {
        // Not an `async fn`: it panics before there is a future.
        fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> impl Future<Output = Result> + Send {
            self.pass("handle_demand");
            cx.emit_all(0..demand as u64 + 1);
            async { Ok(()) }
        }

        fn handle_discarded(&mut self, _: usize) -> bool {
            self.pass("handle_discarded");
            false
        }
    }
);

bomb!(
    ProducerConsumer,
    u64,
    {
        type In = u64;
        type Out = u64;
    },
    Mode,
    Mode::Automatic,
    {
        async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_, u64>) -> Result {
            self.pass("handle_events");
            events.into_iter().for_each(|event| cx.emit_all([event; 2]));
            Ok(())
        }

        async fn handle_end(&mut self, _: &mut Cx<'_, u64>) -> Result {
            self.pass("handle_end");
            Ok(())
        }

        fn handle_discarded(&mut self, _: usize) -> bool {
            self.pass("handle_discarded");
            false
        }
    }
);

bomb!(
    Consumer,
    aqueduct_stage::Never,
    {
        type In = u64;
    },
    Mode,
    Mode::Automatic,
    {
        async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
            self.pass("handle_events");
            Ok(())
        }

        async fn handle_end(&mut self, _: &mut Cx<'_>) -> Result {
            self.pass("handle_end");
            Ok(())
        }
    }
);

impl<O: Send> Handle<Poke, O> for Bomb {
    type Reply = ();
    async fn handle(&mut self, _: Poke, _: &mut Cx<'_, O>) -> Result {
        self.pass("handle");
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Producer,
    ProducerConsumer,
    Consumer,
}

/// What the graph reports of a bomb that goes off in `callback`, if a pipeline beside it goes on and no task is left.
async fn report(role: Role, callback: &'static str) -> String {
    let (spawner, bystander, log) = (Counted::default(), Log::new(), Log::new());
    let graph = Graph::with_spawner("test", spawner.clone());
    let lives = SubscribeOptions::demand(2..4).cancel(Cancel::Temporary);
    let ticks = graph.producer("ticks", endless(&Log::new()));
    let slow = sink_with(&bystander, |sink| sink.takes = Duration::from_secs(10));
    graph.consumer("bystander", slow).subscribe(&ticks, 0..1);
    // Exhausted only where the end is to be seen.
    let source = graph.producer("source", idle(&Log::new()));
    let sink = graph.consumer("sink", sink_with(&log, |sink| sink.mode = Mode::Manual));
    let make = move || {
        Bomb(callback).pass("make");
        Bomb(callback)
    };
    let (running, id): (Running, _);
    let poke: Box<dyn Fn() -> bool>;
    match role {
        Role::Producer => {
            let bomb = graph.producer("bomb", make).buffer(0, Keep::Last);
            running = graph.start();
            id = running.subscribe(&sink, &bomb, lives);
            let bomb = bomb.stage_ref();
            poke = Box::new(move || bomb.cast(Poke).is_ok());
        }
        Role::ProducerConsumer => {
            let bomb = graph.stage("bomb", make).buffer(0, Keep::Last).subscribe(&source, 2..4);
            running = graph.start();
            id = running.subscribe(&sink, &bomb, lives);
            let bomb = bomb.stage_ref();
            poke = Box::new(move || bomb.cast(Poke).is_ok());
        }
        Role::Consumer => {
            let bomb = graph.consumer("bomb", make);
            running = graph.start();
            id = running.subscribe(&bomb, &source, SubscribeOptions::demand(2..4));
            running.cancel(&sink, id, Exit::Normal);
            let bomb = bomb.stage_ref();
            poke = Box::new(move || bomb.cast(Poke).is_ok());
        }
    }
    let mut running = running;
    settled().await;
    sink.stage_ref().cast(with(move |cx| cx.ask(id, 9))).unwrap();
    let _ = source.stage_ref().cast(emit(0..5));
    settled().await;
    poke();
    settled().await;
    let stop = callback == "handle_end" || role != Role::Producer;
    let _ = source.stage_ref().cast(with(move |cx| {
        if stop {
            cx.stop(Exit::Normal);
        }
    }));
    running.cancel(&sink, id, Exit::Normal);
    settled().await;
    let before = bystander.batches().len();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(bystander.batches().len() >= before + 10, "nothing else stops: {role:?} {callback}");
    let error = running.stop(Duration::from_secs(60)).await.unwrap_err();
    assert_eq!((spawner.alive(), error.others.len()), (0, 0), "{role:?} {callback}: {error:?}");
    assert_eq!(error.failure.kind(), FailureKind::Panic, "{role:?} {callback}: {error}");
    error.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_any_callback_ends_its_stage_and_is_reported() {
    let every = ["make", "handle", "handle_subscribe", "handle_cancel", "terminate"];
    let table = [
        (Role::Producer, &["handle_demand", "handle_discarded"][..]),
        (Role::ProducerConsumer, &["handle_events", "handle_end", "handle_discarded"]),
        (Role::Consumer, &["handle_events", "handle_end"]),
    ];
    for (role, own) in table {
        for callback in every.iter().chain(own) {
            assert_eq!(report(role, callback).await, format!(r#"stage "bomb" panicked: {callback}"#), "{role:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_fails_twice_is_reported_for_the_first() {
    #[derive(Clone)]
    struct Twice;
    impl Consumer for Twice {
        type In = u64;
        async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
            Err("first".into())
        }
        async fn terminate(&mut self, _: &Exit) {
            panic!("second");
        }
    }
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", endless(&Log::new()));
    graph.consumer("twice", || Twice).subscribe(&numbers, 0..1);
    assert_eq!(graph.run().await.unwrap_err().to_string(), r#"stage "twice" failed: first"#);
}

#[tokio::test(start_paused = true)]
async fn who_follows_a_stage_that_could_not_be_made_is_not_reported_as_well() {
    let graph = Graph::new("test");
    let unmade = graph.producer("unmade", || -> Bomb { panic!("no file") });
    graph.consumer("sink", sink(&Log::new())).subscribe(&unmade, 0..1);
    let error = graph.run().await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.others.len()), (r#"stage "unmade" panicked: no file"#, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_failing_callback_emitted_is_dropped_with_it() {
    struct Half;
    impl Producer for Half {
        type Out = u64;
        async fn handle_demand(&mut self, _: usize, cx: &mut Cx<'_, u64>) -> Result {
            cx.emit_all(0..2);
            Err("half".into())
        }
    }
    let (graph, log) = (Graph::new("test"), Log::new());
    let half = graph.producer("half", || Half);
    graph.consumer("sink", sink(&log)).subscribe(&half, 0..4);
    assert_eq!(graph.run().await.unwrap_err().to_string(), r#"stage "half" failed: half"#);
    assert_eq!(log.events(), []);
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_for_what_is_on_its_way() {
    let (spawner, log, far) = (Counted::default(), Log::new(), Far::new());
    let graph = Graph::with_spawner("test", spawner.clone());
    let slow = sink_with(&log, |sink| sink.takes = Duration::from_secs(2));
    graph.consumer("sink", slow).subscribe(&far, 5..10);
    let mut running = graph.start();
    settled().await;
    for n in 0..10 {
        far.deliver(n..n + 1);
    }
    settled().await;
    let started = Instant::now();
    running.stop(Duration::from_secs(60)).await.unwrap();
    assert_eq!((started.elapsed().as_secs(), log.events(), spawner.alive()), (1, vec![0], 0));
    assert!(log.all().contains(&Note::Terminated("shutdown".into())));
}

#[tokio::test(start_paused = true)]
async fn stop_kills_what_is_stuck_and_can_be_repeated() {
    let (spawner, log, far) = (Counted::default(), Log::new(), Far::new());
    let graph = Graph::with_spawner("test", spawner.clone());
    graph.consumer("stuck", sink_with(&log, |sink| sink.gate = Some(Gate::closed()))).subscribe(&far, 5..10);
    let mut running = graph.start();
    settled().await;
    far.deliver(0..1);
    settled().await;
    let started = Instant::now();
    let given_up = tokio::time::timeout(Duration::from_secs(1), running.stop(Duration::from_secs(5))).await;
    assert!(given_up.is_err());
    let error = running.stop(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!((error.failure.kind(), error.failure.origin()), (FailureKind::Killed, "stuck"));
    assert_eq!((started.elapsed().as_secs(), spawner.alive()), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_everything_that_was_emitted() {
    let (spawner, log, seen) = (Counted::default(), Log::new(), Log::new());
    let graph = Graph::with_spawner("test", spawner.clone());
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let middle = graph.stage("relay", relay(&seen)).subscribe(&numbers, 50..100);
    let slow = sink_with(&log, |sink| sink.takes = Duration::from_millis(100));
    graph.consumer("sink", slow).subscribe(&middle, 0..3);
    let mut running = graph.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let outcome = running.shutdown(Duration::from_secs(60)).await.unwrap();
    let emitted = outcome.stage("numbers").unwrap().events_out;
    assert!(emitted > 100);
    assert_eq!(log.events(), (0..emitted).collect::<Vec<_>>());
    assert!(log.all().ends_with(&[Note::End, Note::Terminated("normal".into())]));
    assert!(outcome.stages.iter().all(|stage| stage.discarded == 0 && matches!(stage.exit, Exit::Normal)));
    assert_eq!(spawner.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_what_is_in_a_buffer() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", idle(&Log::new()));
    graph.consumer("sink", sink(&log)).subscribe(&numbers, 0..3);
    let mut running = graph.start();
    settled().await;
    numbers.stage_ref().call(emit(0..100)).await.unwrap();
    running.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(log.events(), (0..100).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn shutdown_kills_what_is_stuck_and_reports_it() {
    let (spawner, logs) = (Counted::default(), [Log::new(), Log::new()]);
    let graph = Graph::with_spawner("test", spawner.clone());
    let numbers = graph.producer("numbers", count(10, &Log::new()));
    graph.consumer("stuck", sink_with(&logs[0], |sink| sink.gate = Some(Gate::closed()))).subscribe(&numbers, 0..1);
    let others = graph.producer("others", endless(&Log::new()));
    let slow = sink_with(&logs[1], |sink| sink.takes = Duration::from_secs(1));
    graph.consumer("slow", slow).subscribe(&others, 0..5);
    let mut running = graph.start();
    settled().await;
    let started = Instant::now();
    let error = running.shutdown(Duration::from_secs(30)).await.unwrap_err();
    assert_eq!(started.elapsed().as_secs(), 30);
    assert_eq!((error.failure.origin(), error.failure.kind()), ("stuck", FailureKind::Killed));
    assert!(error.others.is_empty(), "{:?}", error.others);
    assert!(logs[1].all().contains(&Note::End), "the other pipeline was drained");
    assert_eq!(spawner.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_shutdown_still_drains_the_others() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let sick = graph.producer("sick", idle(&Log::new()));
    let numbers = graph.producer("numbers", endless(&Log::new()));
    let slow = sink_with(&log, |sink| sink.takes = Duration::from_secs(1));
    graph.consumer("sink", slow).subscribe(&numbers, 5..10);
    let mut running = graph.start();
    sick.stage_ref().cast(with(|_| panic!("sick"))).unwrap();
    settled().await;
    let error = running.shutdown(Duration::from_secs(60)).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.others.len()), (r#"stage "sick" panicked: sick"#, 0));
    assert!(log.all().ends_with(&[Note::End, Note::Terminated("normal".into())]), "{:?}", log.all());
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_subscribers_of_a_stage_that_has_emitted_nothing() {
    let (graph, notes) = (Graph::new("test"), [Log::new(), Log::new(), Log::new()]);
    let lonely = graph.producer("lonely", idle(&notes[0]));
    graph.stage("middle", relay(&notes[1])).subscribe(&lonely, 5..10);
    let late = graph.producer("late", idle(&notes[2]));
    let mut running = graph.start();
    settled().await;
    let started = Instant::now();
    running.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert!(notes.iter().all(|log| log.all().last() == Some(&Note::Terminated("normal".into()))));
    drop(late);
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_producers_elsewhere() {
    for cancel in [Cancel::Permanent, Cancel::Transient, Cancel::Temporary] {
        let (graph, log, far) = (Graph::new("test"), Log::new(), Far::new());
        let relay = graph.stage("relay", relay(&Log::new()));
        let relay = relay.subscribe(&far, SubscribeOptions::from(5..10).cancel(cancel));
        graph.consumer("sink", sink(&log)).subscribe(&relay, 5..10);
        let mut running = graph.start();
        far.asked(10).await;
        far.deliver(0..7);
        let outcome = running.shutdown(Duration::from_secs(60)).await.unwrap();
        assert_eq!((log.events(), outcome.stages.len()), ((0..7).collect(), 2), "{cancel:?}");
        assert!(far.heard().all().contains(&Heard::Cancel("shutdown".into())));
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_what_was_held_back() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", idle(&Log::new())).accumulate();
    let others = graph.producer("others", idle(&Log::new())).wait_for_subscribers(3);
    graph.consumer("sink", sink(&log)).subscribe(&numbers, 5..10).subscribe(&others, 5..10);
    let mut running = graph.start();
    settled().await;
    numbers.stage_ref().call(emit(0..4)).await.unwrap();
    others.stage_ref().call(emit(4..7)).await.unwrap();
    running.shutdown(Duration::from_secs(60)).await.unwrap();
    let mut events = log.events();
    events.sort_unstable();
    assert_eq!(events, (0..7).collect::<Vec<_>>());
}
