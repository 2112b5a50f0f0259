//! Leadership is handed to whom it can and cannot be handed to (row 22 of the matrix): a follower that is well, one that is dead, one that is stopped, one
//! that is far behind, a learner, one that was removed, and one that never was. Each time the question is answered in time, and writes go on.

use std::time::Duration;

use brama_proto::v1;

use super::kill_leader::one_circuit;
use super::membership::{join_as_learner, remove};
use super::pulse::Pulse;
use super::stage::Stage;
use super::vigil::Vigil;
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::progress;
use crate::rpc::{answer, timed};
use crate::time::{Micros, show_ms};

const PATIENCE: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(10);
/// A leader waits two seconds for its target; then it says that nobody took over.
const ANSWERED: Micros = 4_000_000;
/// Four times the longest election timeout: when the target cannot take over, there may have to be an election.
const ELECTION: Micros = 4_000_000;
/// Where nothing has to be waited for.
const AT_ONCE: Micros = 1_000_000;
/// Writes that a target misses until it is behind: more than the log keeps, so that it needs a snapshot.
const BEHIND: u64 = 300;

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Well,
    Dead,
    Stopped,
    /// Stopped while the others wrote, and back for a moment.
    Behind,
    Learner,
    Removed,
    NeverThere,
}

impl Target {
    const FOLLOWERS: [Self; 4] = [Self::Well, Self::Dead, Self::Stopped, Self::Behind];

    fn name(self) -> &'static str {
        match self {
            Self::Well => "a follower that is well",
            Self::Dead => "one that is dead",
            Self::Stopped => "one that is stopped",
            Self::Behind => "one that is behind",
            Self::Learner => "a learner",
            Self::Removed => "one that was removed",
            Self::NeverThere => "one that never was",
        }
    }

    /// How long writes may stop.
    fn bound(self) -> Micros {
        match self {
            Self::Dead | Self::Stopped | Self::Behind => ELECTION,
            Self::Well | Self::Learner | Self::Removed | Self::NeverThere => AT_ONCE,
        }
    }

    fn is_refused(self) -> bool {
        matches!(self, Self::Learner | Self::Removed | Self::NeverThere)
    }
}

/// Each kind of follower so many times, the others once.
///
/// # Errors
/// When it could not be done.
pub async fn transfer(times: u32) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let options = ClusterOptions {
        settings: vec![
            ("raft", "snapshot_every", 100.into()),
            ("raft", "keep_entries", 20.into()),
        ],
        ..Default::default()
    };
    let mut stage = Stage::start(options, one_circuit()).await?;
    let vigil = Vigil::start(&stage);
    let pulse = Pulse::start(&stage, vec![0, 1, 2]);
    let mut tries = Vec::new();
    for time in 1..=times {
        for target in Target::FOLLOWERS {
            progress::step(format!(
                "handing leadership to {}, {time} of {times}",
                target.name()
            ));
            stage.cluster.wait_until_ready(PATIENCE).await?;
            tries.push(hand_to_follower(&stage, &pulse, target).await?);
        }
    }
    progress::step("handing leadership to nodes that are no voters");
    stage.cluster.wait_until_ready(PATIENCE).await?;
    tries.push(ask(&stage, &pulse, Target::NeverThere, 99, 2).await?);
    join_as_learner(&mut stage, 4).await?;
    tries.push(ask(&stage, &pulse, Target::Learner, 4, 2).await?);
    remove(&stage, 0, 4).await?;
    tries.push(ask(&stage, &pulse, Target::Removed, 4, 2).await?);
    // A learner does not hear that it was removed: nobody tells it anything any more.
    stage.cluster.nodes()[3].kill().await?;

    pulse.stop().await?;
    judge(&tries, &mut findings);
    let observed = vigil.end(&mut findings).await?;
    findings.figure("terms with a leader", observed.leaders.to_string());
    stage.finish(findings).await
}

/// What came of one question.
#[derive(Debug)]
struct Try {
    target: Target,
    took: Micros,
    /// The longest time without a write from the question on.
    gap: Micros,
    answered: Result<u64, String>,
    asked_for: u64,
    /// Who led before, and some time after.
    before: u64,
    after: u64,
}

async fn hand_to_follower(stage: &Stage, pulse: &Pulse, target: Target) -> anyhow::Result<Try> {
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let position = (leader + 1) % 3;
    let node = &stage.cluster.nodes()[position];
    let others: Vec<_> = (0..3).filter(|other| *other != position).collect();
    match target {
        Target::Dead => {
            pulse.aim(stage, others);
            node.kill().await?;
        }
        Target::Stopped => {
            pulse.aim(stage, others);
            node.pause()?;
        }
        Target::Behind => {
            pulse.aim(stage, others);
            node.pause()?;
            let before = pulse.count();
            stage
                .wait(PATIENCE, "writes that the target misses", async |_| {
                    Ok(pulse.count() >= before + BEHIND)
                })
                .await?;
            node.resume()?;
        }
        _ => pulse.aim(stage, vec![0, 1, 2]),
    }
    // The leader may have changed meanwhile, which is its right; it is not whom this asks for.
    let tried = ask(stage, pulse, target, node.spec.id, leader).await?;
    match target {
        Target::Dead => node.start()?,
        Target::Stopped => node.resume()?,
        _ => {}
    }
    Ok(tried)
}

/// Asks through the node at this position, and waits until a write that was sent later is acknowledged, and a little longer.
async fn ask(stage: &Stage, pulse: &Pulse, target: Target, id: u64, through: usize) -> anyhow::Result<Try> {
    let id_at = |position: usize| stage.cluster.nodes()[position].spec.id;
    // So that a time without writes before the question is none of its.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let asked = stage.clock.now();
    let request = timed(v1::TransferLeaderRequest { node_id: Some(id) }, CALL);
    let answered = answer(CALL, stage.nodes.cluster(through).transfer_leader(request)).await;
    let took = stage.clock.now() - asked;
    stage
        .wait(PATIENCE, "a write after the question", async |_| {
            Ok(pulse.first_after(asked).is_some())
        })
        .await?;
    // An election that the question caused would show within this.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let after = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    Ok(Try {
        target,
        took,
        gap: pulse.longest_gap(asked, stage.clock.now()),
        answered: answered
            .map(|response| response.leader_id)
            .map_err(|failure| failure.to_string()),
        asked_for: id,
        before: id_at(before),
        after: id_at(after),
    })
}

fn judge(tries: &[Try], findings: &mut Findings) {
    for tried in tries {
        let Try {
            target,
            took,
            gap,
            answered,
            ..
        } = tried;
        findings.require(*took <= ANSWERED, "G12", || {
            format!("{} was answered only after {}", target.name(), show_ms(*took))
        });
        findings.require(*gap <= target.bound(), "G12", || {
            format!(
                "with {} writes stopped for {}, {} are allowed: {tried:?}",
                target.name(),
                show_ms(*gap),
                show_ms(target.bound())
            )
        });
        let is_right = match (target, answered) {
            (Target::Well, answered) => *answered == Ok(tried.asked_for) && tried.after == tried.asked_for,
            // Whoever is said to lead must be able to.
            (Target::Dead | Target::Stopped, Ok(leader)) => *leader != tried.asked_for,
            (target, Ok(_)) if target.is_refused() => false,
            (target, Err(_)) if target.is_refused() => tried.before == tried.after,
            _ => true,
        };
        findings.require(is_right, "G12", || {
            format!("{}: this is no right answer: {tried:?}", target.name())
        });
    }
    let kinds = Target::FOLLOWERS
        .into_iter()
        .chain([Target::Learner, Target::Removed, Target::NeverThere]);
    for kind in kinds {
        let of_kind = || tries.iter().filter(|tried| tried.target == kind);
        let most = |value: fn(&Try) -> Micros| show_ms(of_kind().map(value).max().unwrap_or(0));
        let said = of_kind().map(|tried| match &tried.answered {
            Ok(leader) if *leader == tried.asked_for => "it leads".to_owned(),
            Ok(leader) => format!("node {leader} leads"),
            Err(error) => error.clone(),
        });
        let said: std::collections::BTreeSet<_> = said.collect();
        findings.figure(
            format!("to {}", kind.name()),
            format!(
                "answered within {}, longest without a write {} ({} allowed); {}",
                most(|tried| tried.took),
                most(|tried| tried.gap),
                show_ms(kind.bound()),
                said.into_iter().collect::<Vec<_>>().join(" | ")
            ),
        );
    }
    findings.checked(
        "G12",
        format!(
            "{} transfers answered within {}, and writes went on",
            tries.len(),
            show_ms(ANSWERED)
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(target: Target, answered: Result<u64, String>, gap: Micros, after: u64) -> Findings {
        let mut findings = Findings::default();
        let tried = Try {
            target,
            took: 1000,
            gap,
            answered,
            asked_for: 2,
            before: 1,
            after,
        };
        judge(&[tried], &mut findings);
        findings
    }

    #[test]
    fn a_wrong_answer_a_long_gap_and_a_leader_that_changed_for_nothing_are_found() {
        let no = || Err("refused".to_owned());
        assert_eq!(tried(Target::Well, Ok(2), 1000, 2).count("G12"), 0);
        assert_eq!(tried(Target::Well, Ok(3), 1000, 3).count("G12"), 1);
        assert_eq!(tried(Target::Well, Ok(2), AT_ONCE + 1, 2).count("G12"), 1);
        assert_eq!(tried(Target::Dead, no(), ELECTION, 1).count("G12"), 0);
        assert_eq!(tried(Target::Dead, Ok(2), 1000, 1).count("G12"), 1);
        assert_eq!(tried(Target::Removed, no(), 1000, 1).count("G12"), 0);
        assert_eq!(tried(Target::Removed, no(), 1000, 3).count("G12"), 1);
        assert_eq!(tried(Target::Removed, Ok(3), 1000, 1).count("G12"), 1);
    }
}
