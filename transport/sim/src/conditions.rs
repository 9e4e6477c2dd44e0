//! [`LinkConditions`]: what the network does to datagrams in one direction between two hosts.

use std::time::Duration;

use rand::Rng;

/// What the network does to datagrams from one host to another.
///
/// The default is a good network: 1 ms of delay, no jitter, no faults, datagrams up to 1472 bytes (an Ethernet frame
/// less the headers of IPv4 and UDP), any number of them at a time. Probabilities are per datagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkConditions {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
    pub(crate) corruption: f64,
    pub(crate) mtu_bytes: usize,
    /// In bytes per second; `None` is without a limit.
    pub(crate) bandwidth: Option<u64>,
    pub(crate) queue_bytes: usize,
}

impl Default for LinkConditions {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(1),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplication: 0.0,
            corruption: 0.0,
            mtu_bytes: 1472,
            bandwidth: None,
            queue_bytes: 128 << 10,
        }
    }
}

impl LinkConditions {
    /// Draws a mix in which each fault is either off or on with a strength of its own (swarm testing: a mix of all
    /// faults at once hides the bugs that need the absence of one). QUIC gets through any of them.
    pub fn draw(rng: &mut impl Rng) -> Self {
        let mut on = |most: f64| if rng.random_bool(0.5) { rng.random_range(0.0..most) } else { 0.0 };
        let (delay, jitter, loss) = (on(0.050), on(0.100), on(0.15));
        let (duplication, corruption, mtu_cut) = (on(0.10), on(0.03), on(272.0));
        Self {
            delay: Duration::from_millis(1) + Duration::from_secs_f64(delay),
            jitter: Duration::from_secs_f64(jitter),
            loss,
            duplication,
            corruption,
            mtu_bytes: 1472 - mtu_cut as usize,
            ..Self::default()
        }
    }

    /// Sets how long every datagram takes. Default: 1 ms. Delivery happens on whole milliseconds, as tokio's timers do.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sets the upper bound of a random extra delay. Default: none. Jitter above the distance of two datagrams reorders
    /// them.
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Sets the probability that a datagram disappears. Default: 0.
    ///
    /// # Panics
    /// If it is not between 0 and 1.
    #[track_caller]
    pub fn loss(mut self, probability: f64) -> Self {
        self.loss = checked(probability);
        self
    }

    /// Sets the probability that a datagram arrives twice. Default: 0.
    ///
    /// # Panics
    /// If it is not between 0 and 1.
    #[track_caller]
    pub fn duplication(mut self, probability: f64) -> Self {
        self.duplication = checked(probability);
        self
    }

    /// Sets the probability that one bit of a datagram is flipped. Default: 0.
    ///
    /// # Panics
    /// If it is not between 0 and 1.
    #[track_caller]
    pub fn corruption(mut self, probability: f64) -> Self {
        self.corruption = checked(probability);
        self
    }

    /// Sets the largest datagram that gets through, in bytes of UDP payload. Default: 1472. QUIC needs 1200.
    pub fn mtu_bytes(mut self, mtu_bytes: usize) -> Self {
        self.mtu_bytes = mtu_bytes;
        self
    }

    /// Sets how many bytes of UDP payload leave per second; further datagrams wait for their turn, in one queue per
    /// direction between two hosts. Default: without a limit. 100 Mbit/s are 12,500,000.
    ///
    /// # Panics
    /// If it is 0: that is a [cut](crate::SimNet::cut).
    #[track_caller]
    pub fn bandwidth(mut self, bytes_per_second: u64) -> Self {
        assert!(bytes_per_second > 0, "expected a bandwidth above 0");
        self.bandwidth = Some(bytes_per_second);
        self
    }

    /// Sets how many bytes may wait where the [bandwidth](Self::bandwidth) is limited: what does not fit is dropped.
    /// Default: 128 KiB. A long queue delays everything, as QUIC fills it before it slows down; a short one drops bursts.
    pub fn queue_bytes(mut self, queue_bytes: usize) -> Self {
        self.queue_bytes = queue_bytes;
        self
    }
}

#[track_caller]
fn checked(probability: f64) -> f64 {
    assert!((0.0..=1.0).contains(&probability), "{probability} is not a probability");
    probability
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn draws_switch_each_fault_on_and_off() {
        let draws: Vec<_> = (0..200).map(|seed| LinkConditions::draw(&mut StdRng::seed_from_u64(seed))).collect();
        let share = |is_on: fn(&LinkConditions) -> bool| draws.iter().filter(|c| is_on(c)).count();
        for on in [
            share(|c| c.jitter > Duration::ZERO),
            share(|c| c.loss > 0.0),
            share(|c| c.duplication > 0.0),
            share(|c| c.corruption > 0.0),
            share(|c| c.mtu_bytes < 1472),
        ] {
            assert!((50..150).contains(&on), "{on} of 200");
        }
        assert!(draws.iter().all(|c| c.mtu_bytes >= 1200));
    }

    #[test]
    #[should_panic(expected = "1.5 is not a probability")]
    fn a_probability_is_at_most_one() {
        let _ = LinkConditions::default().loss(1.5);
    }
}
