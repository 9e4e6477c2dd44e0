//! What the benches share: input to measure on, and the plain code that ours is measured against.
//!
//! This crate is never published and never a dependency of product code, so that the crates of rivals and of helpers stay
//! out of everybody else's build. Each file beside this one, and each folder with a
//! `main.rs`, is a bench and answers one question; its header says which, and how to run it.
//!
//! * [`measure`] lets ours and the reference take turns, and prints medians and `RATIO` lines; [`turns`] are the options of
//!   benches of several rows
//! * [`stages`] are the stages that the benches of edges run, and [`edges`] the same without stages
//! * [`text`] makes text of any size from a seed; the program `gen_text` writes it to a file
//! * [`by_hand`] counts words without any library, in one thread and in two
//! * [`peers`] are two processes that talk to each other, in our way and in others; [`events`] is what they exchange, and
//!   [`rate`] counts it

pub mod by_hand;
pub mod edges;
pub mod events;
pub mod measure;
pub mod peers;
pub mod rate;
pub mod stages;
pub mod text;
pub mod turns;
