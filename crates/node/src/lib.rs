//! A node of Brama: the services, subscriptions, timers and life cycle around the replicated breaker.
//!
//! [`lifecycle::Node`] puts the parts together: `brama_raft::Replica` is consensus and state, `api` is what clients call, [`timers`] fires
//! what is due while this node leads, [`config`] is what the node was told before it started,
//! `pages` is what an operator asks: `health` and `metrics`.

pub mod api;
pub mod clock_source;
pub mod config;
mod connections;
pub mod filter;
mod gathering;
mod health;
pub mod lifecycle;
pub mod logging;
mod metrics;
mod news;
mod pages;
mod server;
mod subscribers;
mod subscription;
pub mod timers;
mod told;

pub use brama_raft::fault_build;
pub use lifecycle::Node;
