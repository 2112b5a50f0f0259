//! Register, call, wrap, share sessions, subscribe: `brama dev` in one terminal, this in another
//! (`cargo run -p brama-client --example quickstart [ENDPOINT..]`). It is the program that docs/client.md takes apart; a test (tests/guide.rs) holds
//! the two together.

use std::error::Error;
use std::time::Duration;

use brama_client::{
    CallError, Classified, Client, ClientEvent, Decision, Expiry, From, Item, NotMade, OnUnreachable,
    Outcome, Policy, ReportError, Subscription, WatchItem, circuit_breaker,
};
use futures::StreamExt;
use tower::ServiceExt;

/// Stands for the call of a dependency.
async fn charge(amount: u32) -> Result<&'static str, String> {
    match amount {
        0 => Err("400 nothing to pay".to_owned()),
        1..100 => Ok("receipt"),
        _ => Err("503 bank is closed".to_owned()),
    }
}

/// A wrong request says nothing of the bank.
fn of_the_bank(error: &str) -> Classified {
    if error.starts_with('4') {
        Classified::Ignore
    } else {
        Classified::Failure(error.to_owned())
    }
}

#[circuit_breaker("payment_api", scope = "quickstart", on_error = of_the_bank, fallback = pay_later)]
async fn pay(amount: u32) -> Result<&'static str, String> {
    charge(amount).await
}

async fn pay_later(amount: u32, why: NotMade) -> Result<&'static str, String> {
    println!("{amount} is to be paid later: {why}");
    Ok("IOU")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut endpoints: Vec<String> = std::env::args().skip(1).collect();
    if endpoints.is_empty() {
        endpoints = ["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]
            .map(str::to_owned)
            .to_vec();
    }
    let client = Client::builder()
        .endpoints(endpoints)
        .timeout(Duration::from_secs(3))
        .on_unreachable(OnUnreachable::LocalBreaker)
        .connect()
        .await?;
    let payments = client.circuit("payment_api").scope("quickstart");

    // Every replica does this when it starts; the first one makes the circuit, the others find it.
    let policy = Policy {
        max_attempts: Some(2),
        expiry: Some(Expiry::Ms(500)),
        ..Policy::default()
    };
    let registered = payments.register_with(policy).await?;
    println!(
        "registered: {}, created now: {}",
        registered.circuit.state.name(),
        registered.created
    );

    // From here on, all that happens to it.
    let mut events = client
        .subscribe(
            Subscription::new()
                .circuit(payments.name().clone())
                .event("state_change")
                .filter_with(|event| event.generation > 0)
                .from(From::Now),
        )
        .await?;

    // Whether the cluster is in reach, and when it is not.
    let mut health = client.health_events();
    tokio::spawn(async move {
        while let Some(change) = health.next().await {
            println!("the cluster: {change:?}");
        }
    });
    println!("now: {:?}", client.health());

    // Decides, calls, counts.
    match payments.call(charge(10)).await {
        Ok(receipt) => println!("paid: {receipt}"),
        // It was made, and this is its error.
        Err(CallError::Inner(error)) => println!("the bank said: {error}"),
        // It was not made: the circuit is open, or half-open with all probes out.
        Err(CallError::Rejected { retry_after, .. }) => println!("not tried, again in {retry_after:?}"),
        // It was not made: nobody could say whether to.
        Err(CallError::Cluster(error)) => println!("could not ask whether to call: {error}"),
    }

    // A wrong request is nobody's failure.
    let classify = |result: &Result<&str, String>| match result {
        Ok(_) => Classified::Success,
        Err(error) if error.starts_with('4') => Classified::Ignore,
        Err(error) => Classified::Failure(error.clone()),
    };
    for amount in [0, 500, 500, 20] {
        match payments.call_with(charge(amount), classify).await {
            Ok(receipt) => println!("{amount}: paid, {receipt}"),
            Err(error) => println!("{amount}: {error}"),
        }
        // Outcomes are told in the background; waiting for it makes this program tell the same story each time.
        client.flush().await?;
    }

    // The parts of it, for calls that have another shape.
    match payments.try_acquire().await {
        Ok(permit) => match charge(30).await {
            Ok(_) => permit.success(),
            Err(reason) => permit.failure(reason),
        },
        Err(error) => println!("by hand: {error}"),
    }
    if let Decision::Pass(permit) = payments.decide() {
        permit.ignore();
    }

    // A tower service behind the circuit.
    let service = payments.wrap(tower::service_fn(charge));
    match service.oneshot(40).await {
        Ok(receipt) => println!("by a service: {receipt}"),
        Err(error) => println!("by a service: {error}"),
    }

    // A function behind the circuit uses the client of the process.
    brama_client::install(client.clone());
    println!("by a function: {:?}", pay(50).await);

    let mut cursor = None;
    for _ in 0..2 {
        if let Some(ClientEvent::Event { event, cursor: after }) = events.next().await.transpose()? {
            println!("event {}: {}", event.revision, event.kind.name());
            cursor = Some(after);
        }
    }
    println!("to go on from there, in another process, at another node: {cursor:?}");

    // Outcomes that were counted elsewhere, exactly once each.
    let mut session = client.session();
    let outcomes = vec![Item::of(payments.name().clone(), Outcome::Success)];
    match session.report(outcomes).await {
        Ok(reply) => println!("counted: {:?}", reply.items),
        Err(ReportError::Pending(error)) => {
            println!("still to be acknowledged, sent again with the next batch: {error}")
        }
        Err(error) => println!("not counted: {error}"),
    }

    // A picture, and what changes it.
    let mut watch = client.watch([payments.name().clone()]).await?;
    if let Some(WatchItem::Snapshot { circuits, revision }) = watch.next().await.transpose()? {
        println!(
            "at revision {revision}: {} is {}",
            circuits[0].name,
            circuits[0].state.name()
        );
    }

    payments.unregister(Some("the example is over")).await?;
    println!("all reports sent: {}", client.close().await);
    Ok(())
}
