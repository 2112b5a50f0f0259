//! Registering, configuring, and acting by hand: each is asked for once.

use std::time::Duration;

use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use rand::Rng;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::{BETWEEN_ATTEMPTS, Client, LABEL_KEY, ONCE, PATIENCE, is_mortal, is_quiet};
use crate::circuits::{CircuitIndex, expiry, random_options};
use crate::history::{Action, Answer};
use crate::rpc::{Failure, timed};
use crate::rules::{OptionName, Options};

impl Client {
    /// Registers every circuit, and insists.
    ///
    /// # Errors
    /// The last failure, when one of them is not acknowledged for a long time.
    pub async fn register_all(&mut self) -> Result<(), Failure> {
        for circuit in 0..self.circuits.len() {
            let deadline = Instant::now() + PATIENCE;
            while let Err(failure) = self.register_as_specified(circuit).await {
                if Instant::now() > deadline {
                    return Err(failure);
                }
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
        }
        Ok(())
    }

    /// Registers what is there, mostly: then it is kept, or gets another policy.
    pub(super) async fn register(&mut self, circuit: CircuitIndex) {
        // What came of it is in the history.
        let _ = if is_quiet(circuit) || self.rng.random_bool(0.6) {
            self.register_as_specified(circuit).await
        } else {
            let policy = random_options(&mut self.rng);
            let update = self.rng.random_bool(0.5);
            self.register_with(circuit, policy, update).await
        };
    }

    async fn register_as_specified(&mut self, circuit: CircuitIndex) -> Result<(), Failure> {
        let policy = Options::of(&self.circuits.get(circuit).policy);
        self.register_with(circuit, policy, false).await
    }

    async fn register_with(
        &mut self,
        circuit: CircuitIndex,
        policy: Options,
        update: bool,
    ) -> Result<(), Failure> {
        let label = self.reason("register");
        let if_exists = if update {
            v1::IfExists::Update
        } else {
            v1::IfExists::Keep
        };
        let request = v1::RegisterRequest {
            name: self.name(circuit),
            policy: Some(policy.wire()),
            if_exists: if_exists.into(),
            metadata: [(LABEL_KEY.to_owned(), label.clone())].into(),
        };
        let action = Action::Register {
            circuit,
            label,
            policy,
            update,
        };
        self.once(
            action,
            |mut client| async move { client.register(timed(request, ONCE)).await },
            Answer::registered,
        )
        .await
        .map(|_| ())
    }

    /// Only of circuits that are meant for it; others are registered.
    pub(super) async fn unregister_and_register(&mut self, circuit: CircuitIndex) {
        if !is_mortal(circuit) {
            return self.register(circuit).await;
        }
        let reason = self.reason("unregister");
        let request = v1::UnregisterRequest {
            name: self.name(circuit),
            reason: Some(reason.clone()),
        };
        let gone = self
            .once(
                Action::Unregister { circuit, reason },
                |mut client| async move { client.unregister(timed(request, ONCE)).await },
                |response| Answer::Unregistered {
                    existed: response.existed,
                    at: response.header.as_ref().map_or(0, |header| header.revision),
                },
            )
            .await;
        // Somebody registers it sooner or later; mostly this client, soon.
        if gone.is_ok() && self.rng.random_bool(0.8) {
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..60))).await;
            self.register(circuit).await;
        }
    }

    pub(super) async fn configure(&mut self, circuit: CircuitIndex) {
        // A quiet one keeps its policy, so that probes run out as they did.
        let circuit = if is_quiet(circuit) { circuit + 1 } else { circuit };
        let circuit = circuit.min(self.works_on - 1);
        let (set, clear) = if self.rng.random_bool(0.3) {
            let option = OptionName::ALL[self.rng.random_range(0..OptionName::ALL.len())];
            (Options::default(), vec![option])
        } else {
            (self.some_options(), Vec::new())
        };
        self.configure_with(Some(circuit), set, clear).await;
    }

    pub(super) async fn configure_all(&mut self) {
        let set = Options {
            max_attempts: self.rng.random_bool(0.5).then(|| self.rng.random_range(2..=6)),
            successes: self.rng.random_bool(0.5).then(|| self.rng.random_range(1..=3)),
            probes: self.rng.random_bool(0.5).then(|| self.rng.random_range(1..=3)),
            ..Options::default()
        };
        let is_set = |option: &OptionName| match option {
            OptionName::MaxAttempts => set.max_attempts.is_some(),
            OptionName::Probes => set.probes.is_some(),
            OptionName::Successes => set.successes.is_some(),
        };
        let clear = OptionName::ALL.into_iter().filter(|option| !is_set(option));
        let clear = clear.collect();
        self.configure_with(None, set, clear).await;
    }

    /// One part of a policy.
    fn some_options(&mut self) -> Options {
        let all = random_options(&mut self.rng);
        match self.rng.random_range(0..3) {
            0 => Options {
                max_attempts: all.max_attempts,
                successes: all.successes,
                ..Options::default()
            },
            1 => Options {
                probes: all.probes,
                probe_timeout_ms: all.probe_timeout_ms,
                ..Options::default()
            },
            _ => Options {
                max_attempts: None,
                successes: None,
                probes: None,
                probe_timeout_ms: None,
                // Back to openings of one length, should they have grown.
                progressive: Some(all.progressive.unwrap_or(false)),
                ..all
            },
        }
    }

    async fn configure_with(&mut self, circuit: Option<CircuitIndex>, set: Options, clear: Vec<OptionName>) {
        let request = v1::ConfigureRequest {
            name: circuit.and_then(|circuit| self.name(circuit)),
            policy: Some(set.wire()),
            clear: clear.iter().map(|option| option.name().to_owned()).collect(),
            global: None,
        };
        let action = Action::Configure { circuit, set, clear };
        // What came of it is in the history.
        let _ = self
            .once(
                action,
                |mut client| async move { client.configure(timed(request, ONCE)).await },
                |response| Answer::Configured {
                    changed: response.changed,
                    rules: crate::rules::Rules::shown(&response.policy.clone().unwrap_or_default()),
                    at: response.header.as_ref().map_or(0, |header| header.revision),
                },
            )
            .await;
    }

    pub(super) async fn open(&mut self, circuit: CircuitIndex) {
        let expiry_ms = self
            .rng
            .random_bool(0.7)
            .then(|| self.rng.random_range(100..1500));
        let reason = self.reason("open");
        let request = v1::OpenCircuitRequest {
            name: self.name(circuit),
            expiry: expiry_ms.map(expiry),
            reason: Some(reason.clone()),
        };
        let action = Action::Open {
            circuit,
            expiry_ms,
            reason,
        };
        self.by_hand(action, |mut client| async move {
            client.open_circuit(timed(request, ONCE)).await
        })
        .await;
    }

    pub(super) async fn close(&mut self, circuit: CircuitIndex) {
        let reason = self.reason("close");
        let request = v1::CloseCircuitRequest {
            name: self.name(circuit),
            reason: Some(reason.clone()),
        };
        self.by_hand(Action::Close { circuit, reason }, |mut client| async move {
            client.close_circuit(timed(request, ONCE)).await
        })
        .await;
    }

    pub(super) async fn reset(&mut self, circuit: CircuitIndex) {
        let reason = self.reason("reset");
        let request = v1::ResetCircuitRequest {
            name: self.name(circuit),
            reason: Some(reason.clone()),
        };
        self.by_hand(Action::Reset { circuit, reason }, |mut client| async move {
            client.reset_circuit(timed(request, ONCE)).await
        })
        .await;
    }

    /// An act by hand is asked for once: nothing would tell a second one from the first.
    async fn by_hand<Fut>(&mut self, action: Action, act: impl FnOnce(CircuitsClient<Channel>) -> Fut)
    where
        Fut: Future<Output = Result<Response<v1::ManualResponse>, Status>>,
    {
        // What came of it is in the history.
        let _ = self.once(action, act, Answer::changed).await;
    }
}
