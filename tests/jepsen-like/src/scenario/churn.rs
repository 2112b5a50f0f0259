//! Nodes come and go while others die and stop, under load (row 21 of the matrix): three voters become five and three again, the leader is among
//! those that go, and what is gone never comes back under its id. New nodes get a snapshot, because the log is short.

use std::collections::BTreeSet;
use std::time::Duration;

use brama_proto::v1;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::kill_leader::one_circuit;
use super::membership::{REMOVED, expect_end, join_as_learner, promote, remove};
use super::pulse::Pulse;
use super::stage::Stage;
use super::vigil::Vigil;
use crate::cluster::{ClusterOptions, status};
use crate::findings::Findings;
use crate::progress;
use crate::rpc::{answer, timed};
use crate::time::{Micros, percentile, show_ms};
use crate::workload::{Client, Mix};

const PATIENCE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(5);
/// Four times the longest election timeout.
const BOUND: Micros = 4_000_000;
const CLIENTS: u32 = 3;

/// What goes wrong while the membership changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    KillLeader,
    StopLeader,
    KillFollower,
    StopFollower,
    /// The node that joins, if one does.
    KillNewest,
}

impl Trouble {
    const ALL: [Self; 5] = [
        Self::KillLeader,
        Self::StopLeader,
        Self::KillFollower,
        Self::StopFollower,
        Self::KillNewest,
    ];
}

/// Grows from three to five voters and shrinks again, so many times; with trouble in each change.
///
/// # Errors
/// When it could not be done.
pub async fn churn(rounds: u32, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let options = ClusterOptions {
        settings: vec![
            ("raft", "snapshot_every", 150.into()),
            ("raft", "keep_entries", 20.into()),
            ("raft", "compare_interval", "1s".into()),
        ],
        ..Default::default()
    };
    let stage = Stage::start(options, one_circuit()).await?;
    let vigil = Vigil::start(&stage);
    let pulse = Pulse::start(&stage, vec![0, 1, 2]);
    let mut churn = Churn {
        stage,
        pulse,
        rng: StdRng::seed_from_u64(seed),
        seed,
        voters: vec![0, 1, 2],
        clients: 0,
        troubles: Vec::new(),
        done: Vec::new(),
    };
    for round in 1..=rounds {
        progress::step(format!("membership, round {round} of {rounds}"));
        churn.round(&mut findings).await?;
    }
    let Churn {
        stage, pulse, done, ..
    } = churn;
    pulse.stop().await?;
    let observed = vigil.end(&mut findings).await?;
    judge(&done, &mut findings);
    findings.figure("terms with a leader", observed.leaders.to_string());
    findings.figure("log dropped up to", observed.purged.to_string());
    if observed.snapshot == 0 || observed.purged == 0 {
        findings.untold("the log was never compacted, so no new node needed a snapshot");
    }
    stage.finish(findings).await
}

/// One change of the membership, and what went wrong meanwhile.
#[derive(Debug)]
struct Change {
    what: String,
    trouble: Trouble,
    took: Micros,
    gap: Micros,
    /// Writes that were acknowledged while it lasted.
    writes: u64,
}

struct Churn {
    stage: Stage,
    pulse: Pulse,
    rng: StdRng,
    seed: u64,
    /// Positions. A node's id is its position and one.
    voters: Vec<usize>,
    clients: u32,
    /// What has not happened in this turn yet.
    troubles: Vec<Trouble>,
    done: Vec<Change>,
}

impl Churn {
    async fn round(&mut self, findings: &mut Findings) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            self.clients += 1;
            let client = Client::new(
                self.clients,
                self.nodes_of_voters()?,
                self.stage.circuits.clone(),
                self.stage.history.clone(),
                Mix::Reports,
                self.seed,
            );
            clients.spawn(client.run(stop.clone()));
        }
        for _ in 0..2 {
            self.grow(findings).await?;
        }
        // The leader goes, then another one of those that were there.
        let leader = self.leader().await?;
        self.shrink(leader, findings).await?;
        let old = *self.voters.first().unwrap_or(&0);
        self.shrink(old, findings).await?;
        stop.cancel();
        while let Some(client) = clients.join_next().await {
            client?;
        }
        Ok(())
    }

    async fn grow(&mut self, findings: &mut Findings) -> anyhow::Result<()> {
        let id = self.stage.nodes.len() as u64 + 1;
        self.rest().await?;
        let began = self.stage.clock.now();
        let before = self.pulse.count();
        let trouble = self.next_trouble(true);
        let position = join_as_learner(&mut self.stage, id).await?;
        let hit = self.victim(trouble, Some(position), None).await?;
        let (delay, lasts) = self.times();
        let (promoted, struck) = tokio::join!(
            promote(&self.stage, self.voters[0], id),
            strike(&self.stage, trouble, hit, delay, lasts)
        );
        struck?;
        promoted?;
        self.voters.push(position);
        self.changed(format!("node {id} joins"), trouble, began, before, findings)
            .await
    }

    async fn shrink(&mut self, position: usize, findings: &mut Findings) -> anyhow::Result<()> {
        let id = position as u64 + 1;
        self.rest().await?;
        let began = self.stage.clock.now();
        let before = self.pulse.count();
        let trouble = self.next_trouble(false);
        self.voters.retain(|voter| *voter != position);
        self.pulse.aim(&self.stage, self.voters.clone());
        let hit = self.victim(trouble, None, Some(position)).await?;
        let (delay, lasts) = self.times();
        // Not through the node that is hit: it would only take longer.
        let through = self.voters.iter().copied().find(|voter| *voter != hit);
        let (removed, struck) = tokio::join!(
            remove(&self.stage, through.unwrap_or(0), id),
            strike(&self.stage, trouble, hit, delay, lasts)
        );
        struck?;
        removed?;
        expect_end(&self.stage, position, REMOVED, findings).await?;
        self.changed(format!("node {id} goes"), trouble, began, before, findings)
            .await?;
        self.expect_id_is_used_up(position, findings).await
    }

    /// The change is over: the voters are those that they should be, on every node.
    async fn changed(
        &mut self,
        what: String,
        trouble: Trouble,
        began: Micros,
        before: u64,
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        let ids: BTreeSet<u64> = self.voters.iter().map(|position| *position as u64 + 1).collect();
        let voters = self.voters.clone();
        let seen = self
            .stage
            .wait(PATIENCE, "all agree on who votes", async |stage: &Stage| {
                for position in &voters {
                    let Some(status) = status(&stage.nodes, *position).await else {
                        return Ok(false);
                    };
                    let members: BTreeSet<_> = status.members.iter().map(|member| member.node_id).collect();
                    if members != ids || !status.members.iter().all(|member| member.voter) {
                        return Ok(false);
                    }
                }
                Ok(true)
            })
            .await;
        if let Err(error) = seen {
            findings.broken("G1", format!("{what}: {error:#}"));
        }
        self.pulse.aim(&self.stage, self.voters.clone());
        // A write after it, so that a time without any shows as a whole.
        let now = self.stage.clock.now();
        self.stage
            .wait(PATIENCE, "a write after the change", async |_| {
                Ok(self.pulse.first_after(now).is_some())
            })
            .await?;
        let until = self.stage.clock.now();
        self.done.push(Change {
            what,
            trouble,
            took: until - began,
            gap: self.pulse.longest_gap(began, until),
            writes: self.pulse.count() - before,
        });
        Ok(())
    }

    /// An id is never used again, whoever has it.
    async fn expect_id_is_used_up(&self, position: usize, findings: &mut Findings) -> anyhow::Result<()> {
        let spec = &self.stage.cluster.nodes()[position].spec;
        let request = v1::AddLearnerRequest {
            node_id: spec.id,
            peer_address: spec.peer.to_string(),
            client_address: spec.client.to_string(),
        };
        let mut client = self.stage.nodes.cluster(self.voters[0]);
        let answered = answer(CALL, client.add_learner(timed(request, CALL))).await;
        findings.require(answered.is_err(), "G8", || {
            format!("node {} was removed, and can join again", spec.id)
        });
        Ok(())
    }

    /// Everybody is there before the next change: only one is ever away.
    async fn rest(&self) -> anyhow::Result<()> {
        let voters = self.voters.clone();
        self.stage
            .wait(PATIENCE, "all voters follow one leader", async |stage: &Stage| {
                let asked = voters.iter().map(|position| status(&stage.nodes, *position));
                let statuses = futures::future::join_all(asked).await;
                let Some(all) = statuses.into_iter().collect::<Option<Vec<_>>>() else {
                    return Ok(false);
                };
                let leader = all.first().and_then(|status| status.leader_id);
                let follow =
                    |status: &v1::ClusterStatusResponse| status.has_quorum && status.leader_id == leader;
                Ok(leader.is_some() && all.iter().all(follow))
            })
            .await
    }

    async fn leader(&self) -> anyhow::Result<usize> {
        self.rest().await?;
        self.stage
            .cluster
            .wait_for_leader(&self.stage.nodes, PATIENCE)
            .await
    }

    /// Each kind once before one comes again. Only who joins can be killed while it joins.
    fn next_trouble(&mut self, joins: bool) -> Trouble {
        if self
            .troubles
            .iter()
            .all(|trouble| !joins && *trouble == Trouble::KillNewest)
        {
            self.troubles.extend(Trouble::ALL);
            self.troubles.shuffle(&mut self.rng);
        }
        let fits = |trouble: &Trouble| joins || *trouble != Trouble::KillNewest;
        let last = self.troubles.iter().rposition(fits).unwrap_or(0);
        self.troubles.remove(last)
    }

    /// Whom it hits: a voter that stays, or the newest.
    async fn victim(
        &mut self,
        trouble: Trouble,
        newest: Option<usize>,
        goes: Option<usize>,
    ) -> anyhow::Result<usize> {
        let leader = self.leader().await?;
        let others: Vec<_> = self
            .voters
            .iter()
            .copied()
            .filter(|voter| *voter != leader && Some(*voter) != goes)
            .collect();
        let other = others.choose(&mut self.rng).copied().unwrap_or(leader);
        Ok(match (trouble, newest) {
            (Trouble::KillNewest, Some(newest)) => newest,
            // A leader that goes anyway dies on the way.
            (Trouble::KillLeader | Trouble::StopLeader, _) if goes != Some(leader) => leader,
            _ => other,
        })
    }

    fn times(&mut self) -> (Duration, Duration) {
        let delay = self.rng.random_range(0..200);
        let lasts = self.rng.random_range(300..2000);
        (Duration::from_millis(delay), Duration::from_millis(lasts))
    }

    fn nodes_of_voters(&self) -> anyhow::Result<crate::rpc::Nodes> {
        let addresses = self.stage.cluster.addresses();
        crate::rpc::Nodes::new(self.voters.iter().map(|position| addresses[*position]))
    }
}

async fn strike(
    stage: &Stage,
    trouble: Trouble,
    position: usize,
    delay: Duration,
    lasts: Duration,
) -> anyhow::Result<()> {
    let node = &stage.cluster.nodes()[position];
    tokio::time::sleep(delay).await;
    if matches!(trouble, Trouble::StopLeader | Trouble::StopFollower) {
        node.pause()?;
        tokio::time::sleep(lasts).await;
        node.resume()
    } else {
        node.kill().await?;
        tokio::time::sleep(lasts).await;
        node.start()
    }
}

fn judge(done: &[Change], findings: &mut Findings) {
    for change in done {
        findings.require(change.gap <= BOUND, "G12", || {
            format!(
                "{}: writes stopped for {} ({change:?})",
                change.what,
                show_ms(change.gap)
            )
        });
        if change.writes == 0 {
            findings.untold(format!("no write was acknowledged meanwhile: {change:?}"));
        }
    }
    let mut gaps: Vec<_> = done.iter().map(|change| change.gap).collect();
    gaps.sort_unstable();
    let took = done.iter().map(|change| change.took).max().unwrap_or(0);
    findings.figure(
        "changes of the membership",
        format!(
            "{}, the longest took {}; longest without a write: median {}, worst {} ({} allowed)",
            done.len(),
            show_ms(took),
            show_ms(percentile(&gaps, 50)),
            show_ms(percentile(&gaps, 100)),
            show_ms(BOUND)
        ),
    );
    for trouble in Trouble::ALL {
        let of_kind: Vec<_> = done.iter().filter(|change| change.trouble == trouble).collect();
        let gap = of_kind.iter().map(|change| change.gap).max().unwrap_or(0);
        findings.figure(
            format!("... with {trouble:?}"),
            format!("{} times, worst {}", of_kind.len(), show_ms(gap)),
        );
        if of_kind.is_empty() {
            findings.untold(format!("{trouble:?} never happened"));
        }
    }
    findings.checked(
        "G12",
        format!("{} changes of the membership, and writes went on", done.len()),
    );
    findings.checked(
        "G8",
        "nodes that were removed said so and ended, and none came back under its id",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Verdict;

    #[test]
    fn a_long_gap_is_found_and_a_change_without_writes_shows_nothing() {
        let all = |gap, writes| {
            let change = |trouble| Change {
                what: "node 4 joins".into(),
                trouble,
                took: 1,
                gap,
                writes,
            };
            let mut findings = Findings::default();
            judge(&Trouble::ALL.map(change), &mut findings);
            findings
        };
        assert_eq!(all(BOUND, 1).verdict(), Verdict::Holds);
        assert_eq!(all(BOUND + 1, 1).count("G12"), Trouble::ALL.len());
        assert_eq!(all(BOUND, 0).verdict(), Verdict::Unknown);
    }
}
