#![doc = include_str!("../PROTOCOL.md")]

pub(crate) mod introduction;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};
    use std::fmt::Write;
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;

    use aqueduct_stage::{Answer, Attempt, Demand};
    use bytes::Bytes;

    use crate::codec::{Written, encode};
    use crate::frame::{Frame, FrameDecoder, Reason, Session, Subscribe};
    use crate::link::{Inbound, InboundEvent, Outbound};
    use crate::{Limits, frame};

    #[test]
    fn both_ends_say_byte_for_byte_what_was_recorded() {
        let recorded = fs::read_to_string(file("exchange.txt")).unwrap();
        assert_eq!(record(&recorded), recorded);
    }

    /// `cargo test -p aqueduct-transport --lib exchange_is_recorded -- --ignored`, after a change of the protocol.
    #[test]
    #[ignore = "it writes into the sources"]
    fn the_exchange_is_recorded() {
        let recorded = fs::read_to_string(file("exchange.txt")).unwrap();
        fs::write(file("exchange.txt"), record(&recorded)).unwrap();
        fs::write(file("decoded.txt"), decoded()).unwrap();
    }

    #[test]
    fn a_decoder_written_from_the_page_reads_the_same() {
        assert_eq!(decoded(), fs::read_to_string(file("decoded.txt")).unwrap());
    }

    #[test]
    fn the_page_names_every_frame_with_its_number_and_fields() {
        let page = include_str!("../PROTOCOL.md");
        for frame in frame::tests::examples() {
            let bytes = frame::tests::bytes_of(&frame);
            let row = format!("| {} | {} |", bytes[4], frame.name());
            assert!(page.contains(&row), "{row}");
        }
        for number in 0..=17 {
            assert!(page.contains(&format!("| {number} | ")), "reason {number}");
        }
    }

    /// What the independent decoder says of the recorded exchange.
    fn decoded() -> String {
        let run = Command::new("python3").arg(file("decode.py")).arg(file("exchange.txt")).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap()
    }

    /// Does again what the lines that begin with `=` say, and writes down what both ends say to each other.
    fn record(script: &str) -> String {
        let mut ends = Ends::new();
        let mut record = String::new();
        for line in script.lines().filter(|line| !line.starts_with(['<', '>'])) {
            writeln!(record, "{line}").unwrap();
            if let Some(step) = line.strip_prefix("= ") {
                ends.step(step);
                ends.settle(&mut record);
            }
        }
        record
    }

    /// Both ends of a link, and what nodes say when they meet.
    struct Ends {
        inbound: Inbound,
        outbound: Outbound,
        epoch: u64,
        up: VecDeque<Frame>,
        down: VecDeque<Frame>,
        sent: u64,
        /// What the consumer has begun with.
        begun: BTreeSet<u64>,
        /// The introduction is over.
        is_linked: bool,
    }

    impl Ends {
        fn new() -> Self {
            let mut outbound = Outbound::new(limits());
            outbound.take_answers();
            outbound.announced();
            let inbound = Inbound::new(limits(), subscribe("bytes")).unwrap();
            Self {
                inbound,
                outbound,
                epoch: 0,
                up: VecDeque::new(),
                down: VecDeque::new(),
                sent: 0,
                begun: BTreeSet::new(),
                is_linked: false,
            }
        }

        fn step(&mut self, step: &str) {
            let (what, number) = step.rsplit_once(' ').map_or((step, 0), |(what, number)| match number.parse() {
                Ok(number) => (what, number),
                Err(_) => (step, 0),
            });
            match what {
                "the dialler introduces itself" => self.up.push_back(example(1)),
                "the listener answers" => self.down.push_back(example(2)),
                "the listener refuses" => self.down.push_back(example(3)),
                "the subscriber subscribes, and will say what is handled" => {
                    self.inbound.handled(Demand::ZERO);
                    self.is_linked = true;
                }
                "the subscriber allows so many bytes to wait:" => {
                    self.inbound.bound_bytes(number);
                    self.inbound.taken(Demand::ZERO);
                }
                "the consumer asks for so many in all:" => self.inbound.ask(Demand::new(number)),
                "the producer sends an event of so many bytes:" => self.send(number),
                "another subscriber takes numbers, and asks for so many in all:" => {
                    let subscribe = Subscribe { takes_columns: true, ..subscribe("i64") };
                    self.inbound = Inbound::new(Limits::default(), subscribe).unwrap();
                    self.outbound = Outbound::new(Limits::default());
                    self.epoch = 0;
                    self.inbound.ask(Demand::new(number));
                }
                "the producer sends the squares, less 4 each, from that of -3 to that of" => {
                    let squares: Vec<i64> = (-3..=number as i64).map(|n| n * n - 4).collect();
                    self.outbound.send(Written::of(&squares, &limits()).unwrap(), Attempt::FIRST);
                }
                "the consumer has handled so many in all:" => self.inbound.handled(Demand::new(number)),
                "the consumer is done with event" => self.inbound.answer(number, Answer::Done),
                "the consumer has results of this event and of the one before:" => {
                    self.inbound.result(number, b"seven");
                    self.inbound.result(number - 1, b"six");
                }
                "the consumer wants another try at event" => {
                    let delay = std::time::Duration::from_millis(250);
                    self.inbound.answer(number, Answer::Retry { delay, message: "busy".into() });
                }
                "the consumer begins with event" => {
                    self.begun.insert(number);
                    self.inbound.answer(number, Answer::Begun);
                }
                "the producer wants back event" => self.outbound.revoke(number),
                "the stream is cut" => {
                    self.outbound.cut();
                    self.epoch = self.inbound.resume().unwrap();
                }
                "the producer is exhausted" => self.outbound.finish(),
                "the consumer cancels" => self.inbound.cancel(Reason::Normal, &[]),
                other => panic!("unknown step {other:?}"),
            }
        }

        fn send(&mut self, bytes: u64) {
            self.sent += 1;
            let event = Bytes::from(vec![self.sent as u8; bytes as usize]);
            self.outbound.send(encode(&[event], &limits()).unwrap(), Attempt::FIRST);
        }

        fn settle(&mut self, record: &mut String) {
            loop {
                let up = self.up.pop_front().map(|frame| frame::tests::bytes_of(&frame));
                let is_linked = self.is_linked;
                let next = |inbound: &mut Inbound| if is_linked { inbound.poll_transmit() } else { None };
                if let Some(bytes) = up.or_else(|| next(&mut self.inbound).map(Vec::from)) {
                    match note('>', &bytes, record) {
                        Frame::Subscribe(_) => self.outbound.accept(),
                        Frame::Resume(resume) => self.outbound.resume(resume.epoch, resume.arrived).unwrap(),
                        Frame::Hello(_) => {}
                        frame => self.outbound.handle_frame(self.epoch, &frame).unwrap(),
                    }
                    continue;
                }
                let down = self.down.pop_front().map(|frame| frame::tests::bytes_of(&frame));
                let Some(mut bytes) = down.or_else(|| self.outbound.poll_transmit().map(Vec::from)) else { return };
                // A long payload comes in two pieces.
                if u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize + 4 > bytes.len() {
                    bytes.extend_from_slice(&self.outbound.poll_transmit().unwrap());
                }
                match note('<', &bytes, record) {
                    Frame::HelloAck(_) | Frame::Refuse(_) => {}
                    frame => self.inbound.handle_frame(self.epoch, frame).unwrap(),
                }
                while let Some(event) = self.inbound.poll_event() {
                    if let InboundEvent::Revoked { number } = event {
                        let is_begun = self.begun.contains(&number);
                        self.inbound.answer(number, if is_begun { Answer::Begun } else { Answer::Returned });
                    }
                }
            }
        }
    }

    fn subscribe(signature: &str) -> Subscribe {
        Subscribe {
            producer: "numbers".into(),
            signature: signature.into(),
            max_demand: 10,
            min_demand: 5,
            session: Some(Session { incarnation: 7, number: 1 }),
            selector: None,
            instance: 0,
            consumer: None,
            announces: true,
            takes_columns: false,
        }
    }

    /// Writes a frame down, and returns what it decodes to.
    fn note(direction: char, bytes: &[u8], record: &mut String) -> Frame {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(record, "{direction} {hex}").unwrap();
        let mut decoder = FrameDecoder::new(limits());
        decoder.push(Bytes::copy_from_slice(bytes));
        decoder.next_frame().unwrap().unwrap()
    }

    /// A frame of that type.
    fn example(kind: u8) -> Frame {
        frame::tests::examples().into_iter().find(|frame| frame::tests::bytes_of(frame)[4] == kind).unwrap()
    }

    fn limits() -> Limits {
        Limits::default().max_data_frame_bytes(Limits::MIN_FRAME_BYTES)
    }

    fn file(name: &str) -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "tests", "protocol", name].iter().collect()
    }
}
