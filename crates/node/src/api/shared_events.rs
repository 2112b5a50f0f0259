//! Events as they go to subscribers, encoded once a node.
//!
//! A thousand subscribers of one circuit get the same bytes: the event, and the cursor after it. To make them anew for each would be most of
//! what delivering costs.

use std::sync::Arc;

use parking_lot::Mutex;

use brama_core::command::ClusterId;
use brama_core::cursor;
use brama_core::event::Event;
use brama_proto::encoded::Encoded;
use brama_proto::v1;
use v1::subscribe_response::Message;

/// Newest messages that are kept. Whoever reads further back shares less.
const KEPT: usize = 1024;
/// A longer message is not kept, so that all of them have at most 4 MiB.
const LARGEST: usize = 4 * 1024;

/// The newest messages. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SharedEvents {
    /// By revision, modulo their number.
    kept: Arc<[Mutex<Option<Kept>>]>,
}

struct Kept {
    revision: u64,
    message: Encoded,
}

impl SharedEvents {
    pub(crate) fn new() -> Self {
        Self {
            kept: (0..KEPT).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// The message that delivers an event: a `SubscribeResponse`, and at the same time a `WatchResponse`.
    pub(crate) fn message(&self, cluster: ClusterId, event: &Event) -> Encoded {
        let at = event.revision % KEPT as u64;
        let Some(place) = usize::try_from(at).ok().and_then(|at| self.kept.get(at)) else {
            return encode(cluster, event);
        };
        // Others who want the same wait here, instead of making it too.
        let mut kept = place.lock();
        if let Some(same) = kept.as_ref().filter(|kept| kept.revision == event.revision) {
            return same.message.clone();
        }
        let message = encode(cluster, event);
        let newer = kept.as_ref().is_none_or(|kept| kept.revision < event.revision);
        if newer && message.len() <= LARGEST {
            *kept = Some(Kept {
                revision: event.revision,
                message: message.clone(),
            });
        }
        message
    }
}

fn encode(cluster: ClusterId, event: &Event) -> Encoded {
    Encoded::new(&v1::SubscribeResponse {
        cursor: cursor::encode(cluster, event.revision),
        message: Some(Message::Event(event.into())),
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use brama_core::event::{Cause, EventKind};
    use brama_core::time::ClusterTime;

    use super::*;

    const CLUSTER: ClusterId = ClusterId(7);

    fn event(revision: u64, reason: &str) -> Event {
        Event {
            revision,
            time: ClusterTime::from_micros(revision),
            name: None,
            kind: EventKind::Failure,
            previous_state: None,
            new_state: None,
            failure_count: 3,
            cause: Cause::Request,
            reason: Some(reason.into()),
            metadata: Arc::default(),
            generation: 1,
            count: 1,
            expires_at: None,
            permit: None,
            openings_in_a_row: 0,
        }
    }

    #[test]
    fn each_event_has_its_own_message_whatever_is_kept() {
        let shared = SharedEvents::new();
        let long = "x".repeat(1000).repeat(5);
        // Forwards, again, and back in time over places that newer ones have taken.
        let revisions = (1..3000).chain(2900..3000).chain(1..50);
        for revision in revisions {
            let reason = if revision % 7 == 0 { &long } else { "short" };
            let event = event(revision, reason);
            let message = shared.message(CLUSTER, &event);
            assert_eq!(message, encode(CLUSTER, &event), "revision {revision}");
        }
    }

    #[test]
    fn the_message_is_one_of_subscribe_and_of_watch() {
        let message = SharedEvents::new().message(CLUSTER, &event(12, "why"));
        let subscribed = v1::SubscribeResponse::decode(message.as_bytes()).unwrap();
        let watched = v1::WatchResponse::decode(message.as_bytes()).unwrap();
        let Some(Message::Event(event)) = subscribed.message else {
            panic!("{subscribed:?}")
        };
        assert_eq!((event.revision, event.reason.as_deref()), (12, Some("why")));
        assert_eq!(watched.message, Some(v1::watch_response::Message::Event(event)));
        assert_eq!(watched.cursor, subscribed.cursor);
    }
}
