//! Fault runs against real `brama` processes: they die, stop, are cut off from each other, get slow links and wrong clocks while clients
//! work, and then everything that was seen is held against the contract.
//!
//! ```text
//!   hosts        network namespaces: one a node, and one for all clients
//!   links        packets that are dropped, and a proxy for each link from node to node
//!      ▲
//!   cluster      `brama serve` processes, each with its own directory, addresses and log
//!      ▲ ▲
//!      │ └──────── nemesis      breaks and mends all of that, one thing or several at once (seeded), and looks whether it is so
//!      │
//!   workload     clients: every operation goes to the history with its start, its end and its outcome
//!   subscriber   one a node: every event goes to the ledger, in order or not at all
//!   monitor      asks each node for its state's hash, and notices a process that ended by itself
//!
//!   check        history + ledger + monitor  ->  findings: what is broken, what could not be told, figures
//! ```
//!
//! Only what a user has is used: the binary with a configuration file, and the protocol `brama.v1`. An operation ends in one of three ways:
//! *ok* (its effect must be there, once), *refused* (it must not be there), *unknown* (there at most once).
//!
//! [`run`] is the long random run; [`scenario`] holds the short ones, which each measure one promise.

pub mod check;
pub mod circuits;
pub mod cluster;
pub mod disk;
pub mod filtered;
pub mod findings;
pub mod history;
pub mod hosts;
pub mod ledger;
pub mod links;
pub mod lossy;
pub mod monitor;
pub mod mutants;
pub mod nemesis;
pub mod node;
pub mod progress;
pub mod recorded;
pub mod report;
pub mod rpc;
pub mod rules;
pub mod run;
pub mod scenario;
pub mod subscriber;
pub mod time;
pub mod votes;
pub mod workload;
