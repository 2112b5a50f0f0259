//! This replica's own breaker, for as long as the cluster is out of reach.
//!
//! It is the breaker of the cluster itself, [`Machine`], with one circuit in it: the same policy, the same rules, the same permits for probes. Only
//! its time is this process's monotonic clock, and its state begins as the one that was told last.

use std::sync::Arc;
use std::time::Instant;

use brama_core::circuit::StateName;
use brama_core::command::{
    Batch, Bootstrap, ClusterId, Command, IfExists, PermitId, Register, ReportBatch, ReportItem,
};
use brama_core::limits::Limits;
use brama_core::policy::{EffectivePolicy, Expiry, GlobalOptions, Policy};
use brama_core::reply::{Admission, ItemReply, Reply};
use brama_core::report::{Outcome, Summary};
use brama_core::{CircuitName, ClusterTime, Machine, Metadata};

use super::view::View;

/// Which leader's timers fire: there is one only.
const TERM: u64 = 1;
/// Openings in a row that are played back: more no longer change how long the next one is, in practice.
const MAX_OPENINGS: u32 = 16;
/// Nobody reads its events.
const LIMITS: Limits = Limits {
    max_circuits: 1,
    max_sessions: 0,
    max_events: 8,
    max_event_bytes: 64 * 1024,
};

/// A breaker of one circuit that shares its state with nobody.
#[derive(Debug)]
pub(crate) struct Breaker {
    machine: Machine,
    name: CircuitName,
    began: Instant,
    /// Time of the machine when it began.
    base: ClusterTime,
    /// Closed, and without failures: successes change nothing.
    calm: bool,
}

/// What an outcome did to the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    Opened,
    /// Probes have shown that the dependency works again.
    Closed,
}

impl Breaker {
    /// A breaker that goes on from `view`.
    pub(crate) fn new(name: &CircuitName, view: &View) -> Self {
        let mut breaker = Self {
            machine: Machine::new(),
            name: name.clone(),
            began: Instant::now(),
            base: ClusterTime::from_micros(1),
            calm: false,
        };
        breaker.apply(Command::Bootstrap(Bootstrap {
            cluster_id: ClusterId(0),
            defaults: Policy::default(),
            global_defaults: GlobalOptions::default(),
            limits: LIMITS,
        }));
        breaker.apply(Command::Register(Register {
            name: name.clone(),
            policy: as_own(&view.policy),
            metadata: Metadata::new(),
            if_exists: IfExists::Keep,
        }));
        breaker.go_on_from(view);
        breaker.look();
        breaker
    }

    fn go_on_from(&mut self, view: &View) {
        let below_threshold = view.failure_count.min(view.policy.max_attempts.saturating_sub(1));
        if view.state == Some(StateName::Closed) && below_threshold > 0 {
            let failures = std::iter::repeat_n(Outcome::Failure, below_threshold as usize);
            self.count(Summary::of_all(failures), None, None, None);
        }
        let openings = match view.state {
            Some(StateName::Open) => view.openings_in_a_row.saturating_sub(1),
            Some(StateName::HalfOpen) => view.openings_in_a_row.max(1),
            Some(StateName::Closed) | None => 0,
        };
        for _ in 0..openings.min(MAX_OPENINGS) {
            self.open(Some(Expiry::Ms(1)), view.reason.clone());
            self.base = self.base.plus_ms(1);
            self.fire();
        }
        if view.state == Some(StateName::Open) {
            let left = view.ends.map(|ends| ends.saturating_duration_since(self.began));
            let expiry = left.map_or(Expiry::Never, |left| {
                Expiry::Ms(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1))
            });
            self.open(Some(expiry), view.reason.clone());
        }
    }

    /// Whether a call may be made; in half-open under a permit of its own.
    pub(crate) fn acquire(&mut self) -> Option<Admission> {
        if self.calm {
            return Some(Admission {
                admitted: true,
                state: StateName::Closed,
                generation: self.generation(),
                permit: None,
                retry_after_ms: None,
                reason: None,
                opened_at: None,
            });
        }
        self.fire();
        let permit = PermitId(rand::random());
        let name = self.name.clone();
        match self.apply(Command::Acquire { name, permit }) {
            Some(Reply::Admission(admission)) => Some(admission),
            _ => None,
        }
    }

    /// Counts what came of a call that [`Breaker::acquire`] let pass.
    pub(crate) fn report(
        &mut self,
        outcome: Outcome,
        generation: u64,
        permit: Option<PermitId>,
        reason: Option<Arc<str>>,
    ) -> Effect {
        if self.calm && outcome != Outcome::Failure && permit.is_none() {
            return Effect::Nothing;
        }
        self.fire();
        let before = self.state();
        self.count(Summary::of(outcome), Some(generation), permit, reason);
        self.look();
        match (before, self.state()) {
            (StateName::Closed | StateName::HalfOpen, StateName::Open) => Effect::Opened,
            (StateName::HalfOpen, StateName::Closed) => Effect::Closed,
            _ => Effect::Nothing,
        }
    }

    pub(crate) fn state(&self) -> StateName {
        self.machine
            .available(&self.name, self.now())
            .map_or(StateName::Closed, |circuit| circuit.state)
    }

    fn generation(&self) -> u64 {
        self.machine
            .available(&self.name, self.now())
            .map_or(0, |circuit| circuit.generation)
    }

    fn look(&mut self) {
        let status = self.machine.status(&self.name);
        self.calm =
            status.is_some_and(|circuit| circuit.state == StateName::Closed && circuit.failure_count == 0);
    }

    fn now(&self) -> ClusterTime {
        let passed = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        ClusterTime::from_micros(self.base.as_micros().saturating_add(passed))
    }

    fn open(&mut self, expiry: Option<Expiry>, reason: Option<Arc<str>>) {
        let name = self.name.clone();
        self.apply(Command::Open { name, expiry, reason });
    }

    fn count(
        &mut self,
        summary: Summary,
        generation: Option<u64>,
        permit: Option<PermitId>,
        reason: Option<Arc<str>>,
    ) -> Option<ItemReply> {
        let item = ReportItem {
            name: self.name.clone(),
            generation,
            permit,
            summary,
            reason,
            metadata: Metadata::new(),
        };
        let batch = ReportBatch {
            session: None,
            items: vec![item],
        };
        match self.apply(Command::Report(batch)) {
            Some(Reply::Reported(reply)) => reply.items.first().copied(),
            _ => None,
        }
    }

    /// Does what is due.
    fn fire(&mut self) {
        // An opening that ended may have permits that ended since, and no more.
        for _ in 0..2 {
            let due = self.machine.due(self.now(), 16);
            // Sweeps are always due sooner or later, and there is nothing to sweep.
            if due.is_empty() || self.machine.next_due().is_none_or(|at| at > self.now()) {
                return;
            }
            self.apply(Command::Fire { term: TERM, due });
        }
    }

    fn apply(&mut self, command: Command) -> Option<Reply> {
        let batch = Batch {
            time: self.now(),
            commands: vec![command],
        };
        let answer = self.machine.apply(TERM, &batch).pop()?;
        answer
            .inspect_err(|refusal| tracing::error!(%refusal, name = %self.name, "the own breaker refused"))
            .ok()
    }
}

/// Every option set on the circuit itself: nothing is there to inherit from.
fn as_own(policy: &EffectivePolicy) -> Policy {
    Policy {
        max_attempts: Some(policy.max_attempts),
        expiry: Some(policy.expiry),
        expiry_strategy: Some(policy.expiry_strategy),
        initial_expiry_ms: policy.initial_expiry_ms,
        max_expiry_ms: policy.max_expiry_ms,
        backoff_factor: Some(policy.backoff_factor),
        half_open_max_probes: Some(policy.half_open_max_probes),
        half_open_successes: Some(policy.half_open_successes),
        probe_timeout_ms: Some(policy.probe_timeout_ms),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn view(state: StateName, policy: EffectivePolicy) -> View {
        View {
            state: Some(state),
            generation: 7,
            policy: Arc::new(policy),
            ..View::unknown()
        }
    }

    fn quick() -> EffectivePolicy {
        EffectivePolicy {
            max_attempts: 3,
            expiry: Expiry::Ms(40),
            initial_expiry_ms: Some(40),
            max_expiry_ms: Some(400),
            ..EffectivePolicy::default()
        }
    }

    fn breaker(view: &View) -> Breaker {
        Breaker::new(&CircuitName::new(None, "alone").unwrap(), view)
    }

    #[test]
    fn it_goes_on_where_the_cluster_was_and_heals_by_its_own_clock() {
        let closed = View {
            failure_count: 2,
            ..view(StateName::Closed, quick())
        };
        let mut own = breaker(&closed);
        let call = own.acquire().unwrap();
        assert!(call.admitted);
        let effect = own.report(Outcome::Failure, call.generation, None, Some("boom".into()));
        assert_eq!((effect, own.state()), (Effect::Opened, StateName::Open));
        let rejected = own.acquire().unwrap();
        assert_eq!(
            (rejected.admitted, rejected.reason.as_deref()),
            (false, Some("boom"))
        );

        std::thread::sleep(Duration::from_millis(50));
        let probe = own.acquire().unwrap();
        assert!(probe.admitted && probe.permit.is_some());
        assert!(!own.acquire().unwrap().admitted, "one probe at once");
        // A late answer from before decides nothing.
        assert_eq!(
            own.report(Outcome::Success, call.generation, None, None),
            Effect::Nothing
        );
        let permit = probe.permit.map(|(id, _)| id);
        let effect = own.report(Outcome::Success, probe.generation, permit, None);
        assert_eq!((effect, own.state()), (Effect::Closed, StateName::Closed));
        assert!(own.calm);
    }

    #[test]
    fn an_opening_lasts_what_was_left_of_it() {
        let open = View {
            openings_in_a_row: 1,
            ends: Some(Instant::now() + Duration::from_millis(60)),
            reason: Some("since long".into()),
            ..view(StateName::Open, quick())
        };
        let mut own = breaker(&open);
        let rejected = own.acquire().unwrap();
        assert_eq!(rejected.reason.as_deref(), Some("since long"));
        assert!(rejected.retry_after_ms.unwrap() <= 60);
        std::thread::sleep(Duration::from_millis(70));
        assert!(own.acquire().unwrap().admitted);

        let for_ever = View {
            ends: None,
            ..view(StateName::Open, quick())
        };
        let rejected = breaker(&for_ever).acquire().unwrap();
        assert_eq!((rejected.admitted, rejected.retry_after_ms), (false, None));

        let half_open = View {
            openings_in_a_row: 3,
            ..view(StateName::HalfOpen, quick())
        };
        let probe = breaker(&half_open).acquire().unwrap();
        assert!(probe.admitted && probe.permit.is_some());
    }

    #[test]
    fn calm_successes_cost_nothing_and_an_unknown_circuit_has_the_built_in_policy() {
        let mut own = breaker(&View::unknown());
        for _ in 0..1000 {
            let call = own.acquire().unwrap();
            own.report(Outcome::Success, call.generation, None, None);
        }
        assert_eq!(own.machine.revision(), 1, "only its registration");
        for _ in 0..5 {
            let call = own.acquire().unwrap();
            own.report(Outcome::Failure, call.generation, None, None);
        }
        assert_eq!(own.state(), StateName::Open);
    }
}
