//! Whether a mended cluster has come to rest: all openings have ended, all nodes are equal, and all subscribers have everything.

use std::time::Duration;

use brama_proto::v1;

use crate::cluster::Cluster;
use crate::ledger::Ledger;
use crate::rpc::{Nodes, answer, timed};

/// Whether a mended cluster has come to rest.
pub(super) struct Rest {
    pub(super) problems: Vec<(&'static str, String)>,
    pub(super) summary: String,
}

impl Rest {
    pub(super) async fn look(cluster: &Cluster, nodes: &Nodes, ledger: &Ledger, circuits: usize) -> Self {
        let mut problems = Vec::new();
        let statuses: Vec<_> = cluster.statuses(nodes).await;
        let known: Vec<_> = statuses.iter().flatten().collect();
        if known.len() < statuses.len() {
            problems.push((
                "G12",
                format!("{} of {} nodes answer", known.len(), statuses.len()),
            ));
        }
        let at = |status: &v1::ClusterStatusResponse| (status.applied_index, status.state_hash.clone());
        if known.iter().any(|status| at(status) != at(known[0])) {
            let all: Vec<_> = known.iter().map(|status| at(status)).collect();
            problems.push(("G1", format!("the nodes are not equal: {all:?}")));
        }
        let revision = known
            .iter()
            .filter_map(|status| Some(status.header.as_ref()?.revision))
            .max()
            .unwrap_or(0);
        for (id, progress) in ledger.subscribers() {
            if progress.newest != revision {
                let what = format!(
                    "subscriber {id} is at revision {}, not {revision}",
                    progress.newest
                );
                problems.push(("G7", what));
            }
        }
        let request = v1::ListRequest {
            page_size: 1000,
            ..Default::default()
        };
        let within = Duration::from_secs(1);
        match answer(within, nodes.circuits(0).list(timed(request, within))).await {
            Ok(list) => {
                let open = list
                    .circuits
                    .iter()
                    .filter(|circuit| circuit.state() == v1::State::Open);
                let open = open.count();
                if open > 0 {
                    problems.push(("G5", format!("{open} circuits are still open")));
                }
                let out = list
                    .circuits
                    .iter()
                    .map(|circuit| circuit.probes_in_flight)
                    .sum::<u32>();
                if out > 0 {
                    problems.push(("G6", format!("{out} permits are still out")));
                }
                if list.circuits.len() != circuits {
                    problems.push((
                        "G8",
                        format!("there are {} of {circuits} circuits", list.circuits.len()),
                    ));
                }
            }
            Err(failure) => problems.push(("G12", format!("the circuits cannot be listed: {failure}"))),
        }
        let summary = known.first().map_or_else(String::new, |status| {
            format!(
                "log index {}, revision {revision}, state {} on all nodes",
                status.applied_index, status.state_hash
            )
        });
        Self { problems, summary }
    }
}
