//! Programs without tokio: the facade whose calls wait, and functions behind a circuit that are not async.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use brama_client::testing::FakeCluster;
use brama_client::{CallError, Client, Expiry, Mode, NotMade, Policy, StateName, blocking, circuit_breaker};

/// A fake cluster that runs elsewhere, and this thread, which has no runtime.
struct Elsewhere {
    runtime: tokio::runtime::Runtime,
    cluster: FakeCluster,
}

impl Elsewhere {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let cluster = runtime.block_on(FakeCluster::start()).unwrap();
        Self { runtime, cluster }
    }

    fn client(&self) -> blocking::Client {
        let settings = Client::builder().endpoints([self.cluster.address()]);
        blocking::Client::connect(settings).unwrap()
    }

    fn advance(&self, by: Duration) {
        self.runtime.block_on(self.cluster.advance(by));
    }
}

fn twice() -> Policy {
    Policy {
        max_attempts: Some(2),
        expiry: Some(Expiry::Ms(60_000)),
        ..Policy::default()
    }
}

fn soon(what: &str, done: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(10), "not soon: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn calls_wait_and_count() {
    let elsewhere = Elsewhere::start();
    let client = elsewhere.client();
    let circuit = client.circuit("payment_api").scope("blocking");
    assert!(circuit.register_with(twice()).unwrap().created);
    assert_eq!(circuit.call(|| Ok::<_, String>(7)).unwrap(), 7);
    for _ in 0..2 {
        let failed = circuit.call(|| Err::<u32, _>("boom".to_owned()));
        assert!(matches!(failed, Err(CallError::Inner(error)) if error == "boom"));
    }
    client.flush().unwrap();
    let rejected = circuit.call(|| -> Result<u32, String> { panic!("it is not made") });
    assert!(
        matches!(
            rejected,
            Err(CallError::Rejected {
                state: StateName::Open,
                ..
            })
        ),
        "{rejected:?}"
    );
    elsewhere.advance(Duration::from_secs(61));
    soon("it may be probed", || {
        circuit.try_acquire().is_ok_and(|permit| {
            permit.success();
            true
        })
    });
    client.flush().unwrap();
    assert_eq!(circuit.status().unwrap().state, StateName::Closed);
    assert_eq!(client.health().mode, Mode::Connected);
    assert_eq!(client.report_stats().waiting, 0);
    assert!(client.close());
}

#[derive(Debug)]
enum Failed {
    NotMade(NotMade),
    Itself,
}

impl From<NotMade> for Failed {
    fn from(not_made: NotMade) -> Self {
        Self::NotMade(not_made)
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

struct Bank {
    works: bool,
}

impl Bank {
    #[circuit_breaker("bank", policy = twice())]
    fn balance(&mut self, account: u32) -> Result<u32, Failed> {
        if !self.works {
            return Err(Failed::Itself);
        }
        Ok(account * 10)
    }

    #[circuit_breaker("bank", policy = twice(), fallback = Self::guess)]
    fn balance_or_guess<'a>(&self, _account: u32, currency: &'a str) -> Result<(u32, &'a str), Failed> {
        Ok((1, currency))
    }

    fn guess<'a>(&self, account: u32, currency: &'a str, why: NotMade) -> Result<(u32, &'a str), Failed> {
        assert!(why.is_rejected());
        Ok((account, currency))
    }
}

/// One test: the client is the process's.
#[test]
fn functions_that_are_not_async_use_the_client_of_the_process() {
    let mut bank = Bank { works: true };
    let none = bank.balance(1);
    assert!(
        matches!(
            none,
            Err(Failed::NotMade(CallError::Cluster(brama_client::Error::NoClient)))
        ),
        "{none:?}"
    );

    let elsewhere = Elsewhere::start();
    let client = elsewhere.client();
    brama_client::install(client.clone());
    // The first call registers the circuit.
    assert_eq!(bank.balance(4).unwrap(), 40);
    assert_eq!(bank.balance_or_guess(4, "PLN").unwrap(), (1, "PLN"));
    bank.works = false;
    for _ in 0..2 {
        assert!(matches!(bank.balance(4), Err(Failed::Itself)));
    }
    client.flush().unwrap();
    bank.works = true;
    let rejected = bank.balance(4);
    assert!(
        matches!(rejected, Err(Failed::NotMade(CallError::Rejected { .. }))),
        "{rejected:?}"
    );
    assert_eq!(bank.balance_or_guess(9, "PLN").unwrap(), (9, "PLN"));

    elsewhere.advance(Duration::from_secs(61));
    soon("half-open: the cluster gives a permit, and it closes", || {
        Bank { works: true }.balance(5).is_ok()
    });
    client.flush().unwrap();
    // From inside of a runtime of one thread, too: the client has a thread of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        assert_eq!(Bank { works: true }.balance(6).unwrap(), 60);
    });
    assert_eq!(client.circuit("bank").status().unwrap().state, StateName::Closed);

    // Somebody has unregistered it: then it is not registered again.
    elsewhere.runtime.block_on(async {
        let operator = elsewhere.cluster.client().unwrap();
        operator.circuit("bank").unregister(None).await.unwrap();
        elsewhere.cluster.settle().await;
    });
    soon("it is known to be gone", || {
        matches!(
            Bank { works: true }.balance(7),
            Err(Failed::NotMade(CallError::Cluster(
                brama_client::Error::NotFound { .. }
            )))
        )
    });
}
