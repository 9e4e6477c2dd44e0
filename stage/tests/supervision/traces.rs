//! What is traced of a restart.

use std::fmt::Write as _;

use super::*;

/// Collects the fields of spans named `stage.restart`.
struct Spans(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Spans {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        struct Line(String);
        impl tracing::field::Visit for Line {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                write!(self.0, "{field}={value:?} ").unwrap();
            }
        }
        if span.metadata().name() == "stage.restart" {
            let mut line = Line(String::new());
            span.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn each_restart_is_a_span_with_its_reason_and_number() {
    let spans = Arc::<Mutex<Vec<String>>>::default();
    let _guard = tracing::subscriber::set_default(Spans(Arc::clone(&spans)));
    let (log, graph) = (Log::new(), Graph::new("demo"));
    let [_, b, _] = three(&graph, &log, Restart::Permanent);
    let _running = graph.start();
    for how in ["fail", "stop"] {
        let _ = b.call(Say(how)).await;
        support::settled().await;
    }
    let spans = spans.lock().unwrap().clone();
    let expected = [
        r#"stage="b" instance=0 attempt=1 reason=stage "b" failed: oops "#,
        r#"stage="b" instance=0 attempt=2 reason=normal "#,
    ];
    assert_eq!(spans, expected);
}
