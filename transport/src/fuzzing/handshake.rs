//! What two nodes agree on, whatever one of them says.

use std::collections::BTreeMap;

use serde::Serialize;

use super::frames::{decode, limits, raw, travels};
use super::input::Input;
use crate::Limits;
use crate::frame::{Frame, Hello, HelloAck, OfferedLimits};
use crate::protocol::introduction::{self, Offer, Versions};

/// An introduction out of any bytes, as a frame and as fields, is agreed on or refused; and both ends see the same.
pub fn handshake(data: &[u8]) {
    let mut input = Input::new(data);
    let ours = offer(&mut input);
    let frames = if input.flag() { raw(&mut input) } else { hello(&mut input) };
    for frame in frames {
        travels(&frame);
        match frame {
            Frame::Hello(hello) => meet(&ours, hello),
            Frame::HelloAck(ack) => told(&ours, ack),
            Frame::Refuse(refuse) => drop(format!("{}: {}", refuse.reason, refuse.message)),
            _ => {}
        }
    }
}

/// What a listener makes of a dialler, and the dialler of its answer.
fn meet(ours: &Offer, hello: Hello) {
    let versions = Versions { oldest: hello.proto_min, newest: hello.proto_max };
    let theirs = Offer { features: hello.features, limits: hello.limits, ..offer_of(versions) };
    let Ok(agreed) = introduction::negotiate(ours, &limits(), &theirs) else {
        let newest = ours.versions.newest.min(versions.newest);
        let oldest = ours.versions.oldest.max(versions.oldest);
        return assert!(newest < oldest, "there is a common version");
    };
    assert_eq!(agreed.version, ours.versions.newest.min(versions.newest));
    assert!(agreed.version >= ours.versions.oldest.max(versions.oldest));
    assert!(agreed.features.iter().all(|feature| ours.features.contains(feature) && theirs.features.contains(feature)));
    assert!(agreed.features.is_sorted_by(|a, b| a < b), "in order, and each once");
    are_kept(&agreed.limits, hello.limits);
    let ack = HelloAck {
        proto: agreed.version,
        node: hello.node,
        incarnation: hello.incarnation,
        features: agreed.features.clone(),
        limits: introduction::offer(versions, &agreed.limits).limits,
        functions: hello.functions,
    };
    let versions = Versions { oldest: ack.proto, newest: ack.proto };
    let answer = Offer { features: ack.features, limits: ack.limits, ..offer_of(versions) };
    let confirmed = introduction::confirm(&theirs, &limits(), &answer).expect("it was offered");
    assert_eq!((confirmed.version, &confirmed.features), (agreed.version, &agreed.features));
    assert_eq!(confirmed.limits, agreed.limits, "both ends keep to the same limits");
}

/// What a dialler makes of any answer.
fn told(ours: &Offer, ack: HelloAck) {
    let versions = Versions { oldest: ack.proto, newest: ack.proto };
    let theirs = Offer { features: ack.features, limits: ack.limits, ..offer_of(versions) };
    let is_offered = (ours.versions.oldest..=ours.versions.newest).contains(&ack.proto);
    match introduction::confirm(ours, &limits(), &theirs) {
        Ok(agreed) => {
            assert!(is_offered && agreed.version == ack.proto);
            are_kept(&agreed.limits, ack.limits);
        }
        Err(refused) => {
            assert!(!is_offered);
            assert_eq!((refused.dialler, refused.listener), (ours.versions, versions));
        }
    }
}

/// Neither more than we allow, nor more than they do, but room for a frame.
fn are_kept(agreed: &Limits, theirs: Option<OfferedLimits>) {
    let theirs = theirs.unwrap_or(OfferedLimits {
        data_frame_bytes: u64::MAX,
        control_frame_bytes: u64::MAX,
        event_bytes: u64::MAX,
    });
    let least = Limits::MIN_FRAME_BYTES;
    for (agreed, ours, theirs, least) in [
        (agreed.data_frame_bytes(), limits().data_frame_bytes(), theirs.data_frame_bytes, least),
        (agreed.control_frame_bytes(), limits().control_frame_bytes(), theirs.control_frame_bytes, least),
        (agreed.event_bytes(), limits().event_bytes(), theirs.event_bytes, 0),
    ] {
        let theirs = usize::try_from(theirs).unwrap_or(usize::MAX);
        assert_eq!(agreed, ours.min(theirs).max(least));
    }
}

fn offer(input: &mut Input<'_>) -> Offer {
    let (oldest, newest) = (u16::from(input.byte() % 5), u16::from(input.byte() % 9));
    let features = ["a", "b", "c", "dd"].map(str::to_owned).into_iter().filter(|_| input.flag()).collect();
    Offer { features, ..offer_of(Versions { oldest, newest }) }
}

fn offer_of(versions: Versions) -> Offer {
    introduction::offer(versions, &limits())
}

/// The first frame of a dialler, written as another implementation might.
fn hello(input: &mut Input<'_>) -> Vec<Frame> {
    #[derive(Serialize)]
    struct Fields {
        proto_min: u64,
        proto_max: u64,
        cluster: String,
        node: String,
        incarnation: u64,
        features: Vec<String>,
        limits: Option<BTreeMap<&'static str, u64>>,
    }
    let known = ["a", "b", "dd"];
    let fields = Fields {
        proto_min: input.number(),
        proto_max: input.number(),
        cluster: input.text(),
        node: input.text(),
        incarnation: input.number(),
        features: (0..input.byte() % 80)
            .map(|_| if input.flag() { known[input.byte() as usize % 3].to_owned() } else { input.text() })
            .collect(),
        limits: input.flag().then(|| {
            let names = ["data_frame_bytes", "control_frame_bytes", "event_bytes"];
            names.map(|name| (name, input.number())).into()
        }),
    };
    let mut frame = vec![0, 0, 0, 0, 1];
    rmp_serde::encode::write_named(&mut frame, &fields).expect("text and numbers can be written to a vector");
    let length = frame.len() as u32 - 4;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    decode([frame.into()]).0
}
