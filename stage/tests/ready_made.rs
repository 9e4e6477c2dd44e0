//! The ready-made stages, and what they are built on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

#[path = "ready_made/tasks.rs"]
mod tasks;
