//! A UDP proxy between the two processes, on loopback: what is late, out of order, lost or there twice, where the system
//! has no tool for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aqueduct_stage::{Spawner, TokioSpawner};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::faults::{Random, Side};

/// What happens to packets on their way to one side. By default nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) lost_percent: u64,
    pub(crate) twice_percent: u64,
    pub(crate) delay: Duration,
    /// Up to so much is added to the delay of each packet by itself, which puts them out of order.
    pub(crate) jitter: Duration,
}

/// Whoever sends to its address talks to its target. Ends when it is dropped.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) target: SocketAddr,
    /// By the side that packets go to.
    weather: Arc<Mutex<[Weather; 2]>>,
    /// How many packets were lost or doubled.
    harmed: Arc<AtomicU64>,
    _stop: oneshot::Sender<()>,
}

impl Relay {
    pub(crate) async fn new(target: SocketAddr, random: Random) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let weather = Arc::new(Mutex::new([Weather::default(); 2]));
        let harmed = Arc::new(AtomicU64::new(0));
        let (shared, counted) = (Arc::clone(&weather), Arc::clone(&harmed));
        let sky = Sky { weather: shared, harmed: counted, random, packets: 0, falling: BTreeMap::new() };
        let (_stop, stopped) = oneshot::channel();
        TokioSpawner.spawn("relay", Box::pin(relay(front, back, target, sky, stopped)));
        Self { address, target, weather, harmed, _stop }
    }

    pub(crate) fn set(&self, to: Side, weather: Weather) {
        self.weather.lock().unwrap()[to as usize] = weather;
    }

    pub(crate) fn harmed(&self) -> u64 {
        self.harmed.load(Ordering::Relaxed)
    }
}

/// Serves one client at a time: the one that was heard of last.
async fn relay(
    front: UdpSocket,
    back: UdpSocket,
    target: SocketAddr,
    mut sky: Sky,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut client = None;
    let (mut to_producer, mut to_consumer) = (vec![0; LONGEST], vec![0; LONGEST]);
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => return,
            () = sky.wait() => {
                // What cannot be sent is lost, as on any network.
                match sky.land() {
                    (Side::Producer, packet) => drop(back.send_to(&packet, target).await),
                    (Side::Consumer, packet) => {
                        if let Some(client) = client {
                            drop(front.send_to(&packet, client).await);
                        }
                    }
                }
            }
            received = front.recv_from(&mut to_producer) => {
                if let Ok((bytes, from)) = received {
                    client = Some(from);
                    sky.rise(Side::Producer, &to_producer[..bytes]);
                }
            }
            received = back.recv_from(&mut to_consumer) => {
                if let Ok((bytes, from)) = received && from == target {
                    sky.rise(Side::Consumer, &to_consumer[..bytes]);
                }
            }
        }
    }
}

/// The packets on their way.
struct Sky {
    weather: Arc<Mutex<[Weather; 2]>>,
    harmed: Arc<AtomicU64>,
    random: Random,
    packets: u64,
    /// By when they land, and then as they came.
    falling: BTreeMap<(Instant, u64), (Side, Vec<u8>)>,
}

impl Sky {
    fn rise(&mut self, to: Side, packet: &[u8]) {
        let weather = self.weather.lock().unwrap()[to as usize];
        let is_twice = self.random.below(100) < weather.twice_percent;
        self.harmed.fetch_add(u64::from(is_twice), Ordering::Relaxed);
        for _ in 0..1 + usize::from(is_twice) {
            if self.random.below(100) < weather.lost_percent || self.falling.len() == MOST_PACKETS {
                self.harmed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let jitter = Duration::from_micros(self.random.below(weather.jitter.as_micros() as u64 + 1));
            self.packets += 1;
            self.falling.insert((Instant::now() + weather.delay + jitter, self.packets), (to, packet.to_vec()));
        }
    }

    /// Waits until the next one is due.
    async fn wait(&self) {
        match self.falling.first_key_value() {
            Some(((due, _), _)) => sleep_until(*due).await,
            None => std::future::pending().await,
        }
    }

    fn land(&mut self) -> (Side, Vec<u8>) {
        self.falling.pop_first().expect("it was waited for").1
    }
}

const LONGEST: usize = 65_536;
/// As much as a switch keeps; what is above is lost.
const MOST_PACKETS: usize = 10_000;
