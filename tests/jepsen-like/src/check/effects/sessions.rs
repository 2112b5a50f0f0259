//! A session is remembered, and a batch that is sent again gets the first answer again.

use std::collections::HashSet;

use crate::findings::Findings;
use crate::history::{Action, Op, Outcome};

/// One batch is on its way at a time, so that no number can be stale; and a session with an acknowledged batch must be known.
pub(super) fn check(ops: &[Op], findings: &mut Findings) {
    let mut known: HashSet<&str> = HashSet::new();
    let (mut again, mut answered) = (0, 0);
    for op in ops {
        let Action::Report { batch, session, .. } = &op.action else {
            continue;
        };
        for other in std::iter::once(&op.outcome).chain(&op.again) {
            match other {
                Outcome::Ok(_) => {
                    known.insert(session);
                }
                Outcome::Refused(why) | Outcome::Unknown(why) => {
                    findings.require(!why.contains("STALE_SEQUENCE"), "G3", || {
                        format!("batch {batch} is the newest of its session, and was called stale")
                    });
                    let lost = why.contains("SESSION_EXPIRED") && known.contains(session.as_str());
                    findings.require(!lost, "G8", || {
                        format!(
                            "session {session} had an acknowledged batch, and was unknown at batch {batch}"
                        )
                    });
                }
            }
        }
        for other in &op.again {
            again += 1;
            let (Outcome::Ok(first), Outcome::Ok(second)) = (&op.outcome, other) else {
                continue;
            };
            answered += 1;
            findings.require(first == second, "G3", || {
                format!(
                    "batch {batch} was answered with {first:?}, and with {second:?} when it was sent again"
                )
            });
        }
    }
    if again > 0 {
        findings.checked(
            "G3",
            format!(
                "{answered} of {again} batches that were sent again were answered, each as the first time"
            ),
        );
    }
}
