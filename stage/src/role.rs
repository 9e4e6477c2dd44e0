//! [`Role`]: which of the three kinds a stage is.

/// The three kinds of stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Producer,
    ProducerConsumer,
    Consumer,
}
