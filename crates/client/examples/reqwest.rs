//! A circuit as a middleware of `reqwest`: `brama dev` in one terminal, this in another
//! (`cargo run -p brama-client --example reqwest http://127.0.0.1:7401/readyz`).

use brama_client::{Circuit, Classified, Client, HttpStatus, Policy};
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, Error, Middleware, Next, Result};

/// Lets requests through a circuit.
struct Guard(Circuit);

#[tonic::async_trait]
impl Middleware for Guard {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut http::Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let permit = self.0.try_acquire().await.map_err(Error::middleware)?;
        let result = next.run(request, extensions).await;
        permit.complete(match &result {
            Ok(response) => HttpStatus::of(response.status()),
            Err(error) => Classified::Failure(error.to_string()),
        });
        result
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:7401/readyz".to_owned());
    let client = Client::builder()
        .endpoints(["127.0.0.1:7401", "127.0.0.1:7402"])
        .connect()
        .await?;
    let circuit = client.circuit("upstream").scope("reqwest");
    circuit.register_with(Policy::default()).await?;
    let web = ClientBuilder::new(reqwest::Client::new())
        .with(Guard(circuit))
        .build();
    for _ in 0..10 {
        match web.get(&url).send().await {
            Ok(response) => println!("{}", response.status()),
            Err(error) => println!("{error}"),
        }
    }
    client.close().await;
    Ok(())
}
