//! What an entry feeds to the rolling hash.
//!
//! Encoding everything for it took a third of what applying a report costs. So what each report makes (an answer, an event, a circuit that counts) is fed
//! in words of fixed width, many at once, when it is made; only what is rare is fed in its encoding. What a circuit is called, its options and its
//! metadata are not fed with it again and again: commands set them, and those and their answers are fed.
//!
//! Whatever changes here changes the hash of the same state: see [`super::HASH_SCHEME`].

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use crate::circuit::{Circuit, State};
use crate::command::CircuitId;
use crate::event::Event;
use crate::query::Totals;
use crate::reply::{Answer, BatchReply, ItemReply, Reply};
use crate::time::ClusterTime;

/// Room that is kept from one entry to the next.
const KEPT_BYTES: usize = 4 * 1024 * 1024;

/// What was fed since the hash was made last.
#[derive(Debug, Default)]
pub(super) struct Digest {
    bytes: Vec<u8>,
}

impl Digest {
    /// The hash of all that was fed; it begins anew.
    pub(super) fn take(&mut self) -> u64 {
        let hash = xxh3_64(&self.bytes);
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        hash
    }

    pub(super) fn words<const N: usize>(&mut self, words: [u64; N]) {
        self.bytes
            .extend_from_slice(words.map(u64::to_le_bytes).as_flattened());
    }

    /// Bytes whose number is fed with them, so that no two sequences of things are one sequence of bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.words([bytes.len() as u64]);
        self.bytes.extend_from_slice(bytes);
    }

    /// What is rare.
    pub(super) fn encoding(&mut self, value: &impl Serialize) {
        let bytes = std::mem::take(&mut self.bytes);
        self.bytes = postcard::to_extend(value, bytes).expect("state and commands have encodings");
    }

    pub(super) fn answer(&mut self, answer: &Answer) {
        let Ok(Reply::Reported(BatchReply { revision, items })) = answer else {
            self.words([0]);
            self.encoding(answer);
            return;
        };
        self.words([1, *revision, items.len() as u64]);
        for item in items {
            match item {
                ItemReply::NotFound => self.words([0]),
                ItemReply::Counted {
                    late,
                    state,
                    generation,
                    failure_count,
                } => {
                    let what = packed([1, u8::from(*late), *state as u8, 0]);
                    self.words([what | u64::from(*failure_count) << 32, *generation]);
                }
            }
        }
    }

    /// A circuit as it is now; `None`: it was removed.
    pub(super) fn circuit(&mut self, id: CircuitId, circuit: Option<&Circuit>) {
        let Some(circuit) = circuit else {
            self.words([id.0, 0]);
            return;
        };
        let Circuit {
            name: _,
            state,
            generation,
            failure_count,
            openings_in_a_row,
            own: _,
            metadata: _,
            totals,
            last_success_at,
            last_failure_at,
            last_reason,
            registered_at,
            changed_at,
            active_at,
            revision,
        } = circuit;
        let Totals {
            successes,
            failures,
            ignored,
            rejected,
        } = *totals;
        let closed = matches!(state, State::Closed);
        let has = packed([
            1,
            u8::from(closed),
            u8::from(last_success_at.is_some()) | u8::from(last_failure_at.is_some()) << 1,
            u8::from(last_reason.is_some()),
        ]);
        self.words([
            id.0,
            has,
            *generation,
            pair(*failure_count, *openings_in_a_row),
            successes,
            failures,
            ignored,
            rejected,
            micros(*last_success_at),
            micros(*last_failure_at),
            registered_at.as_micros(),
            changed_at.as_micros(),
            active_at.as_micros(),
            *revision,
        ]);
        if !closed {
            self.encoding(state);
        }
        if let Some(reason) = last_reason {
            self.bytes(reason.as_bytes());
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        let Event {
            revision,
            time,
            name,
            kind,
            previous_state,
            new_state,
            failure_count,
            cause,
            reason,
            metadata,
            generation,
            count,
            expires_at,
            permit,
            openings_in_a_row,
        } = event;
        let what = packed([
            *kind as u8,
            *cause as u8,
            previous_state.map_or(0, |state| state as u8 + 1),
            new_state.map_or(0, |state| state as u8 + 1),
        ]);
        let is_plain = reason.is_none() && expires_at.is_none() && permit.is_none() && metadata.is_empty();
        let has = packed([
            u8::from(name.is_some()),
            u8::from(name.as_ref().is_some_and(|name| name.scope.is_some())),
            u8::from(is_plain),
            0,
        ]);
        self.words([
            *revision,
            time.as_micros(),
            what | has << 32,
            pair(*failure_count, *openings_in_a_row),
            *generation,
            *count,
        ]);
        if let Some(name) = name {
            if let Some(scope) = &name.scope {
                self.bytes(scope.as_bytes());
            }
            self.bytes(name.identifier.as_bytes());
        }
        if !is_plain {
            self.encoding(&(reason, expires_at, permit, metadata));
        }
    }
}

fn packed(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_le_bytes(bytes))
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// 0 also stands for none, which is told elsewhere.
fn micros(at: Option<ClusterTime>) -> u64 {
    at.map_or(0, ClusterTime::as_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circuit::{self, StateName};
    use crate::command::PermitId;
    use crate::event::{Cause, EventKind};
    use crate::metadata::Metadata;
    use crate::name::CircuitName;
    use crate::policy::Policy;
    use crate::reply::Refusal;
    use crate::shared_metadata::SharedMetadata;

    fn all_differ(hashes: &[u64]) {
        for (i, hash) in hashes.iter().enumerate() {
            assert!(
                !hashes[..i].contains(hash),
                "number {i} is one of those before it"
            );
        }
    }

    /// The hash of each: of `plain`, and of `plain` after one of the changes.
    fn hashes<T: Clone>(plain: &T, feed: impl Fn(&mut Digest, &T), changes: &[fn(&mut T)]) -> Vec<u64> {
        let hash = |value: &T| {
            let mut digest = Digest::default();
            feed(&mut digest, value);
            digest.take()
        };
        let changed = changes.iter().map(|change| {
            let mut value = plain.clone();
            change(&mut value);
            hash(&value)
        });
        std::iter::once(hash(plain)).chain(changed).collect()
    }

    #[test]
    fn whatever_differs_in_an_event_is_in_the_hash() {
        let name = |scope, identifier| CircuitName::new(scope, identifier).ok();
        let plain = Event {
            revision: 1,
            time: ClusterTime::from_micros(2),
            name: name(Some("shop"), "payments"),
            kind: EventKind::Failure,
            previous_state: Some(StateName::Closed),
            new_state: Some(StateName::Closed),
            failure_count: 3,
            cause: Cause::Request,
            reason: None,
            metadata: SharedMetadata::default(),
            generation: 4,
            count: 5,
            expires_at: None,
            permit: None,
            openings_in_a_row: 6,
        };
        let changes: &[fn(&mut Event)] = &[
            |event| event.revision = 7,
            |event| event.time = ClusterTime::from_micros(7),
            |event| event.name = None,
            |event| event.name = CircuitName::new(None, "payments").ok(),
            |event| event.name = CircuitName::new(Some("shopp"), "ayments").ok(),
            |event| event.kind = EventKind::Success,
            |event| event.previous_state = None,
            |event| event.previous_state = Some(StateName::Open),
            |event| event.new_state = None,
            |event| event.new_state = Some(StateName::Open),
            |event| event.failure_count = 7,
            |event| event.cause = Cause::Threshold,
            |event| event.reason = Some("".into()),
            |event| event.reason = Some("timeout".into()),
            |event| event.metadata = Metadata::from([("team", "pay")]).into(),
            |event| event.generation = 7,
            |event| event.count = 7,
            |event| event.expires_at = Some(ClusterTime::ZERO),
            |event| event.permit = Some(PermitId(0)),
            |event| event.openings_in_a_row = 7,
        ];
        all_differ(&hashes(&plain, Digest::event, changes));
    }

    #[test]
    fn whatever_counts_of_a_circuit_is_in_the_hash() {
        let plain = circuit::sample(2);
        let changes: &[fn(&mut Circuit)] = &[
            |circuit| {
                circuit.state = State::Open {
                    since: ClusterTime::ZERO,
                    until: None,
                    reason: None,
                }
            },
            |circuit| {
                circuit.state = State::Open {
                    since: ClusterTime::ZERO,
                    until: Some(ClusterTime::ZERO),
                    reason: None,
                }
            },
            |circuit| circuit.generation = 8,
            |circuit| circuit.failure_count = 8,
            |circuit| circuit.openings_in_a_row = 8,
            |circuit| circuit.totals.successes = 8,
            |circuit| circuit.totals.failures = 8,
            |circuit| circuit.totals.ignored = 8,
            |circuit| circuit.totals.rejected = 8,
            |circuit| circuit.last_success_at = Some(ClusterTime::ZERO),
            |circuit| circuit.last_failure_at = Some(ClusterTime::ZERO),
            |circuit| circuit.last_reason = Some("".into()),
            |circuit| circuit.registered_at = ClusterTime::from_micros(8),
            |circuit| circuit.changed_at = ClusterTime::from_micros(8),
            |circuit| circuit.active_at = ClusterTime::from_micros(8),
            |circuit| circuit.revision = 8,
        ];
        let feed = |digest: &mut Digest, circuit: &Circuit| digest.circuit(CircuitId(1), Some(circuit));
        let mut found = hashes(&plain, feed, changes);
        found.extend(hashes(
            &CircuitId(1),
            |digest, id| digest.circuit(*id, None),
            &[|id| id.0 = 2],
        ));
        all_differ(&found);
        // These are fed when they are set.
        let set: &[fn(&mut Circuit)] = &[|circuit| circuit.own = Some(Policy::default().into())];
        let [before, after] = hashes(&plain, feed, set)[..] else {
            panic!("two hashes");
        };
        assert_eq!(before, after);
    }

    #[test]
    fn whatever_differs_in_an_answer_is_in_the_hash() {
        let counted = ItemReply::Counted {
            late: false,
            state: StateName::Closed,
            generation: 1,
            failure_count: 2,
        };
        let reported = |revision, items: &[ItemReply]| -> Answer {
            let items = items.to_vec();
            Ok(Reply::Reported(BatchReply { revision, items }))
        };
        let with = |late, state, generation, failure_count| {
            let item = ItemReply::Counted {
                late,
                state,
                generation,
                failure_count,
            };
            reported(1, &[item])
        };
        let answers = [
            reported(1, &[]),
            reported(2, &[]),
            reported(1, &[ItemReply::NotFound]),
            reported(1, &[counted]),
            reported(1, &[counted, counted]),
            reported(1, &[counted, ItemReply::NotFound]),
            reported(1, &[ItemReply::NotFound, counted]),
            with(true, StateName::Closed, 1, 2),
            with(false, StateName::HalfOpen, 1, 2),
            with(false, StateName::Closed, 2, 2),
            with(false, StateName::Closed, 1, 1),
            Ok(Reply::Done),
            Ok(Reply::Unregistered { existed: true }),
            Ok(Reply::Unregistered { existed: false }),
            Err(Refusal::invalid("field", "problem")),
        ];
        let found = answers.map(|answer| hashes(&answer, Digest::answer, &[])[0]);
        all_differ(&found);
    }
}
