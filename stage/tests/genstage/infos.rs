//! a.8 of GenStage: an info is handled after the events that were buffered when it was sent.

use aqueduct_stage::{CallError, DemandMode, Exit, Graph, Keep, Mode, Never, NoOutput, Running, Stage};

use crate::support::{Far, Gate, Log, Note, Numbers, Say, Sink, emit, idle, relay, settled, sink, sink_with, with};

/// A producer that emits what it is told to, and a consumer that asks when it is told to.
struct Bench {
    running: Running,
    numbers: Stage<Numbers, Never, u64>,
    sink: Stage<Sink, u64, Never, NoOutput>,
    notes: Log,
    log: Log,
}

async fn bench(capacity: usize, keep: Keep) -> Bench {
    let (graph, notes, log) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes)).buffer(capacity, keep);
    let sink = graph.consumer("sink", sink_with(&log, |sink| sink.mode = Mode::Manual)).subscribe(&numbers, 0..1);
    let bench = Bench { running: graph.start(), numbers, sink, notes, log };
    settled().await;
    bench
}

impl Bench {
    async fn emit(&self, events: std::ops::Range<u64>) {
        self.numbers.stage_ref().call(emit(events)).await.unwrap();
    }

    fn info(&self, text: &'static str) {
        self.numbers.stage_ref().info(Say(text)).unwrap();
    }

    async fn ask(&self, count: usize) {
        let id = self.log.first_subscribed().await;
        self.sink.stage_ref().call(with(move |cx| cx.ask(id, count))).await.unwrap();
        settled().await;
    }

    fn said(&self) -> Vec<&'static str> {
        said(&self.notes)
    }
}

fn said(log: &Log) -> Vec<&'static str> {
    let said = |note| if let Note::Said(text) = note { Some(text) } else { None };
    log.all().into_iter().filter_map(said).collect()
}

#[tokio::test(start_paused = true)]
async fn to_a_consumer_an_info_comes_after_the_events_that_were_sent() {
    let (graph, log, far, gate) = (Graph::new("test"), Log::new(), Far::new(), Gate::closed());
    let stage = graph.consumer("sink", sink_with(&log, |sink| sink.gate = Some(gate.clone()))).subscribe(&far, 0..10);
    let _running = graph.start();
    settled().await;
    far.deliver(0..1);
    far.deliver(1..2);
    stage.stage_ref().info(Say("info")).unwrap();
    settled().await;
    assert_eq!(log.batches().len(), 1);
    gate.open(2);
    settled().await;
    assert_eq!(log.all()[1..], [Note::Events(vec![0], 1), Note::Events(vec![1], 1), Note::Said("info")]);
}

#[tokio::test(start_paused = true)]
async fn with_an_empty_buffer_it_is_handled_at_once() {
    let bench = bench(10, Keep::Last).await;
    bench.info("info");
    settled().await;
    assert_eq!(bench.said(), ["info"]);
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_what_was_buffered_before_it_and_for_nothing_else() {
    let bench = bench(10, Keep::Last).await;
    bench.emit(0..3).await;
    bench.info("first");
    bench.info("second");
    bench.emit(3..5).await;
    bench.info("third");
    bench.ask(2).await;
    assert_eq!((bench.said(), bench.log.events()), (vec![], vec![0, 1]));
    bench.ask(1).await;
    assert_eq!((bench.said(), bench.log.events()), (vec!["first", "second"], vec![0, 1, 2]));
    bench.ask(2).await;
    assert_eq!(bench.said(), ["first", "second", "third"]);
    drop(bench.running);
}

#[tokio::test(start_paused = true)]
async fn an_ask_is_served_up_to_the_info_and_then_beyond() {
    let bench = bench(10, Keep::Last).await;
    bench.emit(0..3).await;
    bench.info("info");
    bench.emit(3..5).await;
    bench.ask(7).await;
    assert_eq!(bench.log.batches(), [vec![0, 1, 2], vec![3, 4]]);
    assert_eq!((bench.said(), bench.notes.asked()), (vec!["info"], vec![2]), "what is left of the ask");
}

#[tokio::test(start_paused = true)]
async fn an_info_whose_events_were_dropped_is_handled() {
    let bench = bench(3, Keep::Last).await;
    bench.emit(0..2).await;
    bench.info("first");
    bench.emit(2..3).await;
    bench.info("second");
    settled().await;
    bench.emit(3..4).await;
    assert_eq!(bench.said(), [] as [&str; 0], "the second event still waits");
    bench.emit(4..5).await;
    settled().await;
    assert_eq!(bench.said(), ["first"]);
    bench.emit(5..10).await;
    settled().await;
    assert_eq!(bench.said(), ["first", "second"]);
    bench.ask(3).await;
    assert_eq!(bench.log.events(), [7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn where_newcomers_are_dropped_an_info_waits_for_what_was_kept() {
    let bench = bench(3, Keep::First).await;
    bench.emit(0..5).await;
    bench.info("info");
    bench.emit(5..7).await;
    bench.ask(2).await;
    assert_eq!(bench.said(), [] as [&str; 0]);
    bench.ask(1).await;
    assert_eq!((bench.said(), bench.log.events()), (vec!["info"], vec![0, 1, 2]));
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_what_accumulated() {
    let bench = bench(10, Keep::Last).await;
    bench.numbers.stage_ref().set_demand(DemandMode::Accumulate).unwrap();
    bench.ask(5).await;
    bench.emit(0..3).await;
    bench.info("info");
    settled().await;
    assert_eq!(bench.said(), [] as [&str; 0]);
    bench.numbers.stage_ref().set_demand(DemandMode::Forward).unwrap();
    settled().await;
    assert_eq!((bench.said(), bench.log.events()), (vec!["info"], vec![0, 1, 2]));
}

#[tokio::test(start_paused = true)]
async fn in_a_producer_consumer_it_keeps_its_place_in_the_queue() {
    let (graph, log, seen, far) = (Graph::new("test"), Log::new(), Log::new(), Far::new());
    let middle = graph.stage("relay", relay(&seen)).subscribe(&far, 5..10);
    let manual = graph.consumer("sink", sink_with(&log, |sink| sink.mode = Mode::Manual)).subscribe(&middle, 0..1);
    let _running = graph.start();
    let id = log.first_subscribed().await;
    let ask = async |count| {
        manual.stage_ref().call(with(move |cx| cx.ask(id, count))).await.unwrap();
        settled().await;
    };
    middle.stage_ref().info(Say("early")).unwrap();
    settled().await;
    assert_eq!(said(&seen), ["early"], "nothing was queued");
    far.deliver(0..3);
    middle.stage_ref().info(Say("middle")).unwrap();
    far.deliver(3..6);
    settled().await;
    assert_eq!(said(&seen), ["early"]);
    ask(1).await;
    // The first entry was handled, and two of its events are in the buffer: the info stands behind them.
    assert_eq!((said(&seen), seen.batches().len()), (vec!["early"], 1));
    ask(2).await;
    assert_eq!((said(&seen), seen.batches().len()), (vec!["early", "middle"], 1));
    ask(3).await;
    assert_eq!(log.events(), (0..6).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_is_done_tells_itself_to_stop_by_info() {
    let (graph, log) = (Graph::new("test"), Log::new());
    let numbers = graph.producer("numbers", idle(&Log::new()));
    graph.consumer("sink", sink(&log)).subscribe(&numbers, 0..2);
    let mut running = graph.start();
    settled().await;
    let stop = numbers.stage_ref();
    numbers
        .stage_ref()
        .call(with(move |cx| {
            cx.emit_all(0..9);
            // Of this kind a stage drops what it has not delivered.
            stop.info(with(|cx| cx.stop(Exit::Shutdown))).unwrap();
        }))
        .await
        .unwrap();
    let _ = running.join().await;
    assert_eq!(log.events(), (0..9).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn infos_that_wait_are_bounded() {
    let bench = bench(10, Keep::Last).await;
    bench.emit(0..1).await;
    let send = async |count: usize| {
        let mut refused = 0;
        for _ in 0..count {
            match bench.numbers.stage_ref().info(Say("info")) {
                Ok(()) => {}
                Err(CallError::Overloaded { bound: 1024 }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
            settled().await;
        }
        refused
    };
    assert_eq!(send(1_030).await, 6);
    bench.ask(1).await;
    assert_eq!(bench.said().len(), 1_024);
    assert_eq!(send(1).await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_info_to_an_ended_stage_is_refused() {
    let bench = bench(10, Keep::Last).await;
    bench.numbers.stage_ref().cast(with(|cx| cx.stop(Exit::Shutdown))).unwrap();
    settled().await;
    assert_eq!(bench.numbers.stage_ref().info(Say("info")), Err(CallError::Stopped));
}

#[tokio::test(start_paused = true)]
async fn what_was_given_back_stands_before_an_info() {
    let (graph, log, notes) = (Graph::new("test"), Log::new(), Log::new());
    let numbers = graph.producer("numbers", idle(&notes));
    graph.consumer("sick", sink_with(&log, |sink| sink.poison = Some(0))).subscribe_acknowledged(&numbers, 0..3);
    let well = graph.consumer("well", sink(&log));
    let running = graph.start();
    settled().await;
    numbers.stage_ref().call(emit(0..3)).await.unwrap();
    settled().await;
    assert_eq!(numbers.stage_ref().estimate_buffered().await, Ok(3));
    numbers.stage_ref().info(Say("info")).unwrap();
    settled().await;
    assert_eq!(said(&notes), [] as [&str; 0]);
    running.subscribe(&well, &numbers, 0..3);
    settled().await;
    assert_eq!((said(&notes), log.events()), (vec!["info"], vec![0, 1, 2]));
}
