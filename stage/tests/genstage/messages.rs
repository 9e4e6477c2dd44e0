//! Calls, casts, timers, attached streams, and the instances of a stage.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake};
use std::time::Duration;

use aqueduct_stage::{Batch, CallError, Cancel, Consumer, Cx, Exit, Graph, Handle, Mode, Result, SubscribeOptions};
use tokio::time::Instant;

use crate::support::{
    Counted, Far, Gate, Log, Near, Note, Say, Signal, count, emit, endless, idle, settled, sink, sink_with, with,
};

#[tokio::test(start_paused = true)]
async fn what_a_call_emits_is_sent_before_its_reply() {
    /// Woken at the moment at which the reply is sent.
    struct Replied(Log<Signal>);
    impl Wake for Replied {
        fn wake(self: Arc<Self>) {
            self.0.push(Signal::Ended("replied".into()));
        }
    }
    let graph = Graph::new("test");
    let numbers = graph.producer("numbers", idle(&Log::new()));
    let _running = graph.start();
    let near = Near::subscribe(&numbers).await;
    near.ask(3);
    settled().await;
    let mut call = pin!(numbers.stage_ref().call(emit(0..5)));
    let waker = Arc::new(Replied(near.signals.clone())).into();
    assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    settled().await;
    assert_eq!(near.signals.all(), [Signal::Events(vec![0, 1, 2]), Signal::Ended("replied".into())]);
    call.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_is_given_up_after_its_timeout_and_handled_all_the_same() {
    let (graph, log, far, gate) = (Graph::new("test"), Log::new(), Far::new(), Gate::closed());
    let stage = graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(gate.clone()))).subscribe(&far, 0..1);
    let _running = graph.start();
    settled().await;
    far.deliver(0..1);
    let started = Instant::now();
    let default = stage.stage_ref().call(Say("first")).await;
    assert_eq!((default, started.elapsed().as_secs()), (Err(CallError::Timeout(Duration::from_secs(5))), 5));
    let short = stage.stage_ref().call(Say("second")).timeout(Duration::from_secs(1)).await;
    assert_eq!((short, started.elapsed().as_secs()), (Err(CallError::Timeout(Duration::from_secs(1))), 6));
    gate.open(1);
    assert_eq!(stage.stage_ref().call(Say("third")).await, Ok("third"));
    assert_eq!(log.all()[2..], ["first", "second", "third"].map(Note::Said));
}

#[tokio::test(start_paused = true)]
async fn a_call_before_the_start_is_answered_after_it() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let stage = graph.consumer("sink", sink(&log)).stage_ref();
    let call = stage.call(Say("early"));
    let _running = graph.start();
    assert_eq!(call.await, Ok("early"));
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_has_ended_takes_no_messages() {
    let (graph, log, far, gate) = (Graph::new("test"), Log::new(), Far::new(), Gate::closed());
    let temporary = SubscribeOptions::demand(0..1).cancel(Cancel::Temporary);
    let stage =
        graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(gate.clone()))).subscribe(&far, temporary);
    let stage = stage.stage_ref();
    let mut running = graph.start();
    settled().await;
    far.deliver(0..1);
    settled().await;
    stage.cast(with(|cx| cx.stop(Exit::Normal))).unwrap();
    let waiting = stage.call(Say("too late"));
    gate.open(1);
    let started = Instant::now();
    assert_eq!(waiting.await, Err(CallError::Stopped), "it was in the queue when the stage ended");
    assert_eq!(stage.call(Say("later still")).await, Err(CallError::Stopped));
    assert_eq!(stage.cast(Say("later still")), Err(CallError::Stopped));
    assert_eq!(stage.estimate_buffered().await, Err(CallError::Stopped));
    assert_eq!(started.elapsed(), Duration::ZERO);
    running.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_the_stage_is_answered() {
    struct Last;
    impl Consumer for Last {
        type In = u64;
        async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
            Ok(())
        }
    }
    impl Handle<Exit> for Last {
        type Reply = u32;
        async fn handle(&mut self, exit: Exit, cx: &mut Cx<'_>) -> Result<u32> {
            cx.stop(exit);
            Ok(42)
        }
    }
    for exit in [Exit::Normal, Exit::Shutdown, crate::support::oops()] {
        let graph = Graph::new("test");
        let last = graph.consumer("last", || Last);
        let _running = graph.start();
        assert_eq!(last.stage_ref().call(exit).await, Ok(42));
        settled().await;
        assert_eq!(last.stage_ref().cast(Exit::Normal), Err(CallError::Stopped));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_draining_stage_fails_fast() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(10, &Log::new()));
    graph.consumer("sink", sink_with(&log, |sink| sink.mode = Mode::Manual)).subscribe(&numbers, 0..1);
    let _running = graph.start();
    settled().await;
    numbers.stage_ref().call(emit(0..5)).await.unwrap();
    numbers.stage_ref().call(with(|cx| cx.stop(Exit::Normal))).await.unwrap();
    let started = Instant::now();
    assert_eq!(numbers.stage_ref().call(Say("too late")).await, Err(CallError::Stopped));
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(numbers.stage_ref().estimate_buffered().await, Ok(5), "but it is there");
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_are_bounded_and_those_that_were_taken_are_handled() {
    let (graph, log, far, gate) = (Graph::new("test"), Log::new(), Far::new(), Gate::closed());
    let stage = graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(gate.clone()))).subscribe(&far, 0..1);
    let stage = stage.stage_ref();
    let _running = graph.start();
    settled().await;
    far.deliver(0..1);
    settled().await;
    for _ in 0..1_024 {
        stage.cast(Say("cast")).unwrap();
    }
    assert_eq!(stage.cast(Say("more")), Err(CallError::Overloaded { bound: 1_024 }));
    assert_eq!(stage.call(Say("more")).await, Err(CallError::Overloaded { bound: 1_024 }));
    gate.open(1);
    settled().await;
    let said = log.all().iter().filter(|note| matches!(note, Note::Said("cast"))).count();
    assert_eq!((said, log.all().contains(&Note::Said("more"))), (1_024, false));
    assert_eq!(stage.call(Say("again")).await, Ok("again"));
}

#[tokio::test(start_paused = true)]
async fn messages_keep_their_order_among_events() {
    let (graph, log, far) = (Graph::new("test"), Log::new(), Far::new());
    let stage = graph.consumer("sink", sink(&log)).subscribe(&far, 0..10);
    let _running = graph.start();
    settled().await;
    far.deliver(0..1);
    stage.stage_ref().cast(Say("a")).unwrap();
    far.deliver(1..2);
    stage.stage_ref().cast(Say("b")).unwrap();
    settled().await;
    let expected = [Note::Events(vec![0], 1), Note::Said("a"), Note::Events(vec![1], 1), Note::Said("b")];
    assert_eq!(log.all()[1..], expected);
}

// Timers.

#[tokio::test(start_paused = true)]
async fn a_timer_sends_its_message_after_the_delay() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let stage = graph.consumer("sink", sink(&log)).stage_ref();
    let _running = graph.start();
    let started = Instant::now();
    stage.send_after(Duration::from_secs(20), Say("second"));
    stage.send_after(Duration::from_secs(10), Say("first"));
    log.has(&Note::Said("first")).await;
    assert_eq!(started.elapsed().as_secs(), 10);
    log.has(&Note::Said("second")).await;
    assert_eq!(started.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_stage_ticks_by_sending_itself_messages() {
    struct Ticks(Log<u64>);
    struct Tick;
    impl Consumer for Ticks {
        type In = u64;
        async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
            Ok(())
        }
    }
    impl Handle<Tick> for Ticks {
        type Reply = ();
        async fn handle(&mut self, _: Tick, cx: &mut Cx<'_>) -> Result {
            self.0.push(Instant::now().elapsed().as_secs());
            cx.stage_ref::<Self>().send_after(Duration::from_secs(1), Tick);
            Ok(())
        }
    }
    let (graph, log) = (Graph::new("test"), Log::new());
    let written = log.clone();
    let ticks = graph.consumer("ticks", move || Ticks(written.clone()));
    let _running = graph.start();
    let started = Instant::now();
    ticks.stage_ref().cast(Tick).unwrap();
    log.until(|ticks| ticks.len() == 5).await;
    assert_eq!(started.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn timers_and_attached_streams_end_with_the_graph() {
    let (spawner, log) = (Counted::default(), Log::new());
    let graph = Graph::with_spawner("test", spawner.clone());
    let stage = graph.consumer("sink", sink(&log)).stage_ref();
    let mut running = graph.start();
    stage.send_after(Duration::from_secs(100), Say("never"));
    stage.attach(tokio_stream::pending::<Say>());
    settled().await;
    assert_eq!(spawner.alive(), 3);
    running.stop(Duration::from_secs(1)).await.unwrap();
    assert_eq!(spawner.alive(), 0);
    stage.send_after(Duration::ZERO, Say("never"));
    assert_eq!(spawner.alive(), 0);
}

// Attached streams.

#[tokio::test(start_paused = true)]
async fn an_attached_stream_is_pulled_as_fast_as_the_stage_handles() {
    struct Slow(Gate);
    impl Consumer for Slow {
        type In = u64;
        async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
            Ok(())
        }
    }
    impl Handle<usize> for Slow {
        type Reply = ();
        async fn handle(&mut self, _: usize, _: &mut Cx<'_>) -> Result {
            self.0.pass().await;
            Ok(())
        }
    }
    let (graph, gate, pulled) = (Graph::new("test"), Gate::closed(), Arc::new(AtomicUsize::new(0)));
    let door = gate.clone();
    let stage = graph.consumer("slow", move || Slow(door.clone()));
    let _running = graph.start();
    let counter = Arc::clone(&pulled);
    stage.stage_ref().attach(tokio_stream::iter((0..100).inspect(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    })));
    settled().await;
    assert_eq!(pulled.load(Ordering::SeqCst), 1);
    gate.open(3);
    settled().await;
    assert_eq!(pulled.load(Ordering::SeqCst), 4);
    gate.open(1_000);
    settled().await;
    assert_eq!(pulled.load(Ordering::SeqCst), 100);
}

#[tokio::test(start_paused = true)]
async fn an_attached_stream_waits_for_a_stage_with_many_messages() {
    let (graph, log, far, gate) = (Graph::new("test"), Log::new(), Far::new(), Gate::closed());
    let stage = graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(gate.clone()))).subscribe(&far, 0..1);
    let stage = stage.stage_ref();
    let _running = graph.start();
    settled().await;
    far.deliver(0..1);
    settled().await;
    while stage.cast(Say("cast")).is_ok() {}
    stage.attach(tokio_stream::iter([Say("first"), Say("second")]));
    settled().await;
    gate.open(1);
    settled().await;
    assert!(log.all().ends_with(&[Note::Said("cast"), Note::Said("first"), Note::Said("second")]));
}

#[tokio::test(start_paused = true)]
async fn an_attached_stream_ends_with_its_stage() {
    let (spawner, log) = (Counted::default(), Log::new());
    let graph = Graph::with_spawner("test", spawner.clone());
    let stage = graph.consumer("sink", sink(&log)).stage_ref();
    let _running = graph.start();
    stage.attach(tokio_stream::iter(std::iter::repeat_with(|| with(|_: &mut Cx<'_>| {}))));
    tokio::task::yield_now().await;
    stage.cast(with(|cx| cx.stop(Exit::Normal))).unwrap();
    settled().await;
    assert_eq!(spawner.alive(), 0);
}

// Instances.

#[tokio::test(start_paused = true)]
async fn the_instances_of_a_stage_share_the_events_and_are_addressed_each() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", count(100, &Log::new()));
    let slow = sink_with(&log, |sink| sink.takes = Duration::from_millis(5));
    let sinks = graph.consumer("sink", slow).concurrency(4).subscribe_acknowledged(&numbers, 0..1);
    let instances = sinks.instances();
    assert_eq!((instances.len(), instances[3].name()), (4, "sink"));
    let mut running = graph.start();
    for (instance, text) in instances.iter().zip(["a", "b", "c", "d"]) {
        assert_eq!(instance.call(Say(text)).await, Ok(text));
    }
    instances[2].cast(with(|cx| cx.stop(Exit::Normal))).unwrap();
    log.has(&Note::Terminated("normal".into())).await;
    settled().await;
    let snapshot = running.snapshot();
    let ended: Vec<_> = snapshot.stages[1..].iter().map(|stage| (stage.instance, stage.ended)).collect();
    assert_eq!(ended, [(0, false), (1, false), (2, true), (3, false)]);
    let outcome = running.join().await.unwrap();
    let mut events = log.events();
    events.sort_unstable();
    assert_eq!(events, (0..100).collect::<Vec<_>>());
    assert!(outcome.stages[1..].iter().all(|stage| stage.stage == "sink"));
    assert!(outcome.stages[1].events_in > 20 && outcome.stages[2].events_in > 20);
}

#[tokio::test(start_paused = true)]
async fn whoever_subscribes_to_a_stage_subscribes_to_each_of_its_instances() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", count(10, &notes)).concurrency(3);
    graph.consumer("sink", sink(&log)).concurrency(2).subscribe(&numbers, 0..4);
    let outcome = graph.run().await.unwrap();
    let mut events = log.events();
    events.sort_unstable();
    assert_eq!(events, (0..30).map(|n| n / 3).collect::<Vec<_>>());
    assert_eq!((log.subscribed().len(), notes.subscribed().len(), outcome.stages.len()), (6, 6, 5));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "expected a concurrency of at least 1, got 0")]
async fn a_stage_without_instances_is_refused() {
    let _ = Graph::new("test").producer("numbers", endless(&Log::new())).concurrency(0);
}
