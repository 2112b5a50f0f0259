//! One copy of policies that many circuits have.

use std::sync::Arc;

use crate::policy::Policy;

/// Policies that are kept to be shared. Circuits with others have a copy each, which is only larger.
const KEPT: usize = 64;

/// The policies that circuits were given last. Derived from the state: which of them share one copy changes nothing.
///
/// A fleet registers its circuits from a few templates: a copy for each of a hundred thousand takes 15 MiB, and each report would fetch one from far
/// memory.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    known: Vec<Arc<Policy>>,
    /// Which one goes next.
    next: usize,
}

impl Policies {
    /// A policy as a circuit keeps it: `None` when nothing is set.
    pub(crate) fn share(&mut self, policy: &Policy) -> Option<Arc<Policy>> {
        if policy.is_empty() {
            return None;
        }
        if let Some(known) = self.known.iter().find(|known| ***known == *policy) {
            return Some(known.clone());
        }
        let new = Arc::new(policy.clone());
        if self.known.len() < KEPT {
            self.known.push(new.clone());
        } else {
            self.known[self.next] = new.clone();
            self.next = (self.next + 1) % KEPT;
        }
        Some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(max_attempts: u32) -> Policy {
        Policy {
            max_attempts: Some(max_attempts),
            ..Policy::default()
        }
    }

    #[test]
    fn equal_policies_are_one_and_it_keeps_few() {
        let mut policies = Policies::default();
        assert_eq!(policies.share(&Policy::default()), None);
        let first = policies.share(&policy(1)).expect("it sets something");
        assert!(Arc::ptr_eq(
            &first,
            &policies.share(&policy(1)).expect("the same")
        ));
        for n in 2..1000 {
            assert_eq!(policies.share(&policy(n)).as_deref(), Some(&policy(n)));
        }
        assert!(policies.known.len() <= KEPT);
    }
}
