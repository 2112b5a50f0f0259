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

/// So many of the newest messages are kept, of at most so many bytes: all of a table have at most 4 MiB. Whoever reads further back shares
/// nothing, and then costs several times as much: a crowd that falls behind the tables on a busy circuit does not catch up any more
/// (`brama-bench run fanout:100x25000`, with tables an eighth as long).
const TABLES: [(usize, usize); 2] = [(8 * 1024, 512), (1024, 4 * 1024)];

/// The newest messages. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SharedEvents {
    tables: Arc<[Table; TABLES.len()]>,
}

/// By revision, modulo their number.
type Table = Box<[Mutex<Option<Kept>>]>;

struct Kept {
    revision: u64,
    message: Encoded,
}

impl SharedEvents {
    pub(crate) fn new() -> Self {
        Self {
            tables: Arc::new(TABLES.map(|(number, _)| (0..number).map(|_| Mutex::new(None)).collect())),
        }
    }

    /// The message that delivers an event: a `SubscribeResponse`, and at the same time a `WatchResponse`.
    pub(crate) fn message(&self, cluster: ClusterId, event: &Event) -> Encoded {
        // Others who want the same wait here, instead of making it too.
        let [mut small, mut large] = [None, None];
        for (place, table) in [&mut small, &mut large].into_iter().zip(&*self.tables) {
            let at = event.revision % table.len() as u64;
            let kept = table[usize::try_from(at).unwrap_or(0)].lock();
            if let Some(same) = kept.as_ref().filter(|kept| kept.revision == event.revision) {
                return same.message.clone();
            }
            *place = Some(kept);
        }
        let message = encode(cluster, event);
        let fitting = [small, large].into_iter().zip(TABLES);
        let mut fitting = fitting.filter(|(_, (_, bytes))| message.len() <= *bytes);
        if let Some(mut place) = fitting.next().and_then(|(place, _)| place)
            && place.as_ref().is_none_or(|kept| kept.revision < event.revision)
        {
            *place = Some(Kept {
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

    use brama_core::SharedMetadata;
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
            metadata: SharedMetadata::default(),
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
        let revisions = (1..20_000).chain(19_900..20_000).chain(1..50);
        for revision in revisions {
            let reason = match revision % 7 {
                0 => &long,
                1 | 2 => &long[..1000],
                _ => "short",
            };
            let event = event(revision, reason);
            let message = shared.message(CLUSTER, &event);
            assert_eq!(message, encode(CLUSTER, &event), "revision {revision}");
        }
    }

    #[test]
    fn those_who_are_behind_get_the_same_bytes_and_not_only_equal_ones() {
        for (number, bytes) in TABLES {
            let shared = SharedEvents::new();
            let reason = "x".repeat(bytes - 300);
            let newest = number as u64;
            let message = |revision| shared.message(CLUSTER, &event(revision, &reason));
            let first: Vec<_> = (1..=newest).map(message).collect();
            for (made, revision) in first.iter().zip(1..) {
                let again = message(revision);
                assert_eq!(again.as_bytes().as_ptr(), made.as_bytes().as_ptr(), "{revision}");
            }
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
