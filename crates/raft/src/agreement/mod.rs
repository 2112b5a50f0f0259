//! Whether the nodes agree: they compare hashes of their states, and one that a majority contradicts takes itself out of service.
//!
//! **The rolling hash** is of everything applied: entries, answers, events, and each circuit that an entry touched, as it was then. It is
//! there anyway, so it is compared each time. But it does not see what nobody touches: a circuit whose bits were flipped, in
//! memory or before a snapshot's checksum was made, may answer wrongly for days before a report about it makes the hashes differ.
//!
//! **The content hash** is of the whole state, and costs time in proportion to it. So it is made rarely, on a thread of its own, from a
//! frozen copy, and on each node after the same entry: the first whose cluster time lies in another period of [`PERIOD`] intervals than that
//! of the entry before. Cluster time is in the entries, so the nodes need not ask one another when. A busy cluster pays once a period,
//! not once in so many entries; and a quiet one comes to the next period too, because the leader writes the time into the log every
//! second for as long as there is a circuit. (Snapshots will not do: each node takes them where it likes.)
//!
//! **A comparison.** A node picks the newest entry it has applied, gives the others a moment to apply it too, and shows each its hashes; each
//! answers with its own for the same positions, if it has them. So all that is compared is of one position, whatever each node has
//! applied meanwhile, and both sides see a difference. Who is away, behind, too far ahead, of another version or just becoming a member
//! gives no answer, and no answer means nothing. A node whose state a snapshot has just replaced compares at once.
//!
//! **The verdict** is that of [`verdict`]: a majority of the voters is right. One that is contradicted by it notes so in its data directory, which
//! cannot be opened again, does not stand for election any more, and says why it cannot go on; the process hands over and exits. Without a majority (one of
//! three is away, and the other two differ) both say so and stay: nobody knows who is wrong, and if either left there would be no
//! cluster. The third decides when it is back.
//!
//! **Removed.** A member that was away when it was removed, or a learner, to which nobody sends the entry that removes it, asks the others to compare as
//! ever, and is told that it is a member no more.
//!
//! **What it does not see.** Between two positions a wrong content may travel: a leader that is wrong sends its snapshot to a node that was away, and of
//! three nodes two are wrong then. Nothing but the shortness of the period stands against that.
//!
//! How the files relate: [`history`] keeps rolling hashes, [`contents`] makes and keeps content hashes, [`verdict`] judges, [`record`]
//! remembers what was seen, and this one asks and acts.

mod contents;
mod history;
mod record;
mod verdict;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use brama_core::machine::HASH_SCHEME;
use brama_proto::internal as pb;

pub(crate) use self::contents::Contents;
pub(crate) use self::history::History;
pub(crate) use self::record::Record;
use self::verdict::{Verdict, judge};
use crate::data_dir::ADVICE;
use crate::inner::{Inner, REMOVED};
use crate::peers::Lane;
use crate::state_store::Standing;
use crate::types::Member;

/// So many intervals from one hash of the whole state to the next.
pub(crate) const PERIOD: u32 = 6;
/// The others get so long to apply what this node has applied, before it asks; less if the interval is short.
const SETTLE: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which of the two hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Applied,
    Content,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Applied => "what was applied",
            Self::Content => "the whole state",
        })
    }
}

/// A hash of this node, at a log index.
#[derive(Clone, Copy, Debug)]
struct Position {
    what: What,
    index: u64,
    hash: u64,
}

impl Position {
    fn asked(self) -> pb::StateHash {
        pb::StateHash {
            log_index: self.index,
            hash: self.hash,
        }
    }

    fn answer(self, response: &pb::CompareResponse) -> Option<u64> {
        match self.what {
            What::Applied => response.applied,
            What::Content => response.content,
        }
    }
}

/// Compares this node's state with the other members' for as long as it runs, or until it is out of service.
pub(crate) async fn run(node: Arc<Inner>) {
    let interval = node.options.compare_interval;
    let mut installed = node.state.installed();
    // Nodes that start together do not all ask at once.
    let mut next = Instant::now() + interval.mul_f64(rand::random());
    while !node.is_out_of_service() {
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
            changed = installed.changed() => if changed.is_err() { return },
        }
        next = Instant::now() + interval;
        if node.stop.run_until_cancelled(compare(&node)).await.is_none() {
            return;
        }
    }
}

/// One comparison with all other members.
async fn compare(node: &Inner) {
    let me = node.options.node_id;
    let circumstances = || (node.state.membership(), *node.state.installed().borrow());
    let before = circumstances();
    let membership = before.0.membership();
    let (index, hash) = node.state.hash();
    if membership.get_node(&me).is_none() || index == 0 {
        return;
    }
    let what = What::Applied;
    let applied = Position { what, index, hash };
    let what = What::Content;
    let content = node.state.contents().newest();
    let content = content.map(|(index, hash)| Position { what, index, hash });
    tokio::time::sleep(SETTLE.min(node.options.compare_interval / 4)).await;
    let request = pb::CompareRequest {
        scheme: HASH_SCHEME,
        applied: Some(applied.asked()),
        content: content.map(Position::asked),
    };
    let others = membership.nodes().filter(|(id, _)| **id != me);
    let asked = others.map(|(id, member)| ask(node, *id, member, request));
    let answers: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    if let Some((id, _)) = answers.iter().find(|(_, response)| response.removed) {
        // An id does not come back, so this is true for good.
        node.fail(format!("node {id} says: {REMOVED}"));
        return;
    }
    if circumstances() != before {
        // Other voters might judge otherwise, and another state is not what was asked about.
        tracing::debug!(
            "the membership or the state was replaced during a comparison: it counts for nothing"
        );
        return;
    }
    node.agreement.keep(|id| membership.get_node(&id).is_some());
    for position in [Some(applied), content].into_iter().flatten() {
        let theirs = answers
            .iter()
            .filter_map(|(id, response)| Some((*id, position.answer(response)?)));
        let theirs: BTreeMap<u64, u64> = theirs.collect();
        for (id, hash) in &theirs {
            node.agreement.enter(*id, position, *hash, node.clock.now());
        }
        match judge(me, position.hash, &theirs, membership.get_joint_config()) {
            Verdict::Equal => {}
            Verdict::OthersDiffer(differing) => say(
                position,
                &differing,
                &theirs,
                "the majority is with this node; who differs takes itself out of service when it finds out",
            ),
            Verdict::Undecided(differing) => say(
                position,
                &differing,
                &theirs,
                "without a majority nobody knows which of them is wrong: start the voters that are away, they decide",
            ),
            Verdict::ThisDiffers { right, majority } => {
                quarantine(node, position, right, &majority).await;
                return;
            }
        }
    }
}

/// What a member answers; `None` when it does not.
async fn ask(
    node: &Inner,
    id: u64,
    member: &Member,
    request: pb::CompareRequest,
) -> Option<(u64, pb::CompareResponse)> {
    // Beside the commands, so that heartbeats have theirs for themselves.
    let mut client = node.peers.client(id, member, Lane::Forward).ok()?;
    let problem = match tokio::time::timeout(PATIENCE, client.compare(request)).await {
        Ok(Ok(response)) => return Some((id, response.into_inner())),
        Ok(Err(status)) => status.to_string(),
        Err(_) => format!("no answer within {PATIENCE:?}"),
    };
    tracing::debug!(node = id, problem, "no comparison with this member");
    None
}

/// What this node answers another member. It sees a difference as well as the one that asks.
pub(crate) fn answer(node: &Inner, from: u64, request: &pb::CompareRequest) -> pb::CompareResponse {
    let standing = node.state.standing(from);
    if standing == Standing::Removed {
        return pb::CompareResponse {
            removed: true,
            ..Default::default()
        };
    }
    if request.scheme != HASH_SCHEME || !matches!(standing, Standing::Member(_)) {
        return pb::CompareResponse::default();
    }
    let applied = request.applied.and_then(|asked| {
        let (what, index) = (What::Applied, asked.log_index);
        let hash = node.state.hash_at(index)?;
        Some((Position { what, index, hash }, asked.hash))
    });
    let content = request.content.and_then(|asked| {
        let (what, index) = (What::Content, asked.log_index);
        let hash = node.state.contents().at(index)?;
        Some((Position { what, index, hash }, asked.hash))
    });
    for (position, theirs) in [applied, content].into_iter().flatten() {
        node.agreement.enter(from, position, theirs, node.clock.now());
        if theirs != position.hash {
            let theirs = BTreeMap::from([(from, theirs)]);
            say(
                position,
                &[from],
                &theirs,
                "the majority tells which of them is wrong",
            );
        }
    }
    pb::CompareResponse {
        applied: applied.map(|(position, _)| position.hash),
        content: content.map(|(position, _)| position.hash),
        removed: false,
    }
}

fn say(position: Position, differing: &[u64], theirs: &BTreeMap<u64, u64>, outlook: &str) {
    let Position { what, index, hash } = position;
    for id in differing {
        let other = theirs.get(id).copied().unwrap_or_default();
        tracing::error!(
            "node {id} differs from this one: its hash of {what} at log index {index} is {other:016x}, here it is {hash:016x}; {outlook}"
        );
    }
}

/// Takes this node out of service, for good: its data is not the cluster's.
async fn quarantine(node: &Inner, position: Position, right: u64, majority: &[u64]) {
    node.leave_service();
    let Position { what, index, hash } = position;
    let me = node.options.node_id;
    let nodes: Vec<String> = majority.iter().map(u64::to_string).collect();
    let why = format!(
        "node {me} differs from the majority: its hash of {what} at log index {index} is {hash:016x}, that of node {} is {right:016x}; it \
         took itself out of service for good",
        nodes.join(" and node ")
    );
    let advice = format!("Remove it from the cluster (`brama cluster remove {me}`), then {ADVICE}");
    let noted = match note(node, why.clone()).await {
        Ok(()) => String::new(),
        Err(problem) => format!(
            " The note of it in the data directory could not be written ({problem}): do not start it again."
        ),
    };
    let data_dir = node.options.data_dir.display();
    node.fail(format!("{why}.{noted} Its data is in {data_dir}. {advice}"));
}

/// From here on the data directory refuses to be opened.
async fn note(node: &Inner, why: String) -> Result<(), String> {
    let data_dir = node.data_dir.lock().clone().ok_or("this node is stopping")?;
    let environment = &node.options.environment;
    let written = environment
        .blocking(move || data_dir.take_out_of_service(&why))
        .await;
    written
        .map_err(|panic| panic.to_string())?
        .map_err(|error| error.to_string())
}
